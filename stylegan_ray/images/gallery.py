"""The files of the generate command: grids, single images, style mixing, interpolations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.images.directions import Edit, find_directions
from stylegan_ray.images.generate import Sampler, mixed_styles, walk
from stylegan_ray.images.grid import Range, image_grid, pil_uint8, png
from stylegan_ray.images.options import GenerateOptions, check_ranges, numbers, strengths
from stylegan_ray.images.outputs import check_grid, check_png
from stylegan_ray.images.saved_w import SavedW, load_w, save_w
from stylegan_ray.images.video import check_video_path, write_video
from stylegan_ray.interop.loading import load
from stylegan_ray.lease import Claim, held
from stylegan_ray.outputs import check_file, check_folder, refuse_address, writing
from stylegan_ray.run_folder import as_path, refuse_relative
from stylegan_ray.storage import delete_partials, file_to_write, write_file
from stylegan_ray.untrusted import printable

MOST_FRAMES = 50_000
"""Frames of one tile of a video, whose w are computed at once."""


def generate_images(options: GenerateOptions) -> Iterator[str]:
    """Writes the images that the options name; yields the path of each file once it is written."""
    seeds = numbers(options.chosen_seeds, "--seeds")
    _refuse_relative(options)
    _check(options)
    if not options.load_w:
        _check_number(options, len(seeds))
    networks = load(options.checkpoint)
    G = networks.G_ema.to(choose_device(options.device))
    saved = load_w(options.load_w, G, networks.lod) if options.load_w else None
    if saved is not None:
        _check_number(options, len(saved.ws))
        _check_names(options, saved.names)
    sampler = Sampler(G, options.trunc, options.cutoff, options.noise_mode, options.batch, networks.lod)
    gallery = Gallery(sampler, networks.config.train.drange_net, seeds, options.class_index, saved)
    address = os.path.abspath(options.outdir) if options.outdir else None
    edit = options.directions or ("mixed" if options.mix_seeds is not None else "")
    with outdir_lease(address, None if options.load_w else seeds, edit):
        yield from _write_all(gallery, options)


def outdir_lease(
    address: str | None, seeds: Sequence[int] | None = None, edit: str = ""
) -> AbstractContextManager[object]:
    """Inside, this command alone writes the images of these seeds into a folder; None for all that can be there."""
    if address is None:
        return nullcontext()
    kind = f"images {edit}".rstrip()
    claims = [Claim(kind)] if seeds is None else [Claim(kind, first, last) for first, last in ranges(seeds)]
    way_out = "wait for its end, give other --seeds, or another folder"
    return held(address, "generate", claims, way_out, key="--outdir")


def ranges(values: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last number of each range without a gap."""
    found: list[tuple[int, int]] = []
    for value in sorted(set(values)):
        if found and found[-1][1] == value - 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


def _write_all(gallery: Gallery, options: GenerateOptions) -> Iterator[str]:
    for name in _names_in_outdir(gallery, options) if options.outdir else ():
        check_file(Path(options.outdir or "") / f"{name}.png", "--outdir")
    _delete_leftovers(gallery, options)
    if options.directions:
        yield from _write_edits(gallery, _edit_of(gallery.sampler.G, options), options)
        return
    if options.mix_seeds is not None:
        yield from _write_mixtures(gallery, options)
    elif options.save_w:
        yield _write_w(options.save_w, gallery.ws, gallery.maps)
    if options.mix_seeds is None and (options.grid or options.outdir or not options.video):
        yield from _write_stills(gallery, options)
    if options.video:
        cols, rows = options.tiles or (1, 1)
        with writing(options.video, "--video"):
            write_video(Path(options.video), gallery.walk_frames(options.frames, cols, rows), options.fps)
        yield options.video


def _delete_leftovers(gallery: Gallery, options: GenerateOptions) -> None:
    """Deletes what a command that wrote the same files left when it was killed."""
    if options.outdir:
        delete_partials(options.outdir, {f"{name}.png" for name in _names_in_outdir(gallery, options)})
    for path in filter(None, (_grid_path(options), options.video, options.save_w)):
        target = Path(file_to_write(path))
        delete_partials(target.parent, {target.name})


def _names_in_outdir(gallery: Gallery, options: GenerateOptions) -> list[str]:
    """The files of --outdir without their ending."""
    if options.directions:
        return [f"{name}-{_edit_name(options)}" for name in gallery.names]
    if options.mix_seeds is None:
        return gallery.names
    columns = seed_names(numbers(options.mix_seeds, "--mix-seeds"))
    return [f"{row}-{column}" for row in gallery.names for column in columns]


