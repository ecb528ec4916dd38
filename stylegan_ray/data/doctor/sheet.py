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
from stylegan_ray.untrusted import printable
from stylegan_ray.data.encode import encode_png
from stylegan_ray.data.formats.protocol import Inspector

TILE, GAP, MARGIN, COLUMNS = 132, 12, 24, 7
"""Pixels, and tiles in a row."""
MOST_TILES = 4 * COLUMNS
"""Tiles of a section."""
TEXT, HEADING, LINE, CAPTION_LINES = 11, 18, 14, 4
INK, PALE, WARNING, SQUARES = "#1a1a1a", "#707070", "#c92a2a", ("#ffffff", "#dcdcdc")
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
                image = _as_grey(image).convert("RGBA")
            scale = TILE / max(image.size)
            size = tuple(max(round(side * scale), 1) for side in image.size)
            smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
            return encode_png(image.resize(size, smooth))  # type: ignore[arg-type]
        except Exception:  # the section of unreadable images says why
            return b""


def _as_grey(image: Image.Image) -> Image.Image:
    """A deep grey image with its darkest value black and its brightest white."""
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
    heights = {name: _section_height(len(tiles)) for name, tiles in sections.items()}
    sheet = Image.new("RGB", (WIDTH, 2 * MARGIN + 40 + sum(heights.values())), "white")
    draw, num = ImageDraw.Draw(sheet), len(findings.index.names)
    doubtful = len({entry for reasons in doubts.values() for entry in reasons})
    title = f"{printable(path)}: {doubtful} of {num} images are doubtful"
    draw.text((MARGIN, MARGIN), _fitted(title, _font(HEADING), WIDTH - 2 * MARGIN), INK, _font(HEADING))
    top = MARGIN + 40
    for kind in KINDS:
        if kind.name in sections:
            _draw_section(sheet, top, kind, sections[kind.name], len(doubts[kind.name]), thumbnails, findings)
            top += heights[kind.name]
    return encode_png(sheet, optimize=True)


def _section_height(num_tiles: int) -> int:
    rows = -(-num_tiles // COLUMNS)
    return 34 + rows * (TILE + CAPTION_LINES * LINE + GAP + 6)


def _draw_section(
    sheet: Image.Image,
    top: int,
    kind: Kind,
    tiles: list[Tile],
    num: int,
    thumbnails: Mapping[int, bytes],
    findings: Findings,
) -> None:
    draw, heading = ImageDraw.Draw(sheet), f"{kind.heading}: {num}"
    draw.line((MARGIN, top, WIDTH - MARGIN, top), "#cccccc")
    draw.text((MARGIN, top + 8), heading, INK, _font(HEADING - 3))
    shown = sum(not tile.is_kept for tile in tiles)
    note = f"--fix: {kind.policy}" + (f"     and {num - shown} more in the JSON report" if num > shown else "")
    draw.text((MARGIN + draw.textlength(heading, _font(HEADING - 3)) + 14, top + 11), note, PALE, _font(TEXT))
    for place, tile in enumerate(tiles):
        row, column = divmod(place, COLUMNS)
        x = MARGIN + column * (TILE + GAP)
        y = top + 34 + row * (TILE + CAPTION_LINES * LINE + GAP + 6)
        _draw_image(sheet, (x, y), thumbnails.get(tile.entry, b""))
        if kind.name == "padded":
            _draw_box(draw, (x, y), findings.traits[tile.entry])
        lines = _wrapped(printable(tile.why), CAPTION_LINES - 1)
        draw.text((x, y + TILE + 4), _fitted(printable(tile.name), _font(TEXT), TILE), INK, _font(TEXT))
        for number, line in enumerate(lines, start=1):
            draw.text((x, y + TILE + 4 + number * LINE), line, PALE if tile.is_kept else WARNING, _font(TEXT))


def _draw_image(sheet: Image.Image, place: tuple[int, int], thumbnail: bytes) -> None:
    """Centres the image in its tile, transparent parts on a chequered ground; a cross stands for a missing one."""
    draw, (x, y) = ImageDraw.Draw(sheet), place
    if not thumbnail:
        draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), "#f3f3f3", "#cccccc")
        draw.line((x, y, x + TILE - 1, y + TILE - 1), "#cccccc")
        draw.line((x, y + TILE - 1, x + TILE - 1, y), "#cccccc")
        return
    image = Image.open(io.BytesIO(thumbnail), formats=["PNG"]).convert("RGBA")
    left, top = x + (TILE - image.width) // 2, y + (TILE - image.height) // 2
    ground = Image.composite(*(Image.new("RGBA", image.size, colour) for colour in SQUARES), _chequers(image.size))
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
    """The text, with its middle left out where it is too long."""
    if font.getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 1 and font.getlength(text[: kept // 3] + "..." + text[kept // 3 - kept :]) > width:
        kept -= 1
    return text[: kept // 3] + "..." + text[kept // 3 - kept :]


def _wrapped(text: str, most: int) -> list[str]:
    """The text in lines of a tile's width; what does not fit is left out of the middle of the last one."""
    font, lines, words = _font(TEXT), [], text.split(" ")
    while words and len(lines) < most - 1:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= TILE:
            line += f" {words.pop(0)}"
        lines.append(_fitted(line, font, TILE))
    return [*lines, _fitted(" ".join(words), font, TILE)] if words else lines
