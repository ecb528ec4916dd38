"""TIFF files and EXIF as others write them, and as nobody should."""

import io
import itertools
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import OPEN_INFO
from support.data_sets import encoded, noise_picture, opened, write_folder

from stylegan_ray.data import DataError
from stylegan_ray.data.decode import open_image, orientation_of, read_header
from stylegan_ray.data.doctor.examiner import num_frames

SIDE = 16
CODES = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}
MANY = 1 << 21
"""Values of which Pillow takes seconds to make fractions."""


def tiff(tags, parts=(), order="<", big=False, following=0, tiles=False):
    """A TIFF with tags {number: (kind, values)} and strips or tiles of bytes; values may be (count, bytes)."""
    parts, room, offset = list(parts), 8 if big else 4, "Q" if big else "I"
    where, sizes = (324, 325) if tiles else (273, 279)
    tags = {where: (4, [0] * len(parts)), sizes: (4, [len(part) for part in parts])} | tags
    tags = {tag: (kind, *packed(kind, values, order)) for tag, (kind, values) in tags.items()}
    start = (16 if big else 8) + (8 if big else 2) + (20 if big else 12) * len(tags) + room
    pixels = start + sum(len(values) for _, _, values in tags.values() if len(values) > room)
    if not any(tags[where][2]):
        starts = [pixels + sum(map(len, parts[:i])) for i in range(len(parts))]
        tags[where] = (4, *packed(4, starts, order))
    entries, stored = b"", b""
    for tag, (kind, count, values) in sorted(tags.items()):
        is_inside = len(values) <= room
        entries += struct.pack(f"{order}HH{offset}", tag, kind, count)
        entries += values.ljust(room, b"\0") if is_inside else struct.pack(order + offset, start + len(stored))
        stored += b"" if is_inside else values
    head = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    head = (b"II" if order == "<" else b"MM") + head + struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + entries + struct.pack(order + offset, following) + stored + b"".join(parts)


def packed(kind, values, order):
    """The number of values of a tag, and the values as bytes."""
    return (
        values
        if isinstance(values, tuple)
        else (len(values), struct.pack(f"{order}{len(values)}{CODES[kind]}", *values))
    )


def fractions(number=MANY):
    return 5, (number, bytes(8 * number))


def gray(**more):
    """Tags of an image of 8-bit gray pixels; `more` are named tag_NUMBER."""
    tags = {256: (4, [SIDE]), 257: (4, [SIDE]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1])}
    return tags | {int(name.removeprefix("tag_")): entry for name, entry in more.items()}


PIXELS = bytes(range(256))


