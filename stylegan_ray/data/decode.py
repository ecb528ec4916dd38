"""Decodes one image file to uint8 [C,H,W] with Pillow: the only place that opens image files."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImagePalette, UnidentifiedImageError, features
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from stylegan_ray.data import tiff
from stylegan_ray.data.decode_cost import (
    MAX_READS,
    CountedReads,
    check_comments,
    check_repeated,
    check_scans,
    check_scans_of_parts,
    check_speed,
    has_deep_values,
    is_scaled_pnm,
    load_scaled_pnm,
)
from stylegan_ray.data.errors import BadImage, DataError, MissingDecoder
from stylegan_ray.data.jpeg import check_end
from stylegan_ray.data.png import check_size_of_pixels, last_row, without_texts
from stylegan_ray.untrusted import LARGE_BYTES, describe_pointer, large_turn, printable

FILE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM")
"""The decoders of Pillow that are used, whatever a file is named. Others start programs (EPS) or are hardly tested."""
NOT_READ = f"is not an image of a format that is read ({', '.join(FILE_FORMATS)})"
BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II", b"MM", b"GIF8", b"P")
"""How files of FILE_FORMATS begin; those of AVIF and HEIF have `ftyp` after four bytes."""
MAX_IMAGE_BYTES = 1 << 29
"""Larger images are refused before they are decoded: a small file can claim any size (data.max_image_mb)."""
BYTES_PER_PIXEL = 4
"""Memory that Pillow takes for a pixel of any mode, at most; decoders and conversions hold copies beside it."""
OF_FORMAT = {"WEBP": 16, "AVIF": 10, "HEIF": 10}
OF_MODE = {"I;16": 6, "I": 9, "F": 9, "CMYK": 9, "LAB": 9, "RGBA": 9}
OF_ALPHA, OF_PROGRESSIVE, OF_DEEP_KEY = 12, 10, 20
"""Bytes of a pixel at the peak, as measured: of some formats and modes, others with transparency, JPEG with the
coefficients of the whole image, and 16-bit colors of which one is transparent."""
MOST_BYTES_PER_PIXEL = OF_DEEP_KEY
STRIP_PIXELS = 1 << 22
"""Pixels that are converted together where all at once would take much memory."""

DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
"""Modes of gray images with more than 8 bits."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that the values of a deep image may have."""
UNIT, FAINT_UNIT = 1, 0
"""Depths of floats from 0 to 1, and of those that need FAINT_BITS less."""
FAINT_BITS = 4
"""Images that need so many bits less than the range has are nearly black."""
IS_FLOAT, IS_REDUCED = 0x80, 0x40
"""Added to the depth of floats, and of 16-bit channels of which Pillow keeps the high byte only."""

Image.MAX_IMAGE_PIXELS = None  # read_header compares sizes with its own limit, before anything is decoded

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
GRAY_MODES = frozenset({"1", "L", "LA", "La"}) | DEEP_MODES
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