def _edit_name(options: GenerateOptions) -> str:
    return f"{options.directions}{_in_name(options.direction)}"


def _grid_path(options: GenerateOptions) -> str | None:
    """The file of the grid, in the current folder where none is named; None where no grid is written."""
    if options.grid or options.outdir or (options.video and options.mix_seeds is None):
        return options.grid
    if options.directions:
        return f"{_edit_name(options)}.png"
    if options.mix_seeds is not None:
        return "mixing.png"
    return "saved_w.png" if options.load_w else f"seeds{_in_name(options.chosen_seeds)}.png"


def _in_name(numbers: str) -> str:
    """Numbers as names of files spell them: 0-4_9."""
    return numbers.replace(",", "_").replace(" ", "")


def _refuse_relative(options: GenerateOptions) -> None:
    """Raises ConfigError for a path, or a file without a name, that would be lost with a submitted job."""
    refuse_relative({
        "CHECKPOINT": as_path(options.checkpoint), "--grid": _grid_path(options),
        "--outdir": options.outdir, "--video": options.video, "--save-w": options.save_w,
    })  # fmt: skip
    for path in options.load_w:
        refuse_relative({"--load-w": path})


def _check(options: GenerateOptions) -> None:
    """Raises ConfigError for mistakes that would otherwise show only after the network has been loaded or run."""
    check_ranges(options)
    _check_goes_together(options)
    for option, path in (("--grid", _grid_path(options)), ("--save-w", options.save_w), ("--video", options.video)):
        if path:
            refuse_address(path, option, "give a path on a disk, and copy the file from there")
            check_file(path, option)
    if options.grid:
        check_png(options.grid, "--grid")
    if options.outdir:
        check_folder(options.outdir, "--outdir")
    if options.video:
        check_video_path(Path(options.video))
    if options.directions:
        _check_edits(options)
    elif options.mix_seeds is not None and options.tiles and not options.video:
        raise ConfigError("--tiles does not go with --mix-seeds, whose columns are its seeds; leave one of them out")


def _check_goes_together(options: GenerateOptions) -> None:
    """Raises ConfigError for an option that would have no effect."""
    for name in ("format", "shard", "num_tasks", "address"):
        if getattr(options, name) != getattr(GenerateOptions, name):
            word = name.replace("_", "-")
            raise ConfigError(f"--{word} goes with --n NUM only, which writes many images; add --n, or leave it out")
    if options.load_w and options.seeds is not None:
        raise ConfigError("--seeds does not go with --load-w, whose images take their place; leave one of them out")


def _check_edits(options: GenerateOptions) -> None:
    strengths(options.strength)
    numbers(options.direction, "--direction")
    if options.layers is not None:
        numbers(options.layers, "--layers")
    for name, value in (("mix-seeds", options.mix_seeds), ("tiles", options.tiles)):
        if value is not None:
            raise ConfigError(f"--{name} does not go with --directions, whose rows are strips; leave one of them out")


def _check_number(options: GenerateOptions, num: int) -> None:
    """Raises ConfigError where `num` images are too few for a video or too many for the tiles."""
    cols, rows = options.tiles or (1, 1)
    named = "--load-w" if options.load_w else "--seeds"
    if options.directions:
        return
    if options.video:
        if num < 2 * cols * rows:
            raise ConfigError(f"--video with {cols}x{rows} tiles needs at least {2 * cols * rows} {named}, not {num}")
        if num * options.frames > MOST_FRAMES * cols * rows:
            raise ConfigError(
                f"--frames {options.frames} between {num} {named} are more than {MOST_FRAMES:,} frames; give fewer"
            )
    elif options.tiles and options.mix_seeds is None and num > cols * rows:
        raise ConfigError(f"--tiles {cols} {rows} has room for {cols * rows} images; {named} names {num}")


def _check_names(options: GenerateOptions, names: Sequence[str]) -> None:
    """Raises ConfigError where two images of saved w would become one file."""
    twice = [name for name, num in Counter(names).items() if num > 1]
    if options.outdir and twice:
        raise ConfigError(
            f"--load-w: two images would both become {printable(Path(options.outdir) / f'{twice[0]}.png')}; rename one "
            "of the files, or write a --grid"
        )


