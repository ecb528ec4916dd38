"""Finds and loads networks: of a run by its name or folder, of a checkpoint, of a file of ours or NVIDIA's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
from torch import Tensor

from stylegan_ray.checkpoint_files import CHECKPOINT_BYTES, read_complete
from stylegan_ray.config import ConfigError
from stylegan_ray.interop import nvidia, rosinality, tensorflow
from stylegan_ray.interop.native import (
    Networks,
    header_size,
    networks_from_bytes,
    networks_from_checkpoint,
    run_config,
    stated_networks,
)
from stylegan_ray.interop.not_networks import STYLEGAN3, describe_other_file
from stylegan_ray.interop.pickles import Budget, checked_key, take_tensor
from stylegan_ray.interop.sizes import checked_augment_p, checked_lod, require_numbers
from stylegan_ray.interop.torch_files import is_torch_file
from stylegan_ray.interop.unpickler import Array, Record, load_pickle
from stylegan_ray.run_folder import (
    COMPLETE,
    CONFIG,
    COUNTERS,
    NETWORK_ENDINGS,
    PUBLISHED,
    STATE,
    find_run,
    is_checkpoint,
    newest_network,
)
from stylegan_ray.storage import Storage, has_file, join_address, split_address
from stylegan_ray.untrusted import NETWORK_BYTES, BadFileError, printable, reading

MOST_NAMES = 10_000
"""Names of modules, tensors and variables of a pickled network, at most; StyleGAN2 at 1024 pixels has some hundreds."""
DEEPEST_MODULE = 16
MOST_COMPONENTS = 8
LONGEST_NAME = 200
"""Characters of the name of one module, component, tensor or variable; a full name repeats those above it."""


def load(checkpoint: str, needed: Sequence[str] = ("G_ema",)) -> Networks:
    """The networks that a word on the command line names (see `locate`).

    Raises ConfigError, also where one of the `needed` networks is absent.
    """
    address = locate(checkpoint)
    try:
        with reading(address, ConfigError, passes=(FileNotFoundError,)):
            networks = read_networks(address)
    except FileNotFoundError as error:
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
    if _is_file(checkpoint) or is_checkpoint(checkpoint):
        return checkpoint
    if has_file(checkpoint, PUBLISHED):
        return join_address(checkpoint, PUBLISHED)
    run = find_run(checkpoint)
    with reading(run, ConfigError):
        newest = newest_network(Storage.at(run))
    if newest is None:
        raise ConfigError(f"run {run} has no networks yet; its first checkpoint is written at its first tick")
    return join_address(run, newest)


def checksum(address: str) -> str:
    """sha256 of a network file, or of the tensors of a checkpoint, in hex; raises ConfigError."""
    folder, name = split_address(address)
    try:
        here = Storage.at(address)
        content = Storage.at(folder).read(name) if _is_file(address) else here.read(STATE, CHECKPOINT_BYTES)
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
        with reading(address, passes=(FileNotFoundError,)):
            here = Storage.at(address)
            names = [] if _is_file(address) else here.names()
            networks = _from_folder(here, names) if names else _from_file(Storage.at(folder), name)
            for part, network in networks.parts().items():  # whose type may be too small for a number of the file
                require_numbers(network.state_dict(), part)
            return networks
    except ConfigError as error:  # a configuration in the file that is out of range
        raise BadFileError(f"{printable(address, 500)}: {'; '.join(error.args)}") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"no networks at {printable(address)}: there is no such file or folder") from None


def _from_folder(folder: Storage, names: list[str]) -> Networks:
    """The networks of a checkpoint, or the newest ones of a run."""
    if STATE in names or COMPLETE in names:
        if COMPLETE not in names:
            raise BadFileError("the checkpoint is not complete; use another one of the run, or the run itself")
        contents = read_complete(folder)
        return networks_from_checkpoint(*(contents[name] for name in (STATE, CONFIG, COUNTERS)))
    newest = PUBLISHED if PUBLISHED in names else newest_network(folder)
    if newest is None:
        raise BadFileError("the folder holds no network file and no complete checkpoint")
    if newest.endswith(NETWORK_ENDINGS):
        return _from_file(folder, newest)
    return _from_folder(folder.folder(newest), folder.names(newest))


def _is_file(address: str) -> bool:
    """Whether an address is that of a file: by its ending, or because it is there."""
    return split_address(address)[1].endswith(NETWORK_ENDINGS) or os.path.isfile(os.path.expanduser(address))


def _from_file(folder: Storage, name: str) -> Networks:
    """The networks of a file; its content decides which reader is used, not its name.

    What the file begins with is read first, so that a large one that cannot hold networks is not read at all.
    """
    with folder.open(name) as file:
        head = file.read(4096)
        size = folder.size(name)
        is_torch, is_ours = is_torch_file(head), is_safetensors(head)
        is_pickle = head[:1] == b"\x80" and not is_ours
        if is_ours:
            length = header_size(head, NETWORK_BYTES if size is None else size)
            stated_networks(head[:length] + file.read(max(length - len(head), 0)))
        elif not is_torch and not is_pickle:
            raise BadFileError(describe_other_file(head))
    content = folder.read(name, NETWORK_BYTES)
    if not is_torch and not is_pickle:
        return networks_from_bytes(content)
    if is_torch:
        return rosinality.read(content)
    try:
        return _from_pickle(load_pickle(content), Budget(content))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadFileError(f"the networks in the pickle are incomplete: {printable(error)}") from error


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of the header in 8 bytes, below 4 GiB, then the header.

    The first byte of the length may be that of a pickle, 128.
    """
    return head[4:9] == b"\0\0\0\0{"


