"""The files of the generate command: grids, single images, style mixing, interpolations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.images.generate import Sampler, mixed_styles, walk
from stylegan_ray.images.grid import Range, image_grid, pil_uint8, png
from stylegan_ray.images.options import GenerateOptions, numbers
from stylegan_ray.images.video import check_video_path, write_video
from stylegan_ray.interop.loading import load


def generate_images(options: GenerateOptions) -> Iterator[str]:
    """Writes the images that the options name; yields the path of each file once it is written."""
    seeds = numbers(options.seeds, "--seeds")
    _check(options, len(seeds))
    networks = load(options.checkpoint)
    G = networks.G_ema.to(_device(options.device))
    sampler = Sampler(G, options.trunc, options.cutoff, options.noise_mode, options.batch, networks.lod)
    gallery = Gallery(sampler, networks.config.train.drange_net, seeds, options.class_index)
    if options.mix_seeds is not None:
        grid = gallery.mixing_grid(
            numbers(options.mix_seeds, "--mix-seeds"), numbers(options.mix_styles, "--mix-styles")
        )
        yield _write(Path(options.grid or "mixing.png"), grid)
    elif options.grid or options.outdir or not options.video:
        yield from _write_stills(gallery, options)
    if options.video:
        cols, rows = options.tiles or (1, 1)
        write_video(Path(options.video), gallery.walk_frames(options.frames, cols, rows), options.fps)
        yield options.video


def _check(options: GenerateOptions, num: int) -> None:
    """Raises ConfigError for mistakes that would otherwise show only after the network has been loaded or run."""
    for name in ("frames", "fps", "batch"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)} must be at least 1")
    cols, rows = options.tiles or (1, 1)
    if cols < 1 or rows < 1:
        raise ConfigError(f"--tiles {cols} {rows}: columns and rows must be at least 1")
    if options.video:
        check_video_path(Path(options.video))
        if num < 2 * cols * rows:
            raise ConfigError(f"--video with {cols}x{rows} tiles needs at least {2 * cols * rows} --seeds, not {num}")
    elif options.tiles and options.mix_seeds is None and num > cols * rows:
        raise ConfigError(f"--tiles {cols} {rows} has room for {cols * rows} images; --seeds names {num}")


def _device(wanted: str) -> torch.device:
    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_cuda else "cpu") if wanted == "auto" else wanted)
    except RuntimeError:
        raise ConfigError(f"--device {wanted}: write cpu, cuda, cuda:1 or auto") from None
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(f"--device {wanted}: torch sees no GPU here; leave --device out")
    return device


def _write_stills(gallery: Gallery, options: GenerateOptions) -> Iterator[str]:
    images = []
    for seed, image in zip(gallery.seeds, gallery.stills(), strict=True):
        if options.outdir:
            yield _write(Path(options.outdir) / f"seed{seed:04d}.png", image)
        images.append(image)
    if options.grid or not options.outdir:
        name = f"seeds{options.seeds.replace(',', '_').replace(' ', '')}.png"
        tiles = None if options.video else options.tiles
        yield _write(Path(options.grid or name), image_grid(torch.stack(images), *(tiles or ())))


class Gallery:
    """Images of some seeds as uint8 [C,H,W]."""

    def __init__(self, sampler: Sampler, drange: Range, seeds: Sequence[int], class_index: int | None = None) -> None:
        self.sampler, self.drange, self.seeds, self.class_index = sampler, drange, seeds, class_index

    def stills(self) -> Iterator[Tensor]:
        """The image of each seed."""
        return self._images(self._styles(self.seeds), self.seeds)

    def mixing_grid(self, columns: Sequence[int], layers: Sequence[int]) -> Tensor:
        """The sources of the columns on top, the seeds on the left, and their mixtures (StyleGAN, figure 3)."""
        row_styles, column_styles = self._styles(self.seeds), self._styles(columns)
        mixtures = self._images(mixed_styles(row_styles, column_styles, layers))
        tiles = list(self._images(column_styles))
        tiles.insert(0, torch.full_like(tiles[0], 255))
        for image in self._images(row_styles):
            tiles += [image, *(next(mixtures) for _ in columns)]
        return image_grid(torch.stack(tiles), len(columns) + 1)

    def walk_frames(self, num_frames: int, cols: int = 1, rows: int = 1) -> Iterator[Tensor]:
        """Frames of a closed interpolation through the seeds; each of several tiles has its own share of them."""
        share = len(self.seeds) // (cols * rows)
        styles = self._styles(self.seeds[: share * cols * rows])
        paths = [walk(keys, num_frames) for keys in styles.split(share)]
        for ws in torch.stack(paths, dim=1):  # [T,L,W]  styles of one frame, for every tile
            yield image_grid(torch.stack(list(self._images(ws))), cols, rows)

    def _styles(self, seeds: Sequence[int]) -> Tensor:
        return self.sampler.styles(seeds, self.class_index)

    def _images(self, ws: Tensor, seeds: Sequence[int] | None = None) -> Iterator[Tensor]:
        for image in self.sampler.images(ws, seeds):
            yield pil_uint8(image, self.drange).cpu()


def _write(path: Path, image: Tensor) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image))
    return str(path)