@dataclass(frozen=True)
class Decoder:
    """Converts images to the resolution and channels of training; the fields enter the data fingerprint.

    With `none` for crop and resize an image of another size is refused.
    """

    resolution: tuple[int, int]
    num_channels: int
    crop: Literal["none", "center"] = "none"
    resize: Literal["none", "lanczos", "box"] = "none"
    alpha: Literal["error", "white", "black", "drop"] = "error"
    bits: int = 16
    """Bits of gray images of 16 or 32 bits: the highest eight are used."""
    float_bits: int = 16
    """Bits of the range of floats, or UNIT for a range of 0 to 1."""
    max_bytes: int = MAX_IMAGE_BYTES
    """Of a file and of the decoded image; it does not enter the fingerprint."""
    extra_formats: tuple[str, ...] = ()
    """Formats that are read beside FILE_FORMATS (data.extra_formats); they do not enter the fingerprint."""

    def __call__(self, name: str, content: bytes) -> np.ndarray:
        """Pixels uint8 [C,H,W] of an image file; raises BadImage."""
        try:
            with decoded(content, self.max_bytes, self.extra_formats) as image:
                return self.convert(image)
        except Exception as error:  # Pillow's readers raise nearly anything on broken files
            raise BadImage(name, explain_error(error, content)) from error

    def convert(self, image: Image.Image) -> np.ndarray:
        """Pixels uint8 [C,H,W] of a decoded image; raises ValueError when it has another size or transparent pixels."""
        image = self._fit(self._convert_channels(image))
        if self.num_channels == 1:
            return np.array(image)[None]
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def _convert_channels(self, image: Image.Image) -> Image.Image:
        mode = "L" if self.num_channels == 1 else "RGB"
        if image.mode == mode and "transparency" not in image.info:
            return image
        image = in_eight_bits(image, self.bits, self.float_bits)
        if has_alpha(image):
            image = remove_alpha(image, self.alpha)
        return image.convert(mode)

    def _fit(self, image: Image.Image) -> Image.Image:
        height, width = self.resolution
        if image.size == (width, height):
            return image
        box = crop_box(image.height, image.width, self.resolution, self.crop, self.resize)
        if box is None:
            raise ValueError(f"is {image.height}x{image.width}, not {height}x{width} (height x width)")
        if self.resize == "none":
            return image.crop(box)
        image = image if box == (0, 0, *image.size) else image.crop(box)  # a crop is a copy
        return image if image.size == (width, height) else image.resize((width, height), FILTERS[self.resize])


def read_header(content: bytes, max_bytes: int = MAX_IMAGE_BYTES, extra_formats: Sequence[str] = ()) -> Image.Image:
    """An image of which only the header is read; raises what Pillow raises, or ValueError for one that is too large."""
    check_repeated(content)
    check_comments(content)
    for_pillow, directory = tiff.for_pillow(content)
    stream = CountedReads(without_texts(_without_exif_item(for_pillow)))
    try:
        image = Image.open(stream, formats=available_formats(extra_formats))
    except UnidentifiedImageError as error:
        raise ValueError(_why_not_opened(content, extra_formats)) from error
    check_scans(content, image.width * image.height)
    if image.width * image.height * bytes_per_pixel(image) > max_bytes:
        raise ValueError(
            f"is {image.height}x{image.width} pixels, more than data.max_image_mb={max_bytes >> 20} allows "
            f"({bytes_per_pixel(image)} bytes each)"
        )
    if bytes_in_memory(image) > max_bytes:
        raise ValueError(
            f"is a TIFF with a tile of {pixels_of_tile(image)} pixels, more than data.max_image_mb="
            f"{max_bytes >> 20} allows ({BYTES_PER_PIXEL} bytes each); save it again"
        )
    if directory is not None:
        _prepare_tiff(image, content, directory)
    stream.left = MAX_READS + check_speed(image)
    return image


def _without_exif_item(content: bytes) -> bytes:
    """An AVIF or HEIF without EXIF, which has no effect on pixels and may hinder Pillow; other files are unchanged."""
    return EXIF_ITEM.sub(rb"\1none", content) if content[4:8] == b"ftyp" else content


EXIF_ITEM = re.compile(rb"(infe.{8}(?:..)?)Exif", re.DOTALL)
"""An entry for EXIF in AVIF and HEIF, whose boxes irot and imir alone turn an image (ISO/IEC 14496-12, 8.11.6)."""


def _prepare_tiff(image: Image.Image, content: bytes, directory: tiff.Directory) -> None:
    """Makes Pillow read the pixels of a TIFF rightly; raises ValueError where it cannot, or would take very long."""
    tiff.check_layout(directory)
    if directory.value(tiff.COMPRESSION, tiff.RAW) == tiff.JPEG:
        check_scans_of_parts(content, directory.parts(), image.width * image.height)
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(tiff.raw_mode(directory, tile.args[0]), *tile.args[1:]))
        for tile in image.tile  # type: ignore[attr-defined]
    ]
    image.is_animated = True  # type: ignore[attr-defined] - else Pillow also reads its EXIF directories, of any length