def choose_device(wanted: str) -> torch.device:
    """The device of a name; raises ConfigError."""
    has_cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if has_cuda else "cpu") if wanted == "auto" else wanted)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {printable(wanted)}: write cpu, cuda, cuda:1 or auto")
    if device.type == "cuda" and not has_cuda:
        raise ConfigError(f"--device {wanted}: torch sees no GPU here; leave --device out")
    if device.type == "cuda" and (device.index or 0) >= (num := torch.cuda.device_count()):
        raise ConfigError(f"--device {wanted}: torch sees {num} GPUs here, the first as cuda:0; give another one")
    return device


def _named(options: GenerateOptions) -> str:
    """The option that names the images, as messages show it."""
    return "--load-w" if options.load_w else f"--seeds {printable(options.chosen_seeds)}"


def _write_stills(gallery: Gallery, options: GenerateOptions) -> Iterator[str]:
    path = _grid_path(options)
    if path:
        cols, rows = options.tiles or (1, 1)
        check_grid(max(len(gallery.names), cols * rows), gallery.sampler.G.resolution, _named(options))
    images = []
    for name, image in zip(gallery.names, gallery.stills(), strict=True):
        if options.outdir:
            yield _write(Path(options.outdir) / f"{name}.png", image, "--outdir")
        if path:
            images.append(image)
    if path:
        tiles = None if options.video else options.tiles
        yield _write(Path(path), image_grid(torch.stack(images), *(tiles or ())))


def _write_mixtures(gallery: Gallery, options: GenerateOptions) -> Iterator[str]:
    """The grid of style mixing, each of its mixtures as a file, and their w."""
    columns = numbers(options.mix_seeds or "", "--mix-seeds")
    if path := _grid_path(options):
        named = f"{_named(options)} --mix-seeds {printable(options.mix_seeds)}"
        check_grid((len(gallery.names) + 1) * (len(columns) + 1), gallery.sampler.G.resolution, named)
    mixing = gallery.mixing(columns, numbers(options.mix_styles, "--mix-styles"))
    if options.save_w:
        yield _write_w(options.save_w, mixing.ws, mixing.maps)
    tiles: list[Tensor] = []
    for name, image in zip(_names_in_outdir(gallery, options), gallery.mixtures(mixing), strict=True):
        if options.outdir:
            yield _write(Path(options.outdir) / f"{name}.png", image, "--outdir")
        if path:
            tiles.append(image)
    if path:
        yield _write(Path(path), gallery.mixing_grid(columns, tiles))


def _edit_of(G: Any, options: GenerateOptions) -> Edit:
    assert options.directions is not None
    layers = None if options.layers is None else numbers(options.layers, "--layers")
    directions = find_directions(G, options.directions, layers)
    return Edit(directions, numbers(options.direction, "--direction"), layers)


def _check_strips(gallery: Gallery, edit: Edit, options: GenerateOptions, num_values: int) -> None:
    """Raises ConfigError where the strips of an image, or of all where they are in one file, are too large for it."""
    named = f"--direction {printable(options.direction)} --strength {printable(options.strength)}"
    num, resolution = len(edit.numbers) * num_values, gallery.sampler.G.resolution
    check_grid(num, resolution, named, "give fewer directions or a smaller COUNT")
    if _grid_path(options):
        check_grid(len(gallery.names) * num, resolution, f"{_named(options)} {named}")


def _write_edits(gallery: Gallery, edit: Edit, options: GenerateOptions) -> Iterator[str]:
    """Strips and the video of images edited along directions."""
    values = strengths(options.strength)
    _check_strips(gallery, edit, options, len(values))
    styles = edit.apply(gallery.ws, values)  # [N,K,S,L,W]
    if options.save_w:
        maps = gallery.maps and [x.repeat_interleave(styles[0, ..., 0, 0].numel(), dim=0) for x in gallery.maps]
        yield _write_w(options.save_w, styles.flatten(0, 2), maps)
    name = _edit_name(options)
    if options.grid or options.outdir or not options.video:
        strips = []
        for number, image_name in enumerate(gallery.names):
            strip = gallery.edit_grid(styles[number : number + 1], number)
            if options.outdir:
                yield _write(Path(options.outdir) / f"{image_name}-{name}.png", strip, "--outdir")
            strips.append(strip)
        if path := _grid_path(options):
            yield _write(Path(path), torch.cat(strips, dim=1))
    if options.video:
        t = torch.linspace(0, 1, max(options.frames, 2)).tolist()
        there = [values[0] + (values[-1] - values[0]) * x for x in t]
        with writing(options.video, "--video"):
            write_video(Path(options.video), gallery.edit_frames(edit, [*there, *there[-2:0:-1]]), options.fps)
        yield options.video


