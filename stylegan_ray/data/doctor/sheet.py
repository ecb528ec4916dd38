"""A contact sheet of the doubtful images: a PNG with a section for each kind of doubt."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stylegan_ray.data.doctor.doubts import KINDS, Kind
from stylegan_ray.data.doctor.findings import Findings
from stylegan_ray.data.doctor.summary import Doubts
from stylegan_ray.data.encode import encode_png
from stylegan_ray.data.formats.protocol import Inspector
from stylegan_ray.untrusted import printable

TILE, GAP, MARGIN, COLUMNS = 132, 12, 24, 7
"""Pixels, and tiles in a row."""
MOST_TILES = 4 * COLUMNS
"""Tiles of a section."""
TEXT, HEADING, LINE, CAPTION_LINES = 11, 18, 14, 4
INK, PALE, WARNING, SQUARES = "#1a1a1a", "#707070", "#c92a2a", ("#ffffff", "#dcdcdc")
HEADING_HEIGHT, TILE_HEIGHT = 64, TILE + CAPTION_LINES * LINE + GAP
WIDTH = 2 * MARGIN + COLUMNS * (TILE + GAP) - GAP


@dataclass(frozen=True)
class Thumbnailer:
    """Reads images and shrinks them, in any process."""

    inspect: Inspector

    def __call__(self, entries: np.ndarray) -> list[bytes]:
        """A PNG file of at most TILE x TILE pixels for each image; empty for those that cannot be read."""
        return [self.thumbnail(entry) for entry in entries.tolist()]

    def thumbnail(self, entry: int) -> bytes:
        try:
            image = self.inspect(entry).image
            image = image if image.mode.startswith(("I", "F")) else image.convert("RGBA")
            if image.mode != "RGBA":
                image = _as_gray(image).convert("RGBA")
            scale = TILE / max(image.size)
            size = tuple(max(round(side * scale), 1) for side in image.size)
            smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
            return encode_png(image.resize(size, smooth))  # type: ignore[arg-type]
        except Exception:  # the section of unreadable images says why
            return b""


def _as_gray(image: Image.Image) -> Image.Image:
    """A deep gray image with its darkest value black and its brightest white."""
    values = np.asarray(image).astype(np.float64)
    values -= values.min()
    return Image.fromarray((255 * values / max(values.max(), 1e-9)).astype(np.uint8))


@dataclass(frozen=True)
class Tile:
    """An image of the sheet with its caption."""

    entry: int
    name: str
    why: str
    is_kept: bool = False
    """Whether the image is shown for comparison only."""


def choose_tiles(findings: Findings, doubts: Doubts) -> dict[str, list[Tile]]:
    """Which images each section shows, by the name of its kind: the first ones, and for duplicates the kept one too."""
    return {kind.name: list(_tiles(findings, kind, doubts))[:MOST_TILES] for kind in KINDS if doubts[kind.name]}


def _tiles(findings: Findings, kind: Kind, doubts: Doubts) -> Iterable[Tile]:
    names, reasons = findings.index.names, doubts[kind.name]
    groups = {"duplicate": findings.duplicates, "near-duplicate": findings.near_duplicates}.get(kind.name)
    if groups is None:
        yield from (Tile(entry, names[entry], why) for entry, why in reasons.items())
        return
    for group in groups:
        for entry in sorted(group, key=lambda entry: entry in reasons):
            yield Tile(entry, names[entry], reasons.get(entry, "is kept"), is_kept=entry not in reasons)


def draw_sheet(findings: Findings, doubts: Doubts, thumbnails: Mapping[int, bytes], path: str) -> bytes:
    """The sheet as a PNG file, from thumbnails of the entries of `choose_tiles`."""
    sections = choose_tiles(findings, doubts)
    places, height = _layout({name: len(tiles) for name, tiles in sections.items()})
    sheet = Image.new("RGB", (WIDTH, height + MARGIN), "white")
    draw, num = ImageDraw.Draw(sheet), len(findings.index.names)
    doubtful = len({entry for reasons in doubts.values() for entry in reasons})
    title = f"{printable(path)}: {doubtful} of {num} images are doubtful"
    draw.text((MARGIN, MARGIN), _fitted(title, _font(HEADING), WIDTH - 2 * MARGIN), INK, _font(HEADING))
    for kind in KINDS:
        if kind.name in sections:
            place, tiles = places[kind.name], sections[kind.name]
            _draw_heading(draw, place, kind, tiles, len(doubts[kind.name]))
            _draw_tiles(sheet, place, kind, tiles, thumbnails, findings)
    return encode_png(sheet, optimize=True)


def _layout(num_tiles: Mapping[str, int]) -> tuple[dict[str, tuple[int, int]], int]:
    """Places (x, y) of sections with so many tiles, small ones side by side, and where the last one ends."""
    places, column, top, bottom = {}, 0, MARGIN + 40, MARGIN + 40
    for name, num in num_tiles.items():
        columns = min(num, COLUMNS)
        if column + columns > COLUMNS:
            column, top = 0, bottom
        places[name] = (MARGIN + column * (TILE + GAP), top)
        bottom = max(bottom, top + HEADING_HEIGHT + -(-num // COLUMNS) * TILE_HEIGHT)
        column += columns
    return places, bottom


def _draw_heading(draw: ImageDraw.ImageDraw, place: tuple[int, int], kind: Kind, tiles: list[Tile], num: int) -> None:
    """How many images there are, and what --fix does with them."""
    (x, y), width = place, min(len(tiles), COLUMNS) * (TILE + GAP) - GAP
    draw.line((x, y, x + width, y), "#cccccc")
    draw.text((x, y + 8), _fitted(f"{kind.heading}: {num}", _font(HEADING - 3), width), INK, _font(HEADING - 3))
    shown = sum(not tile.is_kept for tile in tiles)
    note = f"--fix: {kind.policy}" + (f"; {num - shown} more in the JSON report" if num > shown else "")
    for number, line in enumerate(_wrapped(note, 2, width)):
        draw.text((x, y + 29 + number * LINE), line, PALE, _font(TEXT))


def _draw_tiles(
    sheet: Image.Image,
    place: tuple[int, int],
    kind: Kind,
    tiles: list[Tile],
    thumbnails: Mapping[int, bytes],
    findings: Findings,
) -> None:
    draw = ImageDraw.Draw(sheet)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        x, y = place[0] + column * (TILE + GAP), place[1] + HEADING_HEIGHT + row * TILE_HEIGHT
        _draw_image(sheet, (x, y), thumbnails.get(tile.entry, b""))
        if kind.name == "padded":
            _draw_box(draw, (x, y), findings.traits[tile.entry])
        draw.text((x, y + TILE + 4), _fitted(printable(tile.name), _font(TEXT), TILE), INK, _font(TEXT))
        for line_number, line in enumerate(_wrapped(printable(tile.why), CAPTION_LINES - 1), start=1):
            y_line = y + TILE + 4 + line_number * LINE
            draw.text((x, y_line), line, PALE if tile.is_kept else WARNING, _font(TEXT))


def _draw_image(sheet: Image.Image, place: tuple[int, int], thumbnail: bytes) -> None:
    """Centers the image in its tile, transparent parts on a chequered ground; a cross stands for a missing one."""
    draw, (x, y) = ImageDraw.Draw(sheet), place
    if not thumbnail:
        draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), "#f3f3f3", "#cccccc")
        draw.line((x, y, x + TILE - 1, y + TILE - 1), "#cccccc")
        draw.line((x, y + TILE - 1, x + TILE - 1, y), "#cccccc")
        return
    image = Image.open(io.BytesIO(thumbnail), formats=["PNG"]).convert("RGBA")
    left, top = x + (TILE - image.width) // 2, y + (TILE - image.height) // 2
    light, dark = (Image.new("RGBA", image.size, color) for color in SQUARES)
    ground = Image.composite(light, dark, _chequers(image.size))
    sheet.paste(Image.alpha_composite(ground, image).convert("RGB"), (left, top))
    draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline="#cccccc")


def _chequers(size: tuple[int, int]) -> Image.Image:
    rows, cols = (np.arange(side) // 8 for side in reversed(size))
    return Image.fromarray((255 * ((rows[:, None] + cols[None]) % 2)).astype(np.uint8))


def _draw_box(draw: ImageDraw.ImageDraw, place: tuple[int, int], traits: np.void) -> None:
    """A line around what is inside the bars."""
    height, width = int(traits["height"]), int(traits["width"])
    top, bottom, left, right = (int(bar) for bar in traits["bars"])
    scale = TILE / max(height, width)
    x, y = place[0] + (TILE - width * scale) / 2, place[1] + (TILE - height * scale) / 2
    box = (x + left * scale, y + top * scale, x + (width - right) * scale - 1, y + (height - bottom) * scale - 1)
    draw.rectangle(box, outline=WARNING)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text; where it is too long, without the folders before a file name, or with its middle left out."""
    if font.getlength(text) <= width:
        return text
    if "/" in text and font.getlength(shorter := f".../{text.rpartition('/')[2]}") <= width:
        return shorter
    kept = len(text) - 1
    while kept > 1 and font.getlength(text[: kept // 3] + "..." + text[kept // 3 - kept :]) > width:
        kept -= 1
    return text[: kept // 3] + "..." + text[kept // 3 - kept :]


def _wrapped(text: str, most: int, width: int = TILE) -> list[str]:
    """The text in lines of this width; what does not fit is left out of the middle of the last one."""
    font, lines, words = _font(TEXT), [], text.split(" ")
    while words and len(lines) < most - 1:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        lines.append(_fitted(line, font, width))
    return [*lines, _fitted(" ".join(words), font, width)] if words else lines
