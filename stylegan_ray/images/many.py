"""Many images of one network, in batches and files that are fixed by the seeds: PNG files, or shards of tar files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.images.generate import NoiseMode, Sampler, class_labels
from stylegan_ray.images.grid import Range, pil_uint8, png
from stylegan_ray.lease import PREFIX as LEASE
from stylegan_ray.storage import PART, Storage, join_address
from stylegan_ray.untrusted import printable, reading
from stylegan_ray.untrusted_text import JSON_BYTES, parse_json

MANIFEST = "generate.json"
"""What the images of a folder were made with, so that a command that continues makes the same ones."""
PNG_NAME = re.compile(r"seed([0-9]{6}|[1-9][0-9]{6,9})\.png")
TAR_NAME = re.compile(r"images-([0-9]{6,18})(?:-([0-9]{1,18}))?\.tar")
Format = Literal["png", "tar"]


@dataclass(frozen=True)
class Recipe:
    """All that decides the bytes of the files; stored beside them."""

    network: str
    """sha256 of the tensors of G_ema."""
    trunc: float
    cutoff: int | None
    class_index: int | None
    noise: NoiseMode
    format: Format
    batch: int
    """Images computed at once: their last bits depend on it."""
    shard: int
    """Images in a tar file; a multiple of batch."""
    device: str


@dataclass(frozen=True)
class Part:
    """Seeds from `first` on that one task computes."""

    first: int
    num: int
    """How many of them are wanted."""


def checksum_of(G: Any) -> str:
    """sha256 of the names and tensors of a network, in hex: the same for a checkpoint and a file of it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(G.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def part_size(recipe: Recipe) -> int:
    """Images of a part: a batch of PNG files, or a tar file."""
    return recipe.shard if recipe.format == "tar" else recipe.batch


def parts_of(recipe: Recipe, num: int, done: Collection[int] = ()) -> Iterator[Part]:
    """The parts of the images with seeds 0 to num-1, without those of these numbers."""
    size = part_size(recipe)
    return (Part(first, min(size, num - first)) for first in range(0, num, size) if first // size not in done)


def names_of(recipe: Recipe, part: Part) -> list[str]:
    """The files of a part. A tar file that is not full is named by its length too, since a longer one may follow."""
    if recipe.format == "png":
        return [image_name(seed) for seed in range(part.first, part.first + part.num)]
    rest = "" if part.num == recipe.shard else f"-{part.num}"
    return [f"images-{part.first // recipe.shard:06d}{rest}.tar"]


def image_name(seed: int) -> str:
    return f"seed{seed:06d}.png"


def finished_parts(recipe: Recipe, num: int, names: Iterable[str]) -> dict[int, int]:
    """Numbers and images of the parts of which all files are among the names.

    A longer tar file than is wanted holds its part, too.
    """
    size = part_size(recipe)
    if recipe.format == "tar":
        found: Mapping[int, int] = longest_files(recipe, names)
    else:
        seeds = (int(match[1]) for match in map(PNG_NAME.fullmatch, set(names)) if match)
        found = Counter(seed // size for seed in seeds if seed < num)
    wanted = {number: min(size, num - number * size) for number in found if number * size < num}
    return {number: images for number, images in wanted.items() if found[number] >= images}


def longest_files(recipe: Recipe, names: Iterable[str]) -> dict[int, int]:
    """The images of the longest tar file of each number among the names."""
    longest: dict[int, int] = {}
    for number, length in filter(None, (number_and_length(recipe, name) for name in names)):
        longest[number] = max(length, longest.get(number, 0))
    return longest


def number_and_length(recipe: Recipe, name: str) -> tuple[int, int] | None:
    """The number of a tar file and how many images it holds; None for other files."""
    match = TAR_NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or recipe.shard)) if match else None


def begin_folder(storage: Storage, address: str, recipe: Recipe) -> list[str]:
    """Stores what the images are made with and deletes unfinished files; returns the names in the folder.

    Raises ConfigError where the folder holds images of another recipe, or other files.
    """
    there = [name for name in storage.names() if not name.startswith(LEASE)]
    names = [name for name in there if not name.endswith(PART)]
    if MANIFEST in names:
        where = join_address(address, MANIFEST)
        with reading(where, ConfigError, passes=(OSError,)):
            stored = parse_json(storage.read(MANIFEST, JSON_BYTES), where)
            check_recipe(stored if isinstance(stored, dict) else {}, recipe, address)
    elif names:
        raise ConfigError(f"--outdir {address} holds files and no {MANIFEST}, such as {names[0]}; give an empty folder")
    else:
        storage.write(MANIFEST, (json.dumps(asdict(recipe), indent=1) + "\n").encode())
    for name in set(there).difference(names):
        storage.delete(name)
    return names


def check_recipe(stored: dict[str, Any], recipe: Recipe, address: str) -> None:
    """Raises ConfigError where images would be made with something else than those that are there."""
    for key, value in asdict(recipe).items():
        is_decisive = key != "shard" or recipe.format == "tar"
        if is_decisive and stored.get(key) != value:
            raise ConfigError(
                f"--outdir {address} holds images made with {key}={printable(stored.get(key))}, and this command has "
                f"{value}; give another folder, or the options of {MANIFEST} there"
            )


def end_folder(storage: Storage, recipe: Recipe) -> None:
    """Deletes tar files that a longer one has replaced."""
    names = storage.names() if recipe.format == "tar" else []
    longest = longest_files(recipe, names)
    for name in names:
        found = number_and_length(recipe, name)
        if found and found[1] < longest[found[0]]:
            storage.delete(name)


@dataclass(frozen=True)
class PartWriter:
    """Computes the images of a part and writes its files; built once per process of a task."""

    G: Any
    drange: Range
    lod: float
    recipe: Recipe
    address: str
    device: str | None = None
    """Which of the devices of the recipe's kind; None: the process's own."""

    def __call__(self, part: Part) -> int:
        """Writes the files of a part; returns the number of its images."""
        files = [encoded for first in range(part.first, part.first + part.num, self.recipe.batch)
                 for encoded in self.batch_from(first)][: part.num]  # fmt: skip
        names = names_of(self.recipe, part)
        if self.recipe.format == "tar":
            self._storage.write(names[0], self._tar(part, files))
        else:
            for name, content in zip(names, files, strict=True):
                self._storage.write(name, content)
        return part.num

    def batch_from(self, first: int) -> list[bytes]:
        """PNG files of a whole batch, also where fewer are wanted: the last bits depend on its size."""
        seeds = range(first, first + self.recipe.batch)
        sampler = self._sampler
        ws = sampler.styles(seeds, self.recipe.class_index)
        return [png(pil_uint8(image, self.drange)) for image in sampler.images(ws, seeds)]

    def _tar(self, part: Part, files: Sequence[bytes]) -> bytes:
        """A tar file of images, and of their classes where the network has classes."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            seeds = range(part.first, part.first + part.num)
            labels = class_labels(seeds, self.G.label_size, self.recipe.class_index)
            for row, (seed, content) in enumerate(zip(seeds, files, strict=True)):
                _add(archive, image_name(seed), content)
                if self.G.label_size:
                    _add(archive, image_name(seed).replace(".png", ".cls"), str(int(labels[row].argmax())).encode())
        return buffer.getvalue()

    @cached_property
    def _sampler(self) -> Sampler:
        recipe = self.recipe
        if recipe.device == "cpu":
            torch.set_num_threads(1)
        G = self.G.to(self.device or recipe.device)
        return Sampler(G, recipe.trunc, recipe.cutoff, recipe.noise, recipe.batch, self.lod)

    @cached_property
    def _storage(self) -> Storage:
        return Storage.at(self.address)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file without time and owner, so that equal images give equal archives."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
