"""Finds the networks that a person means: a run by name or folder, one of its checkpoints, a file."""

from __future__ import annotations

import json

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import Networks, read_networks
from stylegan_ray.run_folder import find_run
from stylegan_ray.storage import Storage, join_address, split_address

FILE_ENDINGS = (".safetensors", ".pkl")


def load(checkpoint: str) -> Networks:
    """The networks of a run (its newest), a checkpoint or a network file; raises ConfigError."""
    address = locate(checkpoint)
    try:
        return read_networks(address)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def locate(checkpoint: str) -> str:
    """The address of the network file or checkpoint folder that a word means; raises ConfigError."""
    if split_address(checkpoint)[1].endswith(FILE_ENDINGS) or _is_checkpoint(checkpoint):
        return checkpoint
    run = find_run(checkpoint)
    found = networks_of(Storage.at(run))
    if not found:
        raise ConfigError(f"run {run} has no networks yet; its first checkpoint comes with its first tick")
    # Of equals a network file: it is smaller than a checkpoint, and its name sorts behind.
    return join_address(run, max(found, key=lambda name: (found[name], name)))


def networks_of(run: Storage) -> dict[str, int]:
    """cur_nimg of every network file and complete checkpoint of a run, by name."""
    found = {}
    for name in run.names():
        if name == "network-final.safetensors":
            found[name] = _nimg_in(run, name)
        elif name.startswith("network-snapshot-") and name.endswith(".safetensors"):
            found[name] = round(float(name.removeprefix("network-snapshot-").removesuffix(".safetensors")) * 1000)
    for name in run.names("checkpoints"):
        if name.startswith("ckpt-") and run.exists(f"checkpoints/{name}/COMPLETE"):
            found[f"checkpoints/{name}"] = int(name.removeprefix("ckpt-"))
    return found


def _is_checkpoint(address: str) -> bool:
    """Whether a folder is a checkpoint; an incomplete one is refused."""
    try:
        folder = Storage.at(address)
        if not folder.exists("state.safetensors"):
            return False
    except (ValueError, OSError):
        return False
    if not folder.exists("COMPLETE"):
        raise ConfigError(f"checkpoint {address} is not complete; use another one of the run, or the run itself")
    return True


def _nimg_in(run: Storage, name: str) -> int:
    """cur_nimg as the header of a network file tells it."""
    with run.filesystem.open_input_file(run.path(name)) as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(header.get("__metadata__", {}).get("cur_nimg", 0))
