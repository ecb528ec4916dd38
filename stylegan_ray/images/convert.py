"""The convert command: reads networks of any known kind and writes what the suffix of DEST names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.images.generate import Sampler
from stylegan_ray.images.grid import image_grid, pil_uint8, png, shrink2
from stylegan_ray.images.options import ConvertOptions
from stylegan_ray.images.training_data import data_of
from stylegan_ray.interop import hub, onnx, rosinality, tf_pickle, torch_export
from stylegan_ray.interop.loading import load, locate
from stylegan_ray.interop.native import Networks, pack
from stylegan_ray.interop.requirements import Written
from stylegan_ray.metrics.row_files import rows_of_network
from stylegan_ray.networks.shapes import images_at_once
from stylegan_ray.outputs import check_file, writing
from stylegan_ray.run_folder import (
    CONFIG,
    PUBLISHED,
    STATE,
    folder_of,
    refuse_relative,
)
from stylegan_ray.storage import Storage, join_address, split_address, write_file

LARGEST_TILE = 256
"""Pixels of the larger side of a sample in the grid of a folder."""


def convert_networks(options: ConvertOptions) -> Iterator[str]:
    """Writes DEST; yields notes, and the path of DEST once it is written. Raises ConfigError."""
    refuse_relative({"SOURCE": options.source, "DEST": options.dest})
    suffix = _suffix(options.dest)
    _check(options, suffix)
    source = locate(options.source)
    if os.path.abspath(source) == os.path.abspath(options.dest):
        raise ConfigError(f"SOURCE and DEST are the same file, {options.dest}; give DEST another name")
    networks = load(source, needed=() if suffix else ("G_ema",))
    if suffix:
        written = WRITERS[suffix](networks)
        yield from (f"note: {note}" for note in written.notes)
        with writing(options.dest, "DEST"):
            write_file(options.dest, written.content)
    else:
        for name, content in _folder_files(networks, source, options.dest).items():
            with writing(join_address(options.dest, name), "DEST"):
                Storage.at(options.dest).write(name, content)
    yield options.dest
    if options.push:
        yield hub.push(os.path.expanduser(options.dest), options.push)


def _native(networks: Networks) -> Written:
    return Written(bytes(pack(networks).content))


WRITERS: dict[str, Callable[[Networks], Written]] = {
    ".safetensors": _native,
    ".pt": rosinality.write,
    ".pkl": tf_pickle.write,
    ".onnx": onnx.write,
    ".pt2": torch_export.write,
}
"""The writer of each suffix; a DEST without suffix is a folder."""


def _suffix(dest: str) -> str:
    """The suffix of DEST, empty for a folder; raises ConfigError for one that no writer has."""
    suffix = os.path.splitext(split_address(dest)[1])[1]
    if dest.endswith("/") or not suffix:
        return ""
    if suffix not in WRITERS:
        raise ConfigError(
            f"DEST {dest}: no format has the suffix {suffix}; write {', '.join(WRITERS)}, or a folder, whose name has "
            "no dot or ends with /"
        )
    return suffix


def _check(options: ConvertOptions, suffix: str) -> None:
    """Raises ConfigError for mistakes that would otherwise show only after the networks have been loaded."""
    if options.push:
        if suffix or "://" in options.dest:
            raise ConfigError(f"--push uploads a local folder, and DEST {options.dest} is none; leave its suffix out")
        hub.validate_repository(options.push)
    if suffix == ".onnx":
        onnx.check_installed()
    if suffix:
        check_file(options.dest, "DEST")
    else:
        try:
            names = Storage.at(options.dest).names()
        except (ValueError, OSError) as error:
            raise ConfigError(f"DEST {options.dest}: {error}") from error
        if names and PUBLISHED not in names:
            what = "a run" if CONFIG in names else "a checkpoint" if STATE in names else "not empty"
            raise ConfigError(f"the folder {options.dest} is {what}; give DEST the name of a new folder")


def _folder_files(networks: Networks, source: str, dest: str) -> dict[str, bytes]:
    """The files of a folder in the Hugging Face layout."""
    data = data_of(folder_of(source))
    path = data.get("path")
    metrics = rows_of_network(source, networks.cur_nimg, path if isinstance(path, str) else None)
    return hub.folder_files(networks, split_address(dest)[1], _samples(networks), metrics, data)


def _samples(networks: Networks) -> bytes:
    """A PNG file of seeds 0 to 15 with psi 0.7."""
    G = networks.G_ema
    seeds = range(16)
    images = Sampler(G, psi=0.7, batch=images_at_once(G.resolution), lod=networks.lod)
    tiles = []
    for image in images.images(images.styles(seeds)):
        while max(image.shape[1:]) > LARGEST_TILE and not any(side % 2 for side in image.shape[1:]):
            image = shrink2(image[None])[0]
        tiles.append(pil_uint8(image, networks.config.train.drange_net).cpu())
    return png(image_grid(torch.stack(tiles)))
