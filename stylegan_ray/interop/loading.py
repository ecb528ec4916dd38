"""Finds the networks in a file or run folder, whoever wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from stylegan_ray.config import ModelConfig, RunConfig, validated
from stylegan_ray.interop import nvidia, tensorflow
from stylegan_ray.interop.native import Networks, networks_from_bytes, networks_from_checkpoint
from stylegan_ray.interop.unpickler import Record, load_pickle
from stylegan_ray.storage import Storage, split_address

FINAL = "network-final.safetensors"
CHECKPOINT = ("state.safetensors", "config.yaml", "state.json")

D_KEYS = frozenset({"D_architecture", "D_mapping_layers", "cmap_dim", "mbstd_group_size", "mbstd_num_features"})
"""Keys of `model` that only D reads."""


def load_network(path: str | os.PathLike[str]) -> dict[str, Any]:
    """{"G", "D", "G_ema"} of a network file, checkpoint or run folder of ours, or of NVIDIA's pickles.

    Safe for files from strangers: pickles are read as data. Raises ValueError (or FileNotFoundError) naming the file.
    """
    return read_networks(path).parts()


def read_networks(path: str | os.PathLike[str]) -> Networks:
    """The networks of a file or folder with their configuration."""
    address = os.fspath(path).rstrip("/")
    folder, name = split_address(address)
    try:
        here = Storage.at(address)
        names = [] if name.endswith((".safetensors", ".pkl")) else here.names()
        if names:
            return _from_folder(here, names)
        return _from_bytes(Storage.at(folder).read(name))
    except FileNotFoundError:
        raise FileNotFoundError(f"no networks at {address}: there is no such file or folder") from None
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error


def _from_folder(folder: Storage, names: list[str]) -> Networks:
    """The final networks of a run, else those of its newest complete checkpoint, else its newest snapshot."""
    if CHECKPOINT[0] in names:
        return networks_from_checkpoint(*(folder.read(name) for name in CHECKPOINT))
    if FINAL in names:
        return _from_bytes(folder.read(FINAL))
    checkpoints = folder.folder("checkpoints")
    for name in reversed(checkpoints.names()):
        if checkpoints.exists(f"{name}/COMPLETE"):
            return _from_folder(checkpoints.folder(name), checkpoints.names(name))
    snapshots = [name for name in names if name.startswith("network-snapshot-")]
    if not snapshots:
        raise ValueError("the folder holds no network file and no complete checkpoint")
    return _from_bytes(folder.read(snapshots[-1]))


def _from_bytes(content: bytes) -> Networks:
    if content[8:9] == b"{":  # safetensors: the length of its header, then the header
        return networks_from_bytes(content)
    if content[:1] != b"\x80":
        raise ValueError("neither a safetensors file nor a pickle of NVIDIA's programs")
    try:
        return _from_pickle(load_pickle(content))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the networks in the pickle are not whole: {error!r}") from error


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
    cfg, D_model = _run_config(models[1], models[0])
    return Networks(D=parts[0], G=parts[1], G_ema=parts[2], config=cfg, D_model=D_model, lod=float(variables["lod"]))


def _variables(record: Record) -> dict[str, Any]:
    """Variables of a network and its components under their full names."""
    variables = {name: np.asarray(value) for name, value in record.state["variables"]}
    for key, component in record.state.get("components", {}).items():
        variables |= {f"G_{key}/{name}": value for name, value in _variables(component).items()}
    return variables


def _from_ada(found: Mapping[str, Any]) -> Networks:
    parts, models = {}, {}
    for name in ("G", "D", "G_ema"):
        state, part = found[name].state, name[0]
        if state.get("_init_args"):
            raise ValueError(f"{name} was built with positional arguments, which are not known here")
        parts[name] = nvidia.network_from_ada(part, state["_init_kwargs"], dict(_tensors(found[name])))
        models[part] = nvidia.model_config(part, state["_init_kwargs"])
    cfg, D_model = _run_config(models["G"], models["D"])
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


def _run_config(G: ModelConfig, D: ModelConfig) -> tuple[RunConfig, ModelConfig | None]:
    """One configuration for G and D; the second part is D's own where one cannot serve both."""
    merged = G.model_copy(update={key: getattr(D, key) for key in D_KEYS})
    alike = all(getattr(merged, key) == getattr(D, key) for key in _read_by_discriminator())
    return validated({"model": merged.model_dump()}), None if alike else D


def _read_by_discriminator() -> set[str]:
    only_g = {
        "G_architecture", "z_dim", "w_dim", "mapping_layers", "mapping_fmaps", "mapping_embed", "normalize_latents",
        "style_mixing_prob", "dlatent_avg_beta", "use_noise", "use_styles", "use_pixel_norm", "use_instance_norm",
        "const_input_layer", "fused_modconv",
    }  # fmt: skip
    return set(ModelConfig.model_fields) - only_g
