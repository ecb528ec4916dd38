"""What the doctor finds in images that are made to harm it: it takes little time and memory, and reads what decodes."""

import io
import os
import resource
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data_sets import encoded, noise_picture

from stylegan_ray.data import decode
from stylegan_ray.data.doctor import examiner
from stylegan_ray.data.doctor.traits import TRAITS
from stylegan_ray.data.formats.protocol import EncodedInspector, StoredImage


class Contents:
    """A source of image files in memory."""

    def __init__(self, *contents):
        self.contents = contents

    def read(self, entry, at_least=None):
        return self.contents[entry]


def examined(content):
    """Facts and traits of an image file."""
    traits = np.zeros(1, dtype=TRAITS)
    return examiner.Examiner(EncodedInspector(Contents(content))).describe(0, traits), traits


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [(3, struct.pack("<HH", 300, 0), 1), (4, struct.pack("<I", 1 << 31), 1), (9, struct.pack("<i", -1), 1),
     (2, b"a\0\0\0", 1), (3, bytes(4), 1), (3, struct.pack("<HH", 6, 0), 6), (11, struct.pack("<f", 6), 1)],
)  # fmt: skip
def test_orientations_that_are_none(kind, value, found):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01" + struct.pack("<HI", kind, 1) + value + bytes(4)
    facts, traits = examined(encoded(noise_picture(0, (16, 16)), "JPEG", exif=exif))
    assert "problem" not in facts and traits["orientation"] == found


@pytest.mark.parametrize("turned", [1, 3, 6])
def test_orientation_of_tiff(turned):
    facts, traits = examined(encoded(noise_picture(0, (16, 24)), "TIFF", tiffinfo={274: turned}))
    assert "problem" not in facts and traits["orientation"] == turned
    assert (traits["height"] > traits["width"]) == (turned == 6)


def tiff_of_pages(number, following=0):
    """A TIFF of pages that share their pixels; the last one says that another follows at this offset."""
    tags = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 16), (279, 256)]
    entries = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    first, size = 8 + 256, len(entries) + 4
    offsets = [*(first + size * page for page in range(1, number)), following]
    pages = [entries + struct.pack("<I", offset) for offset in offsets]
    return b"".join([struct.pack("<2sHI", b"II", 42, first), bytes(range(256)), *pages])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(("number", "following", "found"), [(3, 0, 3), (40, 0, 10), (2, 9, 2)])
def test_pages_are_counted_up_to_a_bound(monkeypatch, number, following, found):
    monkeypatch.setattr(examiner, "MAX_PAGES", 10)
    facts, traits = examined(tiff_of_pages(number, following))
    assert facts["mode"] == "L" and traits["num_frames"] == found


def test_frames_of_gif():
    file, frames = io.BytesIO(), [noise_picture(number) for number in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert examined(file.getvalue())[1]["num_frames"] == 3


def test_measuring_takes_little_more_memory_than_a_second_image(monkeypatch):
    monkeypatch.setattr(decode, "STRIP_PIXELS", 1 << 18)
    image = Image.linear_gradient("L").resize((2048, 2048)).convert("RGB")
    size = 4 * image.width * image.height
    reading, writing = os.pipe()
    if not (child := os.fork()):  # its peak begins with what it has
        with suppress(BaseException):
            before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            examiner.measure(StoredImage("PNG", "RGB", image), np.zeros(1, dtype=TRAITS))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
            os.write(writing, b"%d" % (peak - before))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        grown = int(file.read())
    os.waitpid(child, 0)
    assert grown < 2 * size


def test_color_spaces_of_profiles_are_escaped():
    profile = bytes(16) + b"\x1b[2J" + bytes(108)
    facts, _ = examined(encoded(noise_picture(0, (16, 16)), "PNG", icc_profile=profile))
    assert facts["profile"] == "\\x1b[2J"


@pytest.mark.parametrize("profile", ["text" * 50, (1,) * 200, 7])
def test_profiles_that_are_no_bytes(profile):
    image = noise_picture(0, (16, 16))
    image.info["icc_profile"] = profile
    assert examiner.profile_of(image) == ""
