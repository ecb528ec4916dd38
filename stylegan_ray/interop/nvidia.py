"""Networks of NVIDIA's StyleGAN2-ADA PyTorch programs, and StyleGAN2 networks of its StyleGAN3 programs.

Our parameters hold the same numbers in the same layout; only names differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_ray.config import ModelConfig, validated
from stylegan_ray.interop.sizes import checked_int, data_shape, require_numbers
from stylegan_ray.interop.unpickler import Record
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.untrusted import BadFileError, printable

MOST_NAMED = 8
"""Tensors and arguments that a message names at most."""
MOST_ARGUMENTS = 200
LONGEST_ARGUMENT = 200
"""Characters of the name of a keyword argument."""
"""Keyword arguments of a network, nested ones included."""

KEYS = {
    "G": {
        "z_dim": "z_dim",
        "w_dim": "w_dim",
        "mapping_kwargs.num_layers": "mapping_layers",
        "mapping_kwargs.layer_features": "mapping_fmaps",
        "mapping_kwargs.embed_features": "mapping_embed",
        "mapping_kwargs.activation": "mapping_nonlinearity",
        "mapping_kwargs.lr_multiplier": "mapping_lrmul",
        "mapping_kwargs.w_avg_beta": "dlatent_avg_beta",
        "synthesis_kwargs.channel_max": "fmap_max",
        "synthesis_kwargs.architecture": "G_architecture",
        "synthesis_kwargs.resample_filter": "resample_kernel",
        "synthesis_kwargs.conv_clamp": "conv_clamp",
        "synthesis_kwargs.activation": "nonlinearity",
        "synthesis_kwargs.use_noise": "use_noise",
    },
    "D": {
        "architecture": "D_architecture",
        "channel_max": "fmap_max",
        "conv_clamp": "conv_clamp",
        "cmap_dim": "cmap_dim",
        "block_kwargs.activation": "nonlinearity",
        "block_kwargs.resample_filter": "resample_kernel",
        "mapping_kwargs.num_layers": "D_mapping_layers",
        "mapping_kwargs.activation": "mapping_nonlinearity",
        "mapping_kwargs.lr_multiplier": "mapping_lrmul",
        "epilogue_kwargs.mbstd_group_size": "mbstd_group_size",
        "epilogue_kwargs.mbstd_num_channels": "mbstd_num_features",
    },
}
"""Keyword arguments of the port, nested ones with a dot, and our keys in `model`."""

ELSEWHERE = frozenset(
    "c_dim img_resolution img_channels channel_base num_fp16_res fp16_channels_last block_kwargs.fp16_channels_last "
    "block_kwargs.freeze_layers synthesis_kwargs.channel_base synthesis_kwargs.num_fp16_res "
    "synthesis_kwargs.fp16_channels_last synthesis_kwargs.fused_modconv_default".split()
)
"""Keyword arguments that are read elsewhere, or choose among equal computations."""


def network_from_ada(part: str, init_kwargs: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> nn.Module:
    """The Generator (part G) or Discriminator (part D) of the port, built with these arguments, with this state."""
    cfg = model_config(part, init_kwargs)
    build = build_generator if part == "G" else build_discriminator
    shape = data_shape(*(init_kwargs.get(key) for key in ("img_resolution", "img_channels", "c_dim")))
    with torch.device("meta"):
        like = build(cfg, *shape)
    fitting = fitting_state(like, state_dict)  # compared first, so that a file cannot ask for more memory than it has
    with torch.random.fork_rng(devices=[]):
        network = build(cfg, *shape)
    network.load_state_dict(fitting)
    return network.eval()


def model_config(part: str, init_kwargs: Mapping[str, Any]) -> ModelConfig:
    """Our `model` section for the keyword arguments of the port's generator (part G) or discriminator (D)."""
    if part not in KEYS:
        raise ValueError(f"part={part!r} must be 'G' or 'D'")
    flat, keys = _flat(init_kwargs), KEYS[part]
    unknown = [key for key in flat if key not in keys and key not in ELSEWHERE]
    if unknown:
        raise BadFileError(f"StyleGAN2-ADA {part} has keyword arguments that are not known here: {_listed(unknown)}")
    values: dict[str, Any] = {"label_mode": "separate"}
    values |= {keys[key]: value for key, value in flat.items() if key in keys}
    base = flat.get("synthesis_kwargs.channel_base" if part == "G" else "channel_base", 32768)
    values["fmap_base"] = checked_int(base, "channel_base", 2, 1 << 26) // 2
    if part == "G":
        values["mapping_fmaps"] = values.get("mapping_fmaps") or init_kwargs["w_dim"]
    if values.get("mbstd_num_features") == 0:  # our word for no such layer
        values |= {"mbstd_num_features": 1, "mbstd_group_size": 0}
    return validated({"model": values}).model