def bytes_per_pixel(image: Image.Image) -> int:
    """Memory for each pixel of an image of which the header is read, while it is decoded and made one of training."""
    if image.format in OF_FORMAT:
        return OF_FORMAT[image.format]
    if "transparency" in image.info and raw_mode_of(image) == "RGB;16B":
        return OF_DEEP_KEY
    if image.mode != "L" and image.info.get("progressive"):
        return OF_PROGRESSIVE
    of_mode = OF_MODE.get(image.mode)
    return of_mode or (OF_ALPHA if has_alpha(image) else BYTES_PER_PIXEL)


def pixels_of_tile(image: Image.Image) -> int:
    """Pixels of a tile of a TIFF, which is decoded whole whatever the size of the image; 0 for strips and other images.

    The header of the image is read.
    """
    if not isinstance(image, TiffImageFile):
        return 0
    return image.tag_v2.get(tiff.TILE_WIDTH, 0) * image.tag_v2.get(tiff.TILE_HEIGHT, 0)


def bytes_in_memory(image: Image.Image) -> int:
    """Memory for an image of which the header is read, or for a tile of its file where that takes more."""
    whole = image.width * image.height * bytes_per_pixel(image)
    return max(whole, pixels_of_tile(image) * BYTES_PER_PIXEL)


def open_image(content: bytes, max_bytes: int = MAX_IMAGE_BYTES, extra_formats: Sequence[str] = ()) -> Image.Image:
    """A decoded image, turned upright as its EXIF orientation says."""
    return _loaded(read_header(content, max_bytes, extra_formats), content)


@contextmanager
def decoded(
    content: bytes, max_bytes: int = MAX_IMAGE_BYTES, extra_formats: Sequence[str] = ()
) -> Iterator[Image.Image]:
    """As `open_image`; large images are in memory one at a time, while the block runs."""
    header = read_header(content, max_bytes, extra_formats)
    with large_turn:
        if bytes_in_memory(header) > LARGE_BYTES:
            large_turn.take()
        yield _loaded(header, content)


def _loaded(image: Image.Image, content: bytes) -> Image.Image:
    """An image of which the header is read, decoded, with white as the largest value, and turned upright."""
    raw_mode, num_colors, box = raw_mode_of(image), _num_colors(image), _box_of_pixels(image)
    if is_scaled_pnm(image):
        return load_scaled_pnm(image, content)
    image.load()
    _check_pixels(image, content, num_colors, box)
    _scale_color_key(image, raw_mode, content)
    if image.mode == "LAB":
        image = image.convert("RGB")  # Pillow converts it to no other mode
    if image.mode in DEEP_MODES and is_inverted(image):
        if image.mode == "F":
            raise ValueError("is a TIFF of floats in which 0 is white; save it with 0 as black")
        image, info = Image.fromarray(0xFFFF - np.asarray(image)), image.info
        image.info = info
    return _turned(image)


def _check_pixels(image: Image.Image, content: bytes, num_colors: int, box: tuple[int, int, int, int]) -> None:
    """Raises ValueError for a decoded image that its decoder completed with pixels of its own."""
    if image.mode == "P" and num_colors < 256 and (most := image.getextrema()[1]) >= num_colors:  # type: ignore[operator]
        raise ValueError(f"uses color {most}, and its palette has {num_colors}, counted from 0; save it again")
    if image.format == "PNG":
        left, top, right, bottom = box
        row = top + last_row(content, bottom - top)
        if image.crop((left, row, right, row + 1)).getbbox(alpha_only=False) is None:
            check_size_of_pixels(content, bottom - top, right - left)
    check_end(content, image)


def _num_colors(image: Image.Image) -> int:
    """Colors of the palette of an image of which only the header is read; 0 without one."""
    palette = image.palette
    if not isinstance(palette, ImagePalette.ImagePalette):
        return 0
    return len(palette.palette) // len((palette.rawmode or palette.mode).partition(";")[0])


def _box_of_pixels(image: Image.Image) -> tuple[int, int, int, int]:
    """The part that a file has pixels for, of an image of which only the header is read; a frame may be smaller."""
    tiles = getattr(image, "tile", None)
    return (tiles[0][1] if tiles else None) or (0, 0, *image.size)