def _from_pickle(found: Any, copies: Budget) -> Networks:
    """The networks in the objects of a pickle; the tensors that they copy count in `copies`."""
    if isinstance(found, tuple) and len(found) == 3 and all(isinstance(part, Record) for part in found):
        return _from_tensorflow(*found, copies)
    if isinstance(found, Mapping) and all(isinstance(found.get(part), Record) for part in ("G", "D", "G_ema")):
        return _from_ada(found, copies)
    raise BadFileError("the pickle holds no networks of StyleGAN, StyleGAN2 or StyleGAN2-ADA")


def _from_tensorflow(G: Record, D: Record, Gs: Record, copies: Budget) -> Networks:
    parts, models, variables = [], [], {}
    for record in (D, G, Gs):
        func, kwargs = tensorflow.full_name(record.state["build_func_name"]), record.state["static_kwargs"]
        variables = _variables(record, _Count(copies))
        parts.append(tensorflow.network_from_tf(func, kwargs, variables))
        models.append(tensorflow.model_config(func, kwargs))
    cfg, D_model = run_config(models[1], models[0])
    lod = checked_lod(variables["lod"], cfg.model, parts[1].resolution)
    return Networks(D=parts[0], G=parts[1], G_ema=parts[2], config=cfg, D_model=D_model, lod=lod)


class _Count:
    """Counts names and bytes of a network: one that holds a part many times has as many as if each were another part.

    The bytes are those of all networks of a file together.
    """

    def __init__(self, copies: Budget) -> None:
        self.num, self.copies = 0, copies

    def add(self, *groups: Sized) -> None:
        """Raises BadFileError where a network has more than MOST_NAMES."""
        self.num += 1 + sum(map(len, groups))
        if self.num > MOST_NAMES:
            raise BadFileError(
                f"the networks in the pickle have more than {MOST_NAMES:,} modules, tensors or variables"
            )


def _variables(record: Record, count: _Count, depth: int = 4) -> dict[str, Any]:
    """Variables of a network and its components under their full names."""
    components = record.state.get("components", {})
    if depth == 0 or len(components) > MOST_COMPONENTS:
        raise BadFileError(f"the networks in the pickle have more than {MOST_COMPONENTS} components, or too deep ones")
    count.add(record.state["variables"])
    variables = {_word(name): _array(name, value, count) for name, value in record.state["variables"]}
    for key, component in components.items():
        prefix = f"G_{_word(key)}/"
        variables |= {f"{prefix}{name}": value for name, value in _variables(component, count, depth - 1).items()}
    return variables


def _word(name: Any) -> str:
    """A name that a program gives; raises BadFileError for others."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME:
        raise BadFileError(
            f"the networks in the pickle have a part named {printable(name, 40)}; names are text of at most "
            f"{LONGEST_NAME} characters"
        )
    return name


def _array(name: str, value: Any, count: _Count) -> np.ndarray:
    if not isinstance(value, Array):
        raise BadFileError(f"variable {printable(name, 60)} is no array of numbers")
    take_tensor(count.copies, name, value.value.nbytes)
    return value.value


def _from_ada(found: Mapping[str, Any], copies: Budget) -> Networks:
    parts, models = {}, {}
    states = {name: _tensors(found[name], copies) for name in ("G_ema", "G", "D")}
    if any(name.startswith("synthesis.input.") for name in states["G_ema"]):
        raise BadFileError(STYLEGAN3)
    for name in ("G", "D", "G_ema"):
        state, part = found[name].state, name[0]
        if state.get("_init_args"):
            raise BadFileError(f"{name} was built with positional arguments, which are not supported")
        kwargs = nvidia.stated_kwargs(part, state["_init_kwargs"], found[name])
        parts[name] = nvidia.network_from_ada(part, kwargs, states[name])
        models[part] = nvidia.model_config(part, kwargs)
    cfg, D_model = run_config(models["G"], models["D"])
    pipe = found.get("augment_pipe")
    p = _tensors(pipe, copies).get("p") if isinstance(pipe, Record) else None
    p = None if p is None else checked_augment_p(p, "augment_pipe.p")
    return Networks(**parts, config=cfg, D_model=D_model, augment_p=p)


def _tensors(module: Record, copies: Budget) -> dict[str, Any]:
    """Tensors of a pickled module by name, as in its state_dict; raises BadFileError for too many."""
    return dict(_walk(module, "", _Count(copies), 0))


def _walk(module: Any, prefix: str, count: _Count, depth: int) -> Any:
    if not isinstance(module, Record) or depth > DEEPEST_MODULE:
        raise BadFileError(
            f"the networks in the pickle nest modules more than {DEEPEST_MODULE} deep, or have something else among "
            "their modules"
        )
    state = module.state
    stated = state.get("_non_persistent_buffers_set", ())
    count.add(stated, state["_parameters"], state["_buffers"], state["_modules"])
    passing = set(map(checked_key, stated))
    for group in ("_parameters", "_buffers"):
        for name, tensor in state[group].items():
            if tensor is None or name in passing:
                continue
            if not isinstance(tensor, Tensor):
                raise BadFileError(f"{printable(prefix + str(name), 60)} is no tensor")
            full_name = f"{prefix}{_word(name)}"
            take_tensor(count.copies, full_name, tensor.nbytes)
            yield full_name, tensor
    for name, part in state["_modules"].items():
        if part is not None:
            yield from _walk(part, f"{prefix}{_word(name)}.", count, depth + 1)
