"""Finds and loads networks: of a run by its name or folder, of a checkpoint, of a file of ours or NVIDIA's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import nvidia, rosinality, tensorflow
from stylegan_ray.interop.native import Networks, networks_from_bytes, networks_from_checkpoint, run_config
from stylegan_ray.interop.not_networks import STYLEGAN3, describe_other_file
from stylegan_ray.interop.unpickler import Record, load_pickle
from stylegan_ray.run_folder import (
    COMPLETE,
    CONFIG,
    COUNTERS,
    NETWORK_ENDINGS,
    PUBLISHED,
    STATE,
    find_run,
    newest_network,
)
from stylegan_ray.storage import Storage, join_address, split_address


def load(checkpoint: str, needed: Sequence[str] = ("G_ema",)) -> Networks:
    """The networks that a word on the command line names (see `locate`).

    Raises ConfigError, also where one of the `needed` networks is absent.
    """
    address = locate(checkpoint)
    try:
        networks = read_networks(address)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    found = networks.parts()
    if missing := [part for part in needed if part not in found]:
        raise ConfigError(
            f"{address} holds {', '.join(found)} and no {' and no '.join(missing)}, which this command needs; "
            "use a file that holds them"
        )
    return networks


def locate(checkpoint: str) -> str:
    """The address of the network file or checkpoint that a word names: itself, or the newest of a run.

    A run is named by its folder or by its name in the storage. Raises ConfigError.
    """
    if _is_file(checkpoint) or _holds(checkpoint, STATE):
        return checkpoint
    if _holds(checkpoint, PUBLISHED):
        return join_address(checkpoint, PUBLISHED)
    run = find_run(checkpoint)
    newest = newest_network(Storage.at(run))
    if newest is None:
        raise ConfigError(f"run {run} has no networks yet; its first checkpoint is written at its first tick")
    return join_address(run, newest)


def checksum(address: str) -> str:
    """sha256 of a network file, or of the tensors of a checkpoint, in hex; raises ConfigError."""
    folder, name = split_address(address)
    try:
        here = Storage.at(address)
        content = Storage.at(folder).read(name) if _is_file(address) else here.read(STATE)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--resume-from: {address} cannot be read: {error}") from error
    return hashlib.sha256(content).hexdigest()


def load_network(path: str | os.PathLike[str]) -> dict[str, Any]:
    """{"G", "D", "G_ema"} of a network file, checkpoint, run or published folder of ours, or of other programs.

    Those are NVIDIA's pickles and rosinality's .pt. Networks that a file lacks are left out. Of a run folder the newest
    network is loaded (`run_folder.newest_network`). Safe for untrusted files: pickles are read as data.

    Raises ValueError or FileNotFoundError that names the file.
    """
    return read_networks(path).parts()


def read_networks(path: str | os.PathLike[str]) -> Networks:
    """The networks of a file or folder with their configuration; see `load_network`."""
    address = os.fspath(path).rstrip("/")
    folder, name = split_address(address)
    try:
        here = Storage.at(address)
        names = [] if _is_file(address) else here.names()
        return _from_folder(here, names) if names else _from_bytes(Storage.at(folder).read(name))
    except FileNotFoundError:
        raise FileNotFoundError(f"no networks at {address}: there is no such file or folder") from None
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error


def _from_folder(folder: Storage, names: list[str]) -> Networks:
    """The networks of a checkpoint, or the newest ones of a run."""
    if STATE in names:
        if COMPLETE not in names:
            raise ValueError("the checkpoint is not complete; use another one of the run, or the run itself")
        return networks_from_checkpoint(*(folder.read(name) for name in (STATE, CONFIG, COUNTERS)))
    newest = PUBLISHED if PUBLISHED in names else newest_network(folder)
    if newest is None:
        raise ValueError("the folder holds no network file and no complete checkpoint")
    if newest.endswith(NETWORK_ENDINGS):
        return _from_bytes(folder.read(newest))
    return _from_folder(folder.folder(newest), folder.names(newest))


def _is_file(address: str) -> bool:
    """Whether an address is that of a file: by its ending, or because it is there."""
    return split_address(address)[1].endswith(NETWORK_ENDINGS) or os.path.isfile(os.path.expanduser(address))


def _holds(address: str, name: str) -> bool:
    """Whether a folder has a file of this name: STATE makes it a checkpoint, complete or not."""
    try:
        return Storage.at(address).exists(name)
    except (ValueError, OSError):
        return False


def _from_bytes(content: bytes) -> Networks:
    """The networks of a file; its content decides which reader is used, not its name."""
    if content[8:9] == b"{":  # safetensors: the length of its header, then the header
        return networks_from_bytes(content)
    if rosinality.is_torch_file(content):
        return rosinality.read(content)
    if content[:1] != b"\x80":
        raise ValueError(describe_other_file(content))
    try:
        return _from_pickle(load_pickle(content))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the networks in the pickle are incomplete: {error!r}") from error


def _from_pickle(found: Any) -> Networks:
    if isinstance(found, tuple) and len(found) == 3 and all(isinstance(part, Record) for part in found):
        return _from_tensorflow(*found)
    if isinstance(found, Mapping) and all(isinstance(found.get(part), Record) for part in ("G", "D", "G_ema")):
        return _from_ada(found)
    raise ValueError("the pickle holds no networks of StyleGAN, StyleGAN2 or StyleGAN2-ADA")


def _from_tensorflow(G: Record, D: Record, Gs: Record) -> Networks:
    parts, models, variables = [], [], {}
    for record in (D, G, Gs):
        func, kwargs = tensorflow.full_name(record.state["build_func_name"]), record.state["static_kwargs"]
        variables = _variables(record)
        parts.append(tensorflow.network_from_tf(func, kwargs, variables))
        models.append(tensorflow.model_config(func, kwargs))
    cfg, D_model = run_config(models[1], models[0])
    return Networks(D=parts[0], G=parts[1], G_ema=parts[2], config=cfg, D_model=D_model, lod=float(variables["lod"]))


def _variables(record: Record) -> dict[str, Any]:
    """Variables of a network and its components under their full names."""
    variables = {name: np.asarray(value) for name, value in record.state["variables"]}
    for key, component in record.state.get("components", {}).items():
        variables |= {f"G_{key}/{name}": value for name, value in _variables(component).items()}
    return variables


def _from_ada(found: Mapping[str, Any]) -> Networks:
    parts, models = {}, {}
    if any(name.startswith("synthesis.input.") for name, _ in _tensors(found["G_ema"])):
        raise ValueError(STYLEGAN3)
    for name in ("G", "D", "G_ema"):
        state, part = found[name].state, name[0]
        if state.get("_init_args"):
            raise ValueError(f"{name} was built with positional arguments, which are not supported")
        kwargs = nvidia.stated_kwargs(part, state["_init_kwargs"], found[name])
        parts[name] = nvidia.network_from_ada(part, kwargs, dict(_tensors(found[name])))
        models[part] = nvidia.model_config(part, kwargs)
    cfg, D_model = run_config(models["G"], models["D"])
    pipe = found.get("augment_pipe")
    p = dict(_tensors(pipe)).get("p") if isinstance(pipe, Record) else None
    return Networks(**parts, config=cfg, D_model=D_model, augment_p=None if p is None else float(p))


def _tensors(module: Record, prefix: str = "") -> Any:
    """Names and tensors of a pickled module, as its state_dict would list them."""
    state = module.state
    passing = state.get("_non_persistent_buffers_set", ())
    for group in ("_parameters", "_buffers"):
        for name, tensor in state[group].items():
            if tensor is not None and name not in passing:
                yield prefix + name, tensor
    for name, part in state["_modules"].items():
        if part is not None:
            yield from _tensors(part, f"{prefix}{name}.")
