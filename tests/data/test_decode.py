"""What becomes of one image file."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support import confined
from support.data_sets import chw, encoded, noise_picture, opened, write_folder

import stylegan_ray
from stylegan_ray.data import DataError
from stylegan_ray.data.decode import Decoder, bytes_in_memory, orientation_of, read_header
from stylegan_ray.data.errors import BadImage
from stylegan_ray.data.png import PASSES

SIDE = 16


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(bits, rows, key, interlace=0):
    """A PNG with values [H,W] or [H,W,3] of so many bits, and a transparent color."""
    values = np.asarray(rows)
    if bits == 16:
        packed = values.astype(">u2").reshape(SIDE, -1).view(np.uint8)
    else:
        binary = values.reshape(SIDE, -1, 1) >> np.arange(bits)[::-1] & 1
        packed = np.packbits(binary.reshape(SIDE, -1).astype(bool), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, 2 if values.ndim == 3 else 0, 0, 0, interlace)
    key = np.atleast_1d(key).astype(">u2").tobytes()
    chunks = (chunk(b"IHDR", header), chunk(b"tRNS", key), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND"))
    return b"".join((b"\x89PNG\r\n\x1a\n", *chunks))


COLOR_KEYS = [
    (1, 1, 0), (2, 1, 2), (4, 9, 8), (8, 7, 8), (16, 40000, 40001), (8, (1, 2, 3), (1, 2, 4)),
    (16, (4660, 22136, 65535), (4660, 22136, 65534)),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "key", "other"), COLOR_KEYS)
def test_transparent_colors_of_any_depth(tmp_path, bits, key, other):
    values = np.full((SIDE, SIDE, *np.shape(key)), other)
    values[:4] = key
    root = write_folder(tmp_path / "d", {"a.png": png_of(bits, values, key)})
    with pytest.raises(DataError, match=r"'a.png'.*--data.alpha white"):
        opened(root)
    dropped, white, black = (opened(root, alpha=policy, bits=16).read(0) for policy in ("drop", "white", "black"))
    assert (white[:, :4] == 255).all() and (black[:, :4] == 0).all()
    assert np.shape(key) == (dropped.shape[0],) * (dropped.shape[0] > 1)
    for composited in (white, black):
        np.testing.assert_array_equal(composited[:, 4:], dropped[:, 4:])
    expected = np.atleast_1d(np.array(other) * 65535 // (2**bits - 1) >> 8)
    np.testing.assert_array_equal(dropped[:, 5, 5], expected)


@pytest.mark.parametrize(("bits", "key", "other"), COLOR_KEYS)
def test_transparent_colors_that_no_pixel_has(bits, key, other):
    content = png_of(bits, np.full((SIDE, SIDE, *np.shape(key)), other), key)
    assert Decoder((SIDE, SIDE), 3)("a.png", content).shape == (3, SIDE, SIDE)
    with pytest.raises(BadImage, match="is transparent"):
        Decoder((SIDE, SIDE), 3)("a.png", png_of(bits, np.full((SIDE, SIDE, *np.shape(key)), key), key))


def png_of_zeros(side, bits, color, channels, extra=b""):
    """A PNG of a color type with zeros only; extra chunks follow its header."""
    stream, row = zlib.compressobj(9), bytes(1 + side * channels * bits // 8)
    data = b"".join([*(stream.compress(row) for _ in range(side)), stream.flush()])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND")


def webp_of_canvas(side):
    """A WebP of 92 bytes with one frame of 16 pixels."""
    frame = bytes(6) + struct.pack("<I", 15)[:3] * 2 + bytes(4)
    frame += encoded(Image.new("RGB", (SIDE, SIDE), (9, 9, 9)), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + struct.pack("<I", side - 1)[:3] * 2
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


LARGE = 3072
GRAY = Image.new("RGB", (LARGE, LARGE), (128, 128, 128))
PLTE = chunk(b"PLTE", bytes(6))
LARGE_FILES = {
    "RGB": lambda: png_of_zeros(LARGE, 8, 2, 3),
    "RGBA": lambda: png_of_zeros(LARGE, 8, 6, 4),
    "LA": lambda: png_of_zeros(LARGE, 8, 4, 2),
    "palette with alpha": lambda: png_of_zeros(LARGE, 8, 3, 1, PLTE + chunk(b"tRNS", b"\x80")),
    "RGB with a color key": lambda: png_of_zeros(LARGE, 8, 2, 3, chunk(b"tRNS", bytes(6))),
    "16-bit gray": lambda: png_of_zeros(LARGE, 16, 0, 1),
    "16-bit RGB with a color key": lambda: png_of_zeros(LARGE, 16, 2, 3, chunk(b"tRNS", bytes(6))),
    "WebP": lambda: webp_of_canvas(LARGE),
    "CMYK": lambda: encoded(Image.new("CMYK", (LARGE, LARGE)), "JPEG"),
    "progressive JPEG": lambda: encoded(GRAY, "JPEG", progressive=True, subsampling=0),
    "AVIF": lambda: encoded(Image.new("RGB", (LARGE, LARGE)), "AVIF", speed=10),
    "floats": lambda: encoded(Image.new("F", (LARGE, LARGE)), "TIFF", compression="tiff_lzw"),
}


def decode_in_16_pixels(path):
    Decoder((SIDE, SIDE), 1, "center", "box", "white")("it", Path(path).read_bytes())


def test_the_memory_of_decoding_is_what_the_limit_counts(tmp_path, monkeypatch):
    contents = {name: make() for name, make in LARGE_FILES.items()}
    root = write_folder(tmp_path, {f"{name}.bin": content for name, content in contents.items()})
    folders = (Path(__file__).parent, Path(__file__).parents[1], Path(stylegan_ray.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    found = confined.outcomes("test_decode.decode_in_16_pixels", {name: str(root / f"{name}.bin") for name in contents})
    for name, content in contents.items():
        counted = bytes_in_memory(read_header(content))
        assert found[name].message == "" and found[name].taken < 1.1 * counted + len(content) + (64 << 20), name
        with pytest.raises(ValueError, match=f"is {LARGE}x{LARGE} pixels, more than data.max_image_mb=35 allows"):
            read_header(content, 35 << 20)


LINES = b"".join(b"\0" + bytes([200] * 3 * SIDE) for _ in range(SIDE))


def png(pixels, *chunks, color=2, interlace=0, end=()):
    """A PNG of 16 x 16 pixels with 8 bits per channel; chunks stand before and behind its compressed pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, color, 0, 0, interlace))
    pixels = chunk(b"IDAT", zlib.compress(pixels))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, pixels, *end, chunk(b"IEND")))