ORIENTATION = tiff.ORIENTATION
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its orientation (Exif 3.0, section 4.6.5.1.6)."""


def orientation_of(image: Image.Image) -> int:
    """Orientation in EXIF, or in XMP where EXIF has none, 1 to 8; 1 for anything else, and without EXIF."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return 1
    found, xmp = tiff.exif_orientation(exif), image.info.get("xmp")
    if found is None and isinstance(xmp, bytes) and (match := XMP_ORIENTATION.search(xmp)) is not None:
        found = int(match[1])
    return found if found in TURNS else 1


XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def _turned(image: Image.Image) -> Image.Image:
    """An image turned upright, as its EXIF orientation says."""
    orientation = orientation_of(image)
    if orientation == 1:
        return image
    image = image.transpose(TURNS[orientation])
    del image.info["exif"]
    return image


def raw_mode_of(image: Image.Image) -> str:
    """How Pillow names the pixels of a file of which only the header is read, such as RGB;16B; it may be empty."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def _scale_color_key(image: Image.Image, raw_mode: str, content: bytes) -> None:
    """Gives the transparent color of a PNG (chunk tRNS) the depth of the decoded image; Pillow leaves that of the file.

    Colors of 16 bits, of which Pillow keeps the high bytes, get an alpha channel. Deep gray images keep their depth.
    """
    key = image.info.get("transparency")
    if raw_mode in FEW_LEVELS and isinstance(key, int):
        image.info["transparency"] = key % FEW_LEVELS[raw_mode] * (255 // (FEW_LEVELS[raw_mode] - 1))
    elif raw_mode == "RGB;16B" and isinstance(key, tuple):
        low = Image.open(io.BytesIO(without_texts(content)), formats=["PNG"])
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # type: ignore[attr-defined]
        low.load()  # the second byte of each value
        halves = zip(strips(image), strips(low), strict=True)
        values = (np.asarray(high).astype(np.uint16) << 8 | np.asarray(rest) for (_, high), (_, rest) in halves)
        image.putalpha(_opaque_but(key, values))
        del image.info["transparency"]


FEW_LEVELS = {"L;2": 4, "L;4": 16}
"""Levels of gray that Pillow spreads over 0 to 255, by its name of the pixels of a file."""


def _opaque_but(key: int | tuple[int, ...], rows: Iterable[np.ndarray]) -> Image.Image:
    """The alpha channel of an image of which the color `key` is transparent, from its values [H,W] or [H,W,3]."""
    same = (values == key for values in rows)
    opaque = [np.invert(is_key.all(axis=2) if is_key.ndim == 3 else is_key) for is_key in same]
    return Image.fromarray(np.concatenate(opaque).astype(np.uint8) * np.uint8(255))


def _deep_alpha(image: Image.Image) -> Image.Image | None:
    """The alpha channel of an image of DEEP_MODES; None without a transparent color."""
    key = image.info.get("transparency")
    return _opaque_but(key, (np.asarray(strip) for _, strip in strips(image))) if isinstance(key, int) else None


def is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white in a TIFF, as without the tag; Pillow inverts values of up to 8 bits only."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION, 0) == 0


def available_formats(extra_formats: Sequence[str] = ()) -> list[str]:
    """Those of FILE_FORMATS that this Pillow can open, and HEIF where it is among the extra formats."""
    if not Image.OPEN.keys() >= set(FILE_FORMATS):
        Image.init()
    if "heif" not in extra_formats:
        return [name for name in FILE_FORMATS if name in Image.OPEN]
    if "HEIF" not in Image.OPEN:
        import_pillow_heif().register_heif_opener()
    return [name for name in (*FILE_FORMATS, "HEIF") if name in Image.OPEN]


def import_pillow_heif() -> Any:
    """The package that decodes HEIC; raises DataError where it cannot be imported."""
    try:
        return importlib.import_module("pillow_heif")
    except ImportError as error:
        raise DataError(
            f"data.extra_formats=heif needs the package pillow-heif, which cannot be imported ({printable(error.msg)});"
            " install it with pip install 'stylegan-ray[heif]', or leave the key out"
        ) from error


def extra_decoders(extra_formats: Sequence[str]) -> list[str]:
    """Versions of what decodes the extra formats; raises DataError where it is not installed."""
    return [f"pillow-heif {import_pillow_heif().__version__}" for name in extra_formats if name == "heif"]


def check_beginning(content: bytes) -> None:
    """Raises ValueError for the first bytes of what is an image of no format that is read."""
    if content and not content.startswith(BEGINNINGS) and content[4:8] != b"ftyp":
        raise ValueError(NOT_READ)


def explain_error(error: Exception, content: bytes = b"") -> str:
    """The reason why an image cannot be decoded, in one printable line."""
    if (missing := missing_decoder(content)) is not None:
        return str(missing)
    if pointer := describe_pointer(content):
        return f"is {pointer}, not an image; run `git lfs pull`, or download the file itself"
    text = printable(" ".join(str(error).split()))
    return text or type(error).__name__


def _why_not_opened(content: bytes, extra_formats: Sequence[str]) -> str:
    """The reason why Pillow opens a file in none of the formats that are read."""
    name = format_of(content)
    if name == "HEIC" and "heif" not in extra_formats:
        return "is a HEIC image, which is read with data.extra_formats=heif (and the package pillow-heif)"
    return f"is a damaged or unsupported {name}; save it again as PNG or JPEG" if name else NOT_READ


def missing_decoder(content: bytes) -> MissingDecoder | None:
    """The fault of this Pillow where it was built without the decoder of an image that it should read."""
    name = format_of(content)
    if name not in FEATURES or (name in available_formats() and features.check(FEATURES[name])):
        return None
    return MissingDecoder(
        f"is {name}, and the installed Pillow was built without {name}; install a wheel of it: pip install "
        "--force-reinstall pillow"
    )


FEATURES = {"WEBP": "webp", "AVIF": "avif", "JPEG": "jpg", "PNG": "zlib"}
"""The feature of Pillow that decodes a format."""
SIGNATURES = {
    "WEBP": rb"RIFF.{4}WEBP",
    "AVIF": rb".{4}ftypavi",
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "HEIC": rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "BMP": rb"BM.{4}\0{4}",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "GIF": rb"GIF8[79]a",
    "PPM": rb"P[1-7fFy]\s",
}
"""How files of FILE_FORMATS begin, and HEIF with HEVC or unnamed content (ISO/IEC 23008-12, annexes B and C)."""


def format_of(content: bytes) -> str | None:
    """The format of an image file by its first bytes, whether the rest is damaged or not."""
    return next((name for name, start in SIGNATURES.items() if re.match(start, content, re.DOTALL)), None)


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ALPHA_MODES or "transparency" in image.info


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if not has_alpha(image):
        return False
    if image.mode in DEEP_MODES:
        alpha = _deep_alpha(image)
    else:
        alpha = (image if image.mode in ("RGBA", "LA") else image.convert("RGBA")).getchannel("A")
    return alpha is not None and alpha.getextrema()[0] < 255  # type: ignore[operator]


def is_gray(image: Image.Image) -> bool:
    return image.mode in GRAY_MODES


def depth_of(image: Image.Image, content: bytes) -> int:
    """How many bits the values of a decoded image need where it is stored with more than 8, else 0.

    One of DEPTHS or UNIT or FAINT_UNIT, with IS_FLOAT or IS_REDUCED; 0 also for a gray image that is black. Raises
    ValueError for values that are no intensities.
    """
    if image.mode not in DEEP_MODES:
        return IS_REDUCED | _bits_for((_brightest(image) << 8) + 255) if has_deep_channels(image, content) else 0
    low, high = np.inf, -np.inf
    for _, strip in strips(image):
        values = np.asarray(strip)
        if image.mode == "I" and has_unsigned_values(image):
            values = values.view(np.uint32)
        if not np.isfinite(values).all():
            raise ValueError("holds values that are not finite; convert it to 8 or 16 bits")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"holds values from {low:g} to {high:g}, and only 0 to 65535 are read; convert it to 16 bits")
    if high == 0 or image.mode != "F":
        return _bits_for(high) if high else 0
    if 1 < high < 2:
        raise ValueError(f"holds floats up to {high:g}, neither from 0 to 1 nor whole levels; clip them to 1")
    return IS_FLOAT | (_bits_for(high) if high > 1 else UNIT if high >= 2**-FAINT_BITS else FAINT_UNIT)


def has_deep_channels(image: Image.Image, content: bytes) -> bool:
    """Whether a decoded image of 8 bits per channel is stored with 16, of which Pillow drops the low ones."""
    if content.startswith(b"\x89PNG"):
        return content[24:25] == b"\x10"
    if content.startswith(b"P"):
        return has_deep_values(content)
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, 0)
    return max(bits if isinstance(bits, tuple) else (bits,), default=0) == 16


def has_unsigned_values(image: Image.Image) -> bool:
    """Whether a TIFF holds numbers without a sign, also of 32 bits, which Pillow keeps as numbers with one."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(SAMPLE_FORMAT, 1) in (1, (1,))


BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339
"""Tags of a TIFF."""


def _brightest(image: Image.Image) -> int:
    """The largest value of all channels but alpha."""
    bands = image.getextrema() if len(image.getbands()) > 1 else (image.getextrema(),)
    return max(int(high) for (_, high), name in zip(bands, image.getbands(), strict=True) if name not in "Aa")  # type: ignore


def _bits_for(value: float) -> int:
    """The smallest of DEPTHS that holds a value."""
    return next((bits for bits in DEPTHS if value < 1 << bits), DEPTHS[-1])


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Some rows of an image at a time, each with the number of the first one."""
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def in_eight_bits(image: Image.Image, bits: int, float_bits: int) -> Image.Image:
    """An image of at most 8 bits; bits are as in Decoder."""
    if image.mode not in DEEP_MODES:
        return image
    return to_eight_bits(image, float_bits if image.mode == "F" else bits)


def to_eight_bits(image: Image.Image, bits: int = 16) -> Image.Image:
    """A gray image of DEEP_MODES with values of so many bits (or floats of 0 to 1 with UNIT), as 8 bits.

    One with a transparent color gets an alpha channel.
    """
    rows = [_highest_byte(np.asarray(strip), bits) for _, strip in strips(image)]
    result, alpha = Image.fromarray(np.concatenate(rows)), _deep_alpha(image)
    if alpha is not None:
        result.putalpha(alpha)
    return result


def _highest_byte(values: np.ndarray, bits: int) -> np.ndarray:
    if bits == UNIT:
        return np.rint(np.nan_to_num(values) * 255).clip(0, 255).astype(np.uint8)
    whole = np.nan_to_num(values).clip(0, 0xFFFF).astype(np.uint16) >> (bits - 8)
    return whole.clip(0, 255).astype(np.uint8)


def remove_alpha(image: Image.Image, policy: str) -> Image.Image:
    """An opaque RGB image, as data.alpha says; raises ValueError for transparent pixels with policy `error`."""
    if policy == "error" and is_transparent(image):
        raise ValueError("is transparent; choose with data.alpha white, black or drop")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    if policy in ("drop", "error"):
        return image.convert("RGB")
    result = Image.new("RGB", image.size)
    for top, strip in strips(image):
        result.paste(Image.alpha_composite(Image.new("RGBA", strip.size, policy), strip).convert("RGB"), (0, top))
    return result


def crop_box(
    height: int, width: int, target: tuple[int, int], crop: str, resize: str
) -> tuple[int, int, int, int] | None:
    """The part of an image that is used, as (left, top, right, bottom); None when the image cannot be made to fit."""
    target_height, target_width = target
    if crop == "none":
        same_shape = height * target_width == width * target_height
        fits = same_shape if resize != "none" else (height, width) == target
        return (0, 0, width, height) if fits else None
    if resize == "none":
        used_height, used_width = target_height, target_width
    else:  # the largest part of the target's shape
        used_height = min(height, round(width * target_height / target_width))
        used_width = min(width, round(height * target_width / target_height))
    if used_height > height or used_width > width:
        return None
    left, top = (width - used_width) // 2, (height - used_height) // 2
    return left, top, left + used_width, top + used_height