@dataclass(frozen=True)
class Mixing:
    """Mixtures of rows and columns, row by row."""

    ws: Tensor
    """[R*K,L,W]"""
    seeds: Sequence[int]
    """Their random noise is that of the row."""
    maps: Sequence[Tensor] | None
    """Noise maps of the row, where it has some."""


class Gallery:
    """Images of some seeds, or of saved w, as uint8 [C,H,W]."""

    def __init__(
        self,
        sampler: Sampler,
        drange: Range,
        seeds: Sequence[int],
        class_index: int | None = None,
        saved: SavedW | None = None,
    ) -> None:
        self.sampler, self.drange, self.class_index = sampler, drange, class_index
        self.seeds = seeds if saved is None else range(len(saved.ws))
        self.names = seed_names(seeds) if saved is None else saved.names
        self.ws = self._styles(seeds) if saved is None else sampler.truncated(saved.ws)
        self.maps = None if saved is None else saved.noise

    def stills(self) -> Iterator[Tensor]:
        """The image of each seed or saved w."""
        return self._images(self.ws, self.seeds, self.maps)

    def edit_grid(self, styles: Tensor, first: int = 0) -> Tensor:
        """Strips of edited styles [N,K,S,L,W], of the images from number `first` on: a row for each image and edit."""
        num, rows, columns = styles.shape[:3]
        seeds = [seed for seed in self.seeds[first : first + num] for _ in range(rows * columns)]
        # Each [N*K*S,1,H,W].
        maps = self.maps and [x[first : first + num].repeat_interleave(rows * columns, dim=0) for x in self.maps]
        return image_grid(torch.stack(list(self._images(styles.flatten(0, 2), seeds, maps))), columns, num * rows)

    def edit_frames(self, edit: Edit, strengths: Sequence[float]) -> Iterator[Tensor]:
        """A frame for each strength: a row for each image, a column for each direction."""
        for strength in strengths:
            yield self.edit_grid(edit.apply(self.ws, [strength]).transpose(1, 2))

    def mixing(self, columns: Sequence[int], layers: Sequence[int]) -> Mixing:
        """What mixes the images with the styles that the seeds of the columns have in some layers."""
        ws = mixed_styles(self.ws, self._styles(columns), layers)
        seeds = [seed for seed in self.seeds for _ in columns]
        return Mixing(ws, seeds, self.maps and [x.repeat_interleave(len(columns), dim=0) for x in self.maps])

    def mixtures(self, mixing: Mixing) -> Iterator[Tensor]:
        """The image of each mixture."""
        return self._images(mixing.ws, mixing.seeds, mixing.maps)

    def mixing_grid(self, columns: Sequence[int], mixtures: Sequence[Tensor]) -> Tensor:
        """The sources of the columns on top, the seeds on the left, and their mixtures (StyleGAN, figure 3)."""
        tiles = list(self._images(self._styles(columns), columns))
        tiles.insert(0, torch.full_like(tiles[0], 255))
        for row, image in enumerate(self.stills()):
            tiles += [image, *mixtures[row * len(columns) : (row + 1) * len(columns)]]
        return image_grid(torch.stack(tiles), len(columns) + 1)

    def walk_frames(self, num_frames: int, cols: int = 1, rows: int = 1) -> Iterator[Tensor]:
        """Frames of a closed interpolation through the seeds; each of several tiles has its own share of them."""
        share = len(self.ws) // (cols * rows)
        styles = self.ws[: share * cols * rows]
        paths = [walk(keys, num_frames) for keys in styles.split(share)]
        for ws in torch.stack(paths, dim=1):  # [T,L,W]  styles of one frame, for every tile
            yield image_grid(torch.stack(list(self._images(ws))), cols, rows)

    def _styles(self, seeds: Sequence[int]) -> Tensor:
        return self.sampler.styles(seeds, self.class_index)

    def _images(
        self, ws: Tensor, seeds: Sequence[int] | None = None, maps: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        for image in self.sampler.images(ws, seeds, maps):
            yield pil_uint8(image, self.drange).cpu()


def seed_names(seeds: Sequence[int]) -> list[str]:
    """The files of seeds without their ending."""
    return [f"seed{seed:04d}" for seed in seeds]


def _write(path: Path, image: Tensor, option: str = "--grid") -> str:
    with writing(path, option):
        return write_file(path, png(image))


def _write_w(path: str, ws: Tensor, maps: Sequence[Tensor] | None) -> str:
    with writing(path, "--save-w"):
        return write_file(path, save_w(ws, maps or ()))