def decode(content, channels=3, **keys):
    return Decoder((SIDE, SIDE), channels, **keys)("a", content)


@pytest.mark.parametrize("num_rows", [1, 3, 15])
def test_pixels_of_a_png_that_end_early(num_rows):
    assert (decode(png(LINES)) == 200).all() and (decode(png(bytes(len(LINES)))) == 0).all()
    with pytest.raises(BadImage, match=f"cut off before its last pixel: {num_rows * 49} of 784 bytes"):
        decode(png(LINES[: num_rows * 49]))


@pytest.mark.parametrize(("height", "width"), [(3, 1), (1, 8), (5, 7), (16, 16), (13, 8)])
def test_interlaced_pixels_of_a_png_that_end_early(height, width):
    """Rows of zeros end as those do for which there is no data."""
    passes = ((range(top, height, down), range(left, width, right)) for top, left, down, right in PASSES)
    rows = [bytes(1 + len(columns)) for lines, columns in passes if columns for _ in lines]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1))
    whole, cut = (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"".join(some))) + chunk(b"IEND")
        for some in (rows, rows[:-1])
    )
    assert Decoder((height, width), 1)("a", whole).max() == 0
    with pytest.raises(BadImage, match="cut off before its last pixel"):
        Decoder((height, width), 1)("a", cut)


JPEG_KINDS = {
    "plain": {}, "gray": {"mode": "L"}, "CMYK": {"mode": "CMYK"}, "fine": {"quality": 100, "subsampling": 0},
    "restarts": {"restart_marker_blocks": 3}, "one restart": {"restart_marker_rows": 4},
}  # fmt: skip


def jpeg(picture, mode="RGB", **options):
    return encoded(picture.convert(mode), "JPEG", **options)


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_jpeg_that_ends_early_though_it_has_an_end(kind, share):
    whole = jpeg(noise_picture(0, (70, 70)), **JPEG_KINDS[kind])
    start = whole.index(b"\xff\xda") + 14
    content = whole[: start + int((len(whole) - start) * share)] + b"\xff\xd9"
    for ending in (b"", b"appended"):
        assert Decoder((70, 70), 3)("a", whole + ending).shape == (3, 70, 70)
        with pytest.raises(BadImage, match="cut off before its last pixel"):
            Decoder((70, 70), 3)("a", content + ending)


@pytest.mark.parametrize("options", [*JPEG_KINDS.values(), {"progressive": True}])
@pytest.mark.parametrize("gray_from", [0, 30, 69])
def test_a_whole_jpeg_whose_last_pixels_are_gray(options, gray_from):
    picture = noise_picture(0, (70, 70))
    for level in (127, 128):
        picture.paste((level,) * 3, (0, gray_from, 70, 70))
        assert Decoder((70, 70), 3)("a", jpeg(picture, **options)).shape == (3, 70, 70)


def inflated(num_bytes):
    return zlib.compress(bytes(num_bytes))