@pytest.fixture
def quickly():
    """Fails the test where its calls take long."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 1.5


def test_plain_files():
    for order, big in (("<", False), (">", False), ("<", True)):
        for parts, rows in (([PIXELS], 16), ([PIXELS[:160], PIXELS[160:]], 10)):
            image = open_image(tiff(gray(tag_278=(3, [rows])), parts, order, big))
            assert image.mode == "L" and image.tobytes() == PIXELS


NOT_TEXTS = [282, 283, 296, 530, 700, 34675]
LAYOUT = [258, 259, 262, 266, 274, 277, 278, 284, 320, 338, 339]


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tag", [*NOT_TEXTS, *LAYOUT])
def test_a_tag_of_millions_of_values(tag, big):
    with pytest.raises(ValueError, match=f"is a TIFF with {MANY} values of tag {tag}, which has .* at most"):
        read_header(tiff(gray() | {tag: fractions()}, [PIXELS], big=big))


@pytest.mark.parametrize("tag", LAYOUT)
def test_tags_of_the_layout_are_whole_numbers(tag):
    with pytest.raises(ValueError, match=f"values of type 5 for tag {tag}, not whole numbers"):
        read_header(tiff(gray() | {tag: fractions(1)}, [PIXELS]))


def test_several_entries_of_a_tag():
    content = tiff(gray(tag_282=(2, [65]), tag_283=(5, (1, bytes(8)))), [PIXELS])
    content = content.replace(struct.pack("<HH", 283, 5), struct.pack("<HH", 282, 5))
    with pytest.raises(ValueError, match="several entries of tag 282"):
        read_header(content)


def test_long_texts_and_notes_that_pillow_does_not_look_at():
    notes = {700: (7, (1 << 20, bytes(1 << 20))), 34675: (7, (4000, bytes(4000))), 65000: fractions(1 << 17)}
    assert open_image(tiff(gray() | notes, [PIXELS])).tobytes() == PIXELS


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("tag", [34665, 34853, 40965, 330])
def test_exif_directories_of_a_tiff_are_not_read(tag):
    where = len(tiff(gray() | {tag: (4, [0])}, [PIXELS]))
    inner = struct.pack("<HHHII", 1, 33434, 5, MANY, where + 18) + bytes(4) + bytes(8 * MANY)
    assert open_image(tiff(gray() | {tag: (4, [where])}, [PIXELS]) + inner).tobytes() == PIXELS


def chain(tags, number):
    """A TIFF of pages whose tags have these values, and how many pages are after the first one."""
    first = len(tiff(gray(), [PIXELS]))
    page = tiff(tags, [])[8:]
    content = tiff(gray(), [PIXELS], following=first)
    for i in range(number):
        end = first + len(page) * (i + 1)
        at = 2 + 12 * len(tags | {273: 0, 279: 0})
        content += page[:at] + struct.pack("<I", end if i + 1 < number else 0) + page[at + 4 :]
    return content


@pytest.mark.usefixtures("quickly")
def test_tags_of_later_pages():
    assert num_frames(read_header(chain(gray(tag_273=(4, [8]), tag_279=(4, [256])), 50))) == 51
    for tags, number, pages in (
        (gray(tag_282=fractions()), 2, 1),
        (gray(tag_273=(4, (1 << 16, b"\1" * (4 << 16)))), 20, 17),
        (gray(tag_258=(5, (1, bytes(8)))), 20, 1),
    ):
        content = chain(tags, number)
        assert num_frames(read_header(content)) <= pages and open_image(content).tobytes() == PIXELS
    content = tiff(gray(), [PIXELS], following=9)
    assert num_frames(read_header(content)) == 1 and open_image(content).tobytes() == PIXELS


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("big", [False, True])
def test_a_directory_of_many_entries(big):
    content = (
        b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 22) + bytes(20 << 20)
        if big
        else b"II*\0\x08\0\0\0\xff\xff" + bytes(12 << 16)
    )
    with pytest.raises(ValueError, match="a directory of more than 1000 entries"):
        read_header(content)


@pytest.mark.usefixtures("quickly")
def test_more_strips_than_an_image_has():
    number = 1 << 23
    tags = {256: (4, [1]), 257: (4, [number]), 278: (4, [1]), 273: (4, (number, b"\1" * 4 * number))}
    with pytest.raises(ValueError, match=f"{number} values of tag 273, which has 65536 at most"):
        read_header(tiff(gray() | tags))


@pytest.mark.parametrize("content", [b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0+" + bytes(40), b"II+\0\x08\0\0\0\x10"])
def test_no_directory(content):
    with pytest.raises(ValueError, match="is a damaged or unsupported TIFF; save it again as PNG or JPEG"):
        read_header(content)


def exif_of(*values, kind=3, order="<"):
    """EXIF with an orientation."""
    data = struct.pack(f"{order}{len(values)}{CODES[kind]}", *values)
    inside = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", 26)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIHHHI", 42, 8, 1, 0x112, kind, len(values))
    return head + inside + bytes(4) + (data if len(data) > 4 else b"")


LONG_EXIF = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x112, 5, MANY, 26) + bytes(4) + bytes(8 * MANY)
LONG_RESOLUTION = (
    struct.pack("<HHHIIHHII", 2, 0x11A, 5, MANY, 38, 0x128, 3, 1, 2) + bytes(4) + bytes([1, 0, 0, 0]) * MANY
)
PICTURE = noise_picture(0, (SIDE, SIDE))


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_exif(kind, exif):
    """An image of this format with EXIF, which Pillow does not look at while it writes it."""
    if kind == "PNG":
        content = encoded(PICTURE)
        return content[:33] + chunk(b"eXIf", exif) + content[33:]
    if kind == "JPEG":
        content = encoded(PICTURE, kind)
        pieces = (exif[at : at + 65_000] for at in range(0, len(exif), 65_000))
        return content[:2] + b"".join(segment(0xE1, b"Exif\0\0" + piece) for piece in pieces) + content[20:]
    stand_in = (b"II*\0\x08\0\0\0" + bytes(len(exif)))[: len(exif)]
    content = encoded(PICTURE, kind, exif=stand_in)
    at = content.index(stand_in)
    return content[:at] + exif + content[at + len(exif) :]


KINDS = ["PNG", "JPEG", "WEBP", "AVIF"]


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    "exif", [LONG_EXIF, b"II*\0\x08\0\0\0" + LONG_RESOLUTION, b"II*\0\x08\0\0\0\xff\xff" + bytes(1 << 20)]
)
def test_long_exif_is_ignored(kind, exif):
    content = with_exif(kind, exif)
    assert open_image(content).tobytes() == open_image(encoded(PICTURE, kind)).tobytes()
    assert orientation_of(read_header(content)) == 1


@pytest.mark.usefixtures("quickly")
def test_long_exif_of_a_jpeg():
    with pytest.raises(ValueError, match="more than 16 EXIF segments"):
        read_header(with_exif("JPEG", (b"II*\0\x08\0\0\0" + LONG_RESOLUTION)[:6_000_000]))
    assert read_header(with_exif("JPEG", LONG_EXIF[:1_000_000])).size == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientations(kind, order):
    for orientation in range(10):
        for whole in (3, 4):
            content = with_exif(kind, exif_of(orientation, kind=whole, order=order))
            assert orientation_of(read_header(content)) == (orientation if 1 <= orientation <= 8 else 1)
    for exif in (
        exif_of(6, 6),
        exif_of(6, kind=1),
        exif_of(6, 1, kind=4),
        exif_of(6)[:20],
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0",
    ):
        assert orientation_of(read_header(with_exif(kind, exif))) == 1
    prefixed = Image.new("L", (1, 1))
    prefixed.info["exif"] = b"Exif\0\0" * 2 + exif_of(6, order=order)
    assert orientation_of(prefixed) == 6


def test_an_avif_is_turned_by_its_boxes_alone():
    plain = open_image(encoded(PICTURE, "AVIF"))
    assert open_image(with_exif("AVIF", exif_of(6))).tobytes() == plain.tobytes()
    exif = Image.Exif()
    exif[0x112] = 6
    turned = open_image(encoded(PICTURE, "AVIF", exif=exif))  # Pillow writes the boxes
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(plain), -1))


def test_an_orientation_in_xmp_counts_where_exif_has_none():
    xmp = b'<x tiff:Orientation="6"/>'
    for exif, expected in ((exif_of(3), 3), (b"II*\0\x08\0\0\0\0\0", 6)):
        assert orientation_of(read_header(encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + exif, xmp=xmp))) == expected


def test_values_outside_of_the_file():
    """Pillow leaves out that tag, and those after it, among which may be what numbers mean."""
    for number in (1, 2):
        beyond = tiff(gray(tag_270=(2, (100, bytes(100))), tag_339=(3, [1])), [PIXELS])
        entry = struct.pack("<HHI", 270, 2, 100)
        content = beyond.replace(entry + beyond[beyond.index(entry) + 8 :][:4], entry + struct.pack("<I", 1 << 30))
        with pytest.raises(ValueError, match="is a damaged or unsupported TIFF"):
            open_image(content if number == 1 else beyond.replace(entry, struct.pack("<HHI", 270, 2, 1 << 20)))


@pytest.mark.usefixtures("quickly")
def test_a_change_that_makes_another_tag():
    """The number of planes is in the entry of a tag that Pillow ignores, and set to 1 it makes that the width."""
    tags = gray(tag_284=(16, [2]), tag_339=(3, [1]), tag_400=fractions())
    del tags[256]
    content = tiff(tags, [PIXELS])
    planes, width = (content.index(struct.pack("<HH", *entry)) for entry in ((284, 16), (400, 5)))
    content = content[: planes + 8] + struct.pack("<I", width - 7) + content[planes + 12 :]
    with pytest.raises(ValueError, match=f"{MANY} values of tag 256"):
        read_header(content)


def test_sizes_are_those_of_the_image_however_many_strips_it_needs():
    tags = gray(tag_256=(4, [1]), tag_257=(4, [1 << 27]), tag_278=(4, [1]))
    with pytest.raises(ValueError, match="with 1 strips or tiles of pixels, not the 134217728"):
        read_header(tiff(tags, [PIXELS]))


@pytest.mark.parametrize(
    ("height", "rows", "sizes", "words"),
    [
        (32, 16, [256], "with 1 strips or tiles of pixels, not the 2"), (32, 16, [256] * 3, "with 3 strips"),
        (32, 16, [256, 255], "a strip or tile has 255 of 256 bytes"), (32, 16, [0, 256], "has 0 of 256"),
        (32, 1 << 31, [511], "has 511 of 512"), (40, 16, [256, 256, 127], "has 127 of 128"), (16, 0, [256], "damaged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("compression", [1, 8])
def test_missing_pixels(height, rows, sizes, words, compression):
    parts = [bytes([9] * size) if compression == 1 else zlib.compress(bytes([9] * size)) for size in sizes]
    tags = gray(tag_257=(4, [height]), tag_278=(4, [rows]), tag_259=(3, [compression]))
    with pytest.raises((ValueError, OSError), match=words if compression == 1 else None):
        open_image(tiff(tags, parts))


@pytest.mark.parametrize("sizes", [[256] * 4, [256] * 3, [256] * 5, [256, 256, 256, 128]])
def test_missing_tiles(sizes):
    tags = gray(tag_256=(4, [20]), tag_257=(4, [20]), tag_322=(3, [16]), tag_323=(3, [16]))
    content = tiff(tags, [bytes([9] * size) for size in sizes], tiles=True)
    if sizes == [256] * 4:
        assert open_image(content).getextrema() == (9, 9)
        return
    with pytest.raises(ValueError, match=r"not the 4 of its size|has 128 of 256 bytes"):
        open_image(content)
    with pytest.raises(ValueError, match="both strips and tiles"):
        open_image(tiff(tags | {324: (4, [8]), 325: (4, [256])}, [PIXELS]))


def test_strips_without_sizes_and_with_room():
    whole = tiff(gray(), [PIXELS])
    entry = struct.pack("<HHII", 279, 4, 1, 256)
    for instead in (struct.pack("<HHII", 280, 4, 1, 256), struct.pack("<HHII", 279, 4, 1, 4096)):
        assert open_image(whole.replace(entry, instead)).tobytes() == PIXELS
    with pytest.raises(OSError, match="truncated"):
        open_image(whole[:-1])


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_eight_bits_with_a_sign(tmp_path, order, compression):
    part = PIXELS if compression == 1 else zlib.compress(PIXELS)
    for sample_format, words in (
        (2, "8-bit numbers with a sign.*SampleFormat 1"),
        (3, "unsupported"),
        (4, "unsupported"),
    ):
        tags = gray(tag_339=(3, [sample_format]), tag_259=(3, [compression]))
        root = write_folder(tmp_path / str(sample_format), {"a.tif": tiff(tags, [part], order)})
        with pytest.raises(DataError, match=f"'a.tif' is a .*{words}"):
            opened(root)


def stored(values, bits, order, fill_order, is_float):
    """Bytes of samples [H,N]."""
    if bits >= 8:
        return values.astype(order + ("f4" if is_float else f"u{bits // 8}")).tobytes()
    rows = np.packbits((values[..., None] >> np.arange(bits)[::-1] & 1).reshape(len(values), -1).astype(bool), axis=1)
    return rows.tobytes() if fill_order == 1 else np.packbits(np.unpackbits(rows, bitorder="little")).tobytes()


def image_of(key, compression, planes, rows):
    """An image of a kind that Pillow opens, by the key of its table."""
    prefix, white, signs, fill_order, bits, extra = key
    order, rng = "<" if prefix == b"II" else ">", np.random.default_rng(1)
    values = rng.integers(0, 2 ** min(bits[0], 15), (SIDE, SIDE, len(bits)))
    if signs == (3,):
        values = values / 2**15
    samples = [values.reshape(SIDE, -1)] if planes == 1 else list(values.transpose(2, 0, 1))
    parts = [
        stored(some[top : top + rows], bits[0], order, fill_order, signs == (3,))
        for some, top in itertools.product(samples, range(0, SIDE, rows))
    ]
    tags = {258: (3, bits), 259: (3, [compression]), 262: (3, [white]), 266: (3, [fill_order]), 277: (3, [len(bits)])}
    tags |= {278: (3, [rows]), 284: (3, [planes]), 339: (3, signs * len(bits))} | ({338: (3, extra)} if extra else {})
    tags |= {320: (3, rng.integers(0, 65536, 3 << bits[0]).tolist())} if white == 3 else {530: (3, [1, 1])}
    tags = {tag: (kind, list(values)) for tag, (kind, values) in tags.items()}
    return tiff(gray() | tags, parts if compression == 1 else map(zlib.compress, parts), order)


def pixels_of(content):
    """Pixels, or None for an image that is refused."""
    try:
        image = open_image(content)
    except (ValueError, OSError):
        return None
    return np.asarray(image.convert("RGB") if image.mode == "YCbCr" else image).astype(np.float64)


@pytest.mark.parametrize("prefix", [b"II", b"MM"])
def test_pixels_do_not_depend_on_how_they_are_stored(prefix):
    """With planes and compression, in strips, an image of any kind has the same pixels or is refused."""
    num_read = num_refused = 0
    for key in OPEN_INFO:
        bits = key[4][0]
        if key[0] != prefix or bits == 12 or (key[3] == 2 and bits == 16):
            continue
        plain = pixels_of(image_of(key, 1, 1, SIDE))
        for compression, planes, rows in itertools.product((1, 8), (1, 2), (4, SIDE)):
            if key[3] == 2 and compression != 1:  # the compressed bytes would have to be reversed too
                continue
            found = pixels_of(image_of(key, compression, planes, rows))
            num_read, num_refused = num_read + (found is not None), num_refused + (found is None)
            if found is not None and plain is not None:
                np.testing.assert_allclose(
                    found, plain, atol=1 if key[1] == 6 else 0, err_msg=str((key, compression, planes))
                )
    assert num_read > 300 and num_refused < 110


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_planes_of_16_bits(order, compression):
    key = ((b"II" if order == "<" else b"MM"), 2, (1,), 1, (16, 16, 16), ())
    values = np.random.default_rng(1).integers(0, 1 << 15, (SIDE, SIDE, 3))
    image = open_image(image_of(key, compression, 2, 4))
    np.testing.assert_array_equal(np.asarray(image), values >> 8)


@pytest.mark.parametrize(
    ("compression", "white", "bits", "extra"), [(1, 5, (16,) * 4, ()), (8, 2, (8,) * 4, ()), (8, 8, (8,) * 3, ())]
)
def test_planes_that_are_not_read(compression, white, bits, extra):
    with pytest.raises(ValueError, match=f"{bits[0]}-bit samples in separate planes .* side by side .*, or as PNG"):
        open_image(image_of((b"II", white, (1,), 1, bits, extra), compression, 2, SIDE))


def jpeg_of_scans(side, number):
    """A progressive JPEG of gray zeros: the means of blocks, then scans that refine nothing."""
    blocks = (side // 8) ** 2
    parts = [
        segment(0xDB, b"\0" + bytes([1] * 64)), segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\0\x11\0"),
        segment(0xC4, bytes([0, 1, *[0] * 15, 0])), segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0])),
        segment(0xDA, bytes([1, 0, 0, 0, 0, 0])), bytes(blocks // 8 + 1),
    ]  # fmt: skip
    for i in range(number):
        parts += [segment(0xDA, bytes([1, 0, 0, 1, 63, 0x10 if i else 1])), bytes(blocks // 8192 * 2 + 4)]
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def tiff_of_jpegs(width, rows, number, part, size=None):
    """A TIFF of strips that are one and the same JPEG."""
    tags = gray(tag_256=(4, [width]), tag_257=(4, [rows * number]), tag_278=(4, [rows]), tag_259=(3, [7]))
    tags |= {273: (4, [1] * number), 279: (4, [size or len(part)] * number)}
    start = len(tiff(tags))
    return tiff(tags | {273: (4, [start] * number)}) + part


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize(("width", "rows", "number", "side", "scans"), [
    (1024, 1024, 127, 1024, 97), (1024, 1024, 2, 1024, 101), (8192, 16, 1, 8192, 97),
])  # fmt: skip
def test_scans_of_jpegs_in_a_tiff(width, rows, number, side, scans):
    content = tiff_of_jpegs(width, rows, number, jpeg_of_scans(side, scans))
    assert len(content) < 200_000
    with pytest.raises(ValueError, match=r"is a TIFF of JPEGs with .* scans .* take very long to decode"):
        read_header(content)


def test_jpegs_in_a_tiff():
    for number, scans in ((1, 10), (4, 3), (4, 0)):
        assert open_image(tiff_of_jpegs(64, 64, number, jpeg_of_scans(64, scans))).size == (64, 64 * number)
    assert np.asarray(open_image(encoded(noise_picture(0, (70, 50)), "TIFF", compression="jpeg"))).shape == (70, 50, 3)


@pytest.mark.usefixtures("quickly")
def test_jpegs_in_a_tiff_that_are_cut_off_or_overlap():
    content = encoded(noise_picture(0, (64, 64)), "TIFF", compression="jpeg")
    at = content.index(struct.pack("<HHI", 279, 4, 1)) + 8
    (size,) = struct.unpack_from("<I", content, at)
    with pytest.raises(ValueError, match="with a JPEG that is cut off"):
        open_image(content[:at] + struct.pack("<I", size // 2) + content[at + 4 :])
    number, part = 60_000, jpeg_of_scans(16, 0)[:-2] + bytes(1 << 20)
    tags = gray(tag_257=(4, [SIDE * number]), tag_278=(4, [SIDE]), tag_259=(3, [7]), tag_273=(4, [1] * number))
    tags[279] = (4, [len(part) - i for i in range(number)])
    start = len(tiff(tags))
    with pytest.raises(ValueError, match="JPEGs that overlap"):
        read_header(tiff(tags | {273: (4, [start] * number)}) + part)


def ppm(kind, most, value, comment=b""):
    values = [value] * SIDE * SIDE * 3
    body = b" ".join(b"%d" % each for each in values) if kind == b"P3" else struct.pack(f">{len(values)}H", *values)
    return b"%s\n%s%d %d %d\n" % (kind, comment, SIDE, SIDE, most) + body


@pytest.mark.parametrize("kind", [b"P6", b"P3"])
@pytest.mark.parametrize(("most", "value"), [(65535, 200), (65535, 16000), (4095, 255), (300, 20)])
def test_deep_colors_of_a_ppm_that_would_be_nearly_black(tmp_path, kind, most, value):
    root = write_folder(tmp_path / "d", {"a.ppm": ppm(kind, most, value, b"# 255\n")})
    with pytest.raises(DataError, match=r"'a.ppm', need only \d+ bits, and would be nearly black.*--data.bits 16"):
        opened(root)
    assert opened(root, bits=16).read(0).max() == round(value / most * 255)


@pytest.mark.parametrize(("kind", "most", "value"), [(b"P6", 65535, 60000), (b"P3", 4095, 4000)])
def test_deep_colors_of_a_ppm(tmp_path, kind, most, value):
    data = opened(write_folder(tmp_path / "d", {"a.ppm": ppm(kind, most, value), "b.ppm": ppm(kind, most, 0)}))
    assert data.read(0).max() == round(value / most * 255) and data.read(1).max() == 0


def test_dark_colors_of_a_ppm_of_8_bits(tmp_path):
    content = b"P6 %d %d 255 " % (SIDE, SIDE) + bytes([3] * SIDE * SIDE * 3)
    assert opened(write_folder(tmp_path / "d", {"a.ppm": content})).read(0).max() == 3


def test_pillow_reads_what_is_checked():
    """Pillow finds the same tags in the files above."""
    for order, big in (("<", False), (">", False), ("<", True)):
        content = tiff(gray(tag_282=(5, (1, struct.pack(order + "II", 300, 1)))), [PIXELS], order, big)
        assert Image.open(io.BytesIO(content)).info["resolution"][0] == 300