def stated_kwargs(part: str, init_kwargs: Mapping[str, Any], module: Record) -> dict[str, Any]:
    """The keyword arguments of a pickled network in the form of StyleGAN2-ADA, with what its layers say of themselves.

    The StyleGAN3 programs pass those of StyleGAN2's synthesis network flat, and have other defaults, so clamping and
    the decay of w_avg are read from the layers where the arguments do not name them.
    """
    kwargs = dict(init_kwargs)
    if part == "G":
        flat = [key for key in kwargs if f"synthesis_kwargs.{key}" in KEYS["G"].keys() | ELSEWHERE]
        synthesis = dict(kwargs.get("synthesis_kwargs") or {}) | {key: kwargs.pop(key) for key in flat}
        mapping = dict(kwargs.get("mapping_kwargs") or {})
        stated = _attributes(module, "mapping")
        if mapping.get("w_avg_beta") is None and stated.get("w_avg_beta") is not None:
            mapping["w_avg_beta"] = float(stated["w_avg_beta"])
        kwargs |= {"mapping_kwargs": mapping, "synthesis_kwargs": _with_clamp(synthesis, module, "synthesis")}
        return kwargs
    return _with_clamp(kwargs, module)


def _with_clamp(kwargs: dict[str, Any], module: Record, *path: str) -> dict[str, Any]:
    """Arguments with the conv_clamp of the layers at 8x8 pixels, where they do not name one."""
    stated = _attributes(module, *path, "b8", "conv0").get("conv_clamp")
    if "conv_clamp" in kwargs or stated is None:
        return kwargs
    return kwargs | {"conv_clamp": float(stated)}


def _attributes(module: Record, *path: str) -> Mapping[str, Any]:
    """The attributes of a submodule of a pickled module; none where it is absent."""
    for name in path:
        module = module.state.get("_modules", {}).get(name)  # type: ignore[assignment]
        if not isinstance(module, Record):
            return {}
    return module.state


def fitting_state(network: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's state under our names and shapes; raises ValueError where it is not exactly that of the network."""
    theirs = {_our_name(name): tensor for name, tensor in state_dict.items() if not name.endswith("resample_filter")}
    state = network.state_dict()
    missing, extra = [name for name in state if name not in theirs], [name for name in theirs if name not in state]
    if missing or extra:
        raise BadFileError(f"state does not fit: missing {_listed(missing)}, not used {_listed(extra)}")
    fitting = {}
    for name, tensor in state.items():
        value = torch.as_tensor(theirs[name])
        squeezed = name.endswith(("constant", "noise_const")) and value.numel() == tensor.numel()
        if squeezed:  # stored without the leading axes
            value = value.reshape(tensor.shape)
        if value.shape != tensor.shape:
            raise BadFileError(f"{name} is {tuple(value.shape)} in the file, but {tuple(tensor.shape)} here")
        fitting[name] = value
    require_numbers(fitting)
    return fitting


def _listed(names: list[str]) -> str:
    """Some of the names, for a message."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(printable(name, 60) for name in names[:MOST_NAMED])}{more}" if names else "none"


def _our_name(name: str) -> str:
    name = re.sub(r"\bfc(\d*)\.", lambda match: f"dense{match[1] or 0}.", name)
    return {"mapping.w_avg": "w_avg"}.get(name, re.sub(r"\.const$", ".constant", name))


def _flat(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keyword arguments with dotted names; those that are None have their default and are left out."""
    flat: dict[str, Any] = {}
    for number, (name, value) in enumerate(_arguments(kwargs)):
        key = name.rpartition(".")[2]
        if number >= MOST_ARGUMENTS:
            raise BadFileError("the keyword arguments of its networks are too many")
        if key == "resample_filter" and value is None:  # insert zeros and keep samples unfiltered
            flat[name] = (1.0,)
        elif not isinstance(value, Mapping) and (value is not None or key == "mbstd_group_size"):
            flat[name] = value
    return flat


def _arguments(kwargs: Any, prefix: str = "", depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested keyword arguments, the mappings among them included."""
    if not isinstance(kwargs, Mapping) or depth == 0:
        raise BadFileError("the keyword arguments of its networks are no mapping, or nested too deeply")
    for key, value in kwargs.items():
        if not isinstance(key, str) or len(key) > LONGEST_ARGUMENT:
            raise BadFileError(f"the keyword arguments of its networks have one named {printable(key, 40)}")
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _arguments(value, f"{prefix}{key}.", depth - 1)
