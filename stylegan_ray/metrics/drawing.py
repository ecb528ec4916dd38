"""Lines, dots, words and pictures, drawn as SVG or as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Line:
    """A line through points."""

    points: Sequence[Point]
    colour: str
    width: float = 1.0


@dataclass(frozen=True)
class Dot:
    """A disc with a word that appears when the pointer rests on it."""

    place: Point
    radius: float
    colour: str
    title: str = ""


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    corner: Point
    size: Point
    colour: str


@dataclass(frozen=True)
class Text:
    """Words, with the anchor on their base line."""

    place: Point
    words: str
    size: int = 12
    colour: str = "#333333"
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture file, scaled to fill a rectangle."""

    corner: Point
    size: Point
    png: bytes


Shape = Line | Dot | Box | Text | Picture


def to_svg(shapes: Sequence[Shape], width: int, height: int) -> str:
    """The drawing as an SVG element."""
    body = "\n".join(_svg(shape) for shape in shapes)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'{head} font-family="system-ui, sans-serif">\n{body}\n</svg>'


def to_png(shapes: Sequence[Shape], width: int, height: int, scale: int = 2) -> bytes:
    """The drawing as a PNG file, `scale` pixels to a unit, smooth at the edges."""
    factor = scale * SUPERSAMPLING
    image = Image.new("RGB", (width * factor, height * factor), "white")
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if not isinstance(shape, (Text, Picture)):
            _paint(draw, shape, factor)
    image = image.reduce(SUPERSAMPLING)
    draw = ImageDraw.Draw(image)  # letters and pictures bring their own smoothing
    for shape in shapes:
        if isinstance(shape, Text):
            _write(draw, shape, scale)
        elif isinstance(shape, Picture):
            _paste(image, shape, scale)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _svg(shape: Shape) -> str:
    match shape:
        case Line(points, colour, width):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            style = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"'
            return f'<polyline points="{path}" {style}/>'
        case Dot((x, y), radius, colour, title):
            words = f"<title>{escape(title)}</title>"
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}">{words}</circle>'
        case Box((x, y), (w, h), colour):
            return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{colour}"/>'
        case Text((x, y), words, size, colour, anchor, bold):
            style = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}"' + (
                ' font-weight="600"' if bold else ""
            )
            return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'
        case Picture((x, y), (w, h), png):
            link = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            return f'<image x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" href="{link}"/>'


def _paint(draw: ImageDraw.ImageDraw, shape: Line | Dot | Box, factor: int) -> None:
    match shape:
        case Line(points, colour, width):
            corners = [(x * factor, y * factor) for x, y in points]
            draw.line(corners, fill=colour, width=max(round(width * factor), 1), joint="curve")
        case Dot((x, y), radius, colour, _):
            draw.circle((x * factor, y * factor), radius * factor, fill=colour)
        case Box((x, y), (w, h), colour):
            draw.rectangle((x * factor, y * factor, (x + w) * factor - 1, (y + h) * factor - 1), fill=colour)


def _write(draw: ImageDraw.ImageDraw, text: Text, scale: int) -> None:
    font = ImageFont.load_default(text.size * scale)
    anchor = {"start": "ls", "middle": "ms", "end": "rs"}[text.anchor]
    x, y = text.place
    stroke = 0.25 * scale if text.bold else 0
    draw.text((x * scale, y * scale), text.words, text.colour, font, anchor, stroke_width=stroke)


def _paste(image: Image.Image, picture: Picture, scale: int) -> None:
    size = round(picture.size[0] * scale), round(picture.size[1] * scale)
    with Image.open(io.BytesIO(picture.png)) as content:
        image.paste(content.convert("RGB").resize(size, Image.Resampling.LANCZOS), _corner(picture, scale))


def _corner(picture: Picture, scale: int) -> tuple[int, int]:
    return round(picture.corner[0] * scale), round(picture.corner[1] * scale)