NOTES = {
    "damaged EXIF": chunk(b"eXIf", b"garbage"), "no EXIF": chunk(b"eXIf", b"II*\0"),
    "EXIF that points nowhere": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    **{name: chunk(b"tEXt", name.encode() + b"\0" + value) for name, value in (
        ("exif", b"MM"), ("transparency", b"abc"), ("interlace", b"1"), ("bbox", b"1234"), ("icc_profile", b"x"),
        ("default_image", b"x"))},
    "compressed transparency": chunk(b"zTXt", b"transparency\0\0" + zlib.compress(b"abc")),
    "long text": chunk(b"zTXt", b"a\0\0" + inflated(2 << 20)), "odd text": chunk(b"zTXt", b"a\0\7x"),
    "long international text": chunk(b"iTXt", b"a\0\1\0\0\0" + inflated(2 << 20)),
    "long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + inflated(2 << 20)),
    "many texts": chunk(b"zTXt", b"a\0\0" + inflated(1_000_000)) * 70,
    "long profile": chunk(b"iCCP", b"a\0\0" + inflated(2 << 20)), "odd profile": chunk(b"iCCP", b"a\0\7x"),
    "empty profile": chunk(b"iCCP"), "short gamma": chunk(b"gAMA", b"\0"), "short dpi": chunk(b"pHYs"),
    "short primaries": chunk(b"cHRM", bytes(4)), "short intent": chunk(b"sRGB"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("name", NOTES)
def test_notes_in_a_png_have_no_effect_on_its_pixels(name):
    key = chunk(b"tRNS", struct.pack(">HHH", 200, 200, 200))
    for before, behind in ((NOTES[name], b""), (b"", NOTES[name])):
        assert (decode(png(LINES, before, end=[behind])) == 200).all()
        assert (decode(png(LINES, key, before, end=[behind]), alpha="black") == 0).all()
    if name != "compressed transparency":
        header = read_header(png(LINES, NOTES[name]))
        assert orientation_of(header) == 1 and "transparency" not in header.info


def test_damaged_exif_of_a_webp():
    picture = noise_picture(0, (SIDE, SIDE))
    np.testing.assert_array_equal(decode(encoded(picture, "WEBP", exif=b"garbage")), decode(encoded(picture, "WEBP")))


def test_an_orientation_of_a_png_counts():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = noise_picture(0, (SIDE, SIDE))
    turned = decode(encoded(picture, exif=exif, pnginfo=a_text()))
    np.testing.assert_array_equal(turned, np.rot90(chw(picture), -1, (1, 2)))


def a_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("exif", "MM")
    return info


INDICES = b"".join(b"\0" + bytes(range(SIDE)) for _ in range(SIDE))


@pytest.mark.parametrize("num_colors", [0, 1, 15, 16])
def test_colors_that_a_palette_lacks(num_colors):
    content = png(INDICES, *[chunk(b"PLTE", bytes([7] * 3 * num_colors))] * bool(num_colors), color=3)
    if num_colors == SIDE:
        assert (decode(content) == 7).all()
        return
    with pytest.raises(BadImage, match=f"uses color 15, and its palette has {num_colors}, counted from 0"):
        decode(content)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("num_colors", [2, 5, 256])
def test_whole_palettes(kind, num_colors):
    picture = noise_picture(0, (SIDE, SIDE)).quantize(num_colors)
    np.testing.assert_array_equal(decode(encoded(picture, kind)), chw(picture.convert("RGB")))


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "YCbCr"])
def test_color_spaces_of_tiff(mode):
    pixels = Image.frombytes(mode, (SIDE, SIDE), bytes(range(256)) * len(Image.new(mode, (1, 1)).getbands()))
    content, in_rgb = encoded(pixels, "TIFF"), pixels.convert("RGB")
    np.testing.assert_array_equal(decode(content), chw(in_rgb))
    np.testing.assert_array_equal(decode(content, 1), chw((in_rgb if mode == "LAB" else pixels).convert("L")))


def tiff_of(bits, width, sample_format=1):
    tags = [(256, width), (257, SIDE), (258, bits), (262, 1), (273, 8), (277, 1), (278, SIDE), (279, 8)]
    tags += [(339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (png(LINES, chunk(b"tIME", bytes(7))[:-1] + b"\xff"), "PNG"),
        (png(LINES, chunk(b"tEXt", b"a\0b")[:-1] + b"\xff"), "PNG"),
        (png(LINES).replace(b"\r\n", b"\n"), "PNG"), (b"GIF89a" + bytes(7), "GIF"),
        (tiff_of(8, 0), "TIFF"), (tiff_of(64, SIDE, 3), "TIFF"), (b"RIFF____WEBP", "WEBP"),
        (b"BM____" + bytes(9), "BMP"), (b"P7\nx", "PPM"), (encoded(noise_picture(0), "AVIF")[:40], "AVIF"),
    ],
)  # fmt: skip
def test_damaged_files_are_called_by_their_format(content, name):
    with pytest.raises(BadImage, match=f"is a damaged or unsupported {name}; save it again as PNG or JPEG"):
        decode(content)


@pytest.mark.parametrize("content", [b"", b"BMW.", b"Paris\n", b"RIFF____WAVE", b"hello", b"II", b"GIF"])
def test_other_files_are_no_images(content):
    with pytest.raises(BadImage, match="is not an image of a format that is read"):
        decode(content)
