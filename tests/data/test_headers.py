"""Headers of PNG and JPEG files that are read without Pillow say what Pillow says."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.data_sets import encoded, noise_picture, opened, write_folder

from stylegan_ray.data import scan
from stylegan_ray.data.decode import DEEP_MODES, has_alpha, has_deep_channels, is_gray, read_header
from stylegan_ray.data.files import files_at
from stylegan_ray.data.headers import plain_header


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(png, *chunks):
    """A PNG with chunks after its header."""
    return png[:33] + b"".join(chunk(*pair) for pair in chunks) + png[33:]


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(jpeg, *segments):
    """A JPEG with segments before all others."""
    return jpeg[:2] + b"".join(segment(*pair) for pair in segments) + jpeg[2:]


def palette(picture):
    return picture.quantize(16)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


RGB, GRAY, RGBA = (noise_picture(3, (12, 20), mode) for mode in ("RGB", "L", "RGBA"))
PNG, JPEG = encoded(RGB), encoded(RGB, "JPEG")
PLAIN = {
    "png": PNG, "gray": encoded(GRAY), "rgba": encoded(RGBA), "gray and alpha": encoded(noise_picture(3, mode="LA")),
    "palette": encoded(palette(RGB)), "stored": encoded(RGB, compress_level=0), "dpi": encoded(RGB, dpi=(300, 300)),
    "text": with_chunks(PNG, (b"tEXt", b"Title\0red"), (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))),
    "text exif": with_chunks(PNG, (b"tEXt", b"exif\0MM")),
    "text transparency": with_chunks(PNG, (b"tEXt", b"transparency\0x")),
    "time": with_chunks(PNG, (b"tIME", bytes(7)), (b"cHRM", bytes(32)), (b"bKGD", bytes(6))),
    "jpeg": JPEG, "gray jpeg": encoded(GRAY, "JPEG"), "progressive": encoded(RGB, "JPEG", progressive=True),
    "444": encoded(RGB, "JPEG", subsampling=0, quality=99), "optimized": encoded(RGB, "JPEG", optimize=True),
    "comment": encoded(RGB, "JPEG", comment=b"hello"), "profile": encoded(RGB, "JPEG", icc_profile=bytes(300)),
    "restart": encoded(RGB, "JPEG", restart_marker_blocks=1),
}  # fmt: skip
FOR_PILLOW = {
    "bits": encoded(Image.new("1", (9, 9))), "16 bits": encoded(Image.fromarray(np.zeros((9, 9), np.uint16))),
    "turned": encoded(RGB, exif=exif(6)), "key color": encoded(RGB, transparency=(1, 2, 3)),
    "animated": encoded(RGB, save_all=True, append_images=[RGB.rotate(180)]),
    "bad text": with_chunks(PNG, (b"zTXt", b"a\0\1x")),
    "turned jpeg": encoded(RGB, "JPEG", exif=exif(6)), "cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "old application": with_segments(JPEG, (0xE0, b"JFXX\0")),
    "two profiles": encoded(RGB, "JPEG", icc_profile=bytes(70_000)), "short": PNG[:40], "no pixels": PNG[:33],
    "webp": encoded(RGB, "WEBP"), "nothing": b"",
    "no scan": JPEG[: JPEG.index(b"\xff\xda")], "empty": with_segments(JPEG, (0xC0, bytes(15))),
}  # fmt: skip


def what_pillow_says(content):
    """As scan reads a header with Pillow; None where it is refused, or not told by the header."""
    try:
        image = read_header(content)
    except Exception:
        return None
    if image.mode in DEEP_MODES or has_deep_channels(image, content) or "exif" in image.info:
        return None
    return image.height, image.width, is_gray(image), has_alpha(image)


def what_we_say(content):
    header = plain_header(content)
    if header is None:
        return None
    image = Image.new(header.mode, (1, 1))
    return header.height, header.width, is_gray(image), has_alpha(image)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files(name):
    assert what_we_say(PLAIN[name]) == what_pillow_says(PLAIN[name]) != None  # noqa: E711


@pytest.mark.parametrize("name", FOR_PILLOW)
def test_everything_else_is_left_to_pillow(name):
    assert plain_header(FOR_PILLOW[name]) is None


@pytest.mark.parametrize("name", PLAIN)
def test_damage_is_left_to_pillow(name):
    """Bits flipped, bytes removed, inserted and cut at seeded places: Pillow says the same of what is accepted."""
    rng, whole, num_accepted = np.random.default_rng(list(name.encode())), PLAIN[name], 0
    for _ in range(300):
        content, at = bytearray(whole), int(rng.integers(min(len(whole), 700)))
        match rng.integers(4):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                del content[at]
            case 2:
                content.insert(at, int(rng.integers(256)))
            case 3:
                del content[at:]
        said = what_we_say(bytes(content))
        num_accepted += said is not None
        assert said in (None, what_pillow_says(bytes(content)))
    assert num_accepted < 300


def test_a_jpeg_of_many_scans_is_refused():
    scan_header = segment(0xDA, bytes([1, 1, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="scans"):
        plain_header(JPEG[:-2] + scan_header * 200 + JPEG[-2:])


def test_an_index_of_headers_is_the_same_with_and_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "DECODE_UP_TO", 0)
    files = {f"{name}.bin.png": content for name, content in {**PLAIN, **FOR_PILLOW}.items()}
    root = write_folder(tmp_path / "d", files)
    keys = {
        "on_bad_image": "skip",
        "resolution": 16,
        "crop": "center",
        "resize": "box",
        "channels": 3,
        "alpha": "white",
    }
    before = opened(root, **keys)
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(scan, "plain_header", lambda content: None)
    after = opened(root, **keys)
    assert before.fingerprint == after.fingerprint and before.bad == after.bad and len(after.bad) >= 4


@pytest.mark.parametrize("is_quick", [False, True])
def test_headers_are_read_with_and_without_threads(tmp_path, monkeypatch, is_quick):
    monkeypatch.setattr(scan, "DECODE_UP_TO", 0)
    monkeypatch.setattr(scan, "CHUNK", 2)
    monkeypatch.setattr(scan, "FEW", 2)
    monkeypatch.setattr(scan, "QUICK_SEC", 1e9 if is_quick else 0.0)
    root, seen = write_folder(tmp_path / "d", {f"{i}.png": noise_picture(i) for i in range(9)}), []
    data = opened(root, progress=lambda done, total, what: seen.append(done))
    assert data.num_images == 9 and sorted(seen) == seen and seen[-1] == 9


def test_head_of_a_file_is_bounded_and_regular(tmp_path):
    write_folder(tmp_path, {"a": b"12345"})
    (tmp_path / "b").symlink_to("/dev/zero")
    for files in (files_at(str(tmp_path)), files_at(f"file://{tmp_path}")):
        assert files.head("a", 3) == b"123" and files.head("a", 9) == b"12345"
    with pytest.raises(ValueError, match="not a regular file"):
        files_at(str(tmp_path)).head("b", 3)


def test_pillow_is_what_reads_the_pixels():
    assert np.asarray(Image.open(io.BytesIO(PLAIN["text"]))).shape == (12, 20, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_headers_longer_than_what_is_read_first(tmp_path, monkeypatch, kind):
    """Of large sets 64 kB of each file are read: an ICC profile may be longer, and WebP needs the whole file."""
    monkeypatch.setattr(scan, "DECODE_UP_TO", 0)
    options = {"icc_profile": bytes(200_000)} if kind != "WEBP" else {"lossless": True}
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels), kind, **options)
    assert len(content) > 1 << 17
    data = opened(write_folder(tmp_path / "d", {f"a.{kind.lower()}": content}))
    assert data.resolution == (256, 256) and not data.bad
