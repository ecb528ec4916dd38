"""Networks of NVIDIA's TensorFlow programs: names, layouts and keyword arguments.

Our parameters hold the same numbers as its variables, transposed; two differ: upsampling kernels are flipped, and
style biases are one larger (its code adds the one).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from stylegan_ray.config import ModelConfig, validated
from stylegan_ray.interop.sizes import checked_int, data_shape, require_numbers
from stylegan_ray.networks import (
    Discriminator,
    Generator,
    GrowingDiscriminator,
    GrowingSynthesis,
    build_discriminator,
    build_generator,
    build_mapping,
    build_synthesis,
)
from stylegan_ray.networks.stylegan1 import Style1Block, Style1Epilogue
from stylegan_ray.untrusted import BadFileError, printable

MOST_NAMED = 8
"""Variables and arguments that a message names at most."""


class Layout(NamedTuple):
    """How an array is converted to ours and back; `offset` is added to values (not to gradients)."""

    ours: Callable[[NDArray], NDArray]
    theirs: Callable[[NDArray], NDArray]
    offset: float = 0.0


SAME = Layout(lambda a: a, lambda a: a)
DENSE = Layout(lambda a: a.T, lambda a: a.T)
STYLE_BIAS = Layout(lambda a: a, lambda a: a, offset=1.0)
CONV = Layout(lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0))
FLIPPED_CONV = Layout(
    lambda a: a[::-1, ::-1].transpose(3, 2, 0, 1), lambda a: a[:, :, ::-1, ::-1].transpose(2, 3, 1, 0)
)

FAMILIES = {
    "networks_stylegan2.G_main": "stylegan2",
    "networks_stylegan2.G_mapping": "stylegan2",
    "networks_stylegan2.G_synthesis_stylegan2": "stylegan2",
    "networks_stylegan2.G_synthesis_stylegan_revised": "revised",
    "networks_stylegan2.D_stylegan": "revised",
    "networks_stylegan2.D_stylegan2": "stylegan2",
    "networks_stylegan.G_style": "stylegan1",
    "networks_stylegan.G_mapping": "stylegan1",
    "networks_stylegan.G_synthesis": "stylegan1",
    "networks_stylegan.D_basic": "stylegan1",
}
"""Network functions of the originals and the family of networks that they build."""

KEYS = {
    "latent_size": "z_dim",
    "dlatent_size": "w_dim",
    "mapping_layers": "mapping_layers",
    "mapping_fmaps": "mapping_fmaps",
    "mapping_lrmul": "mapping_lrmul",
    "mapping_nonlinearity": "mapping_nonlinearity",
    "normalize_latents": "normalize_latents",
    "fmap_base": "fmap_base",
    "fmap_decay": "fmap_decay",
    "fmap_min": "fmap_min",
    "fmap_max": "fmap_max",
    "nonlinearity": "nonlinearity",
    "resample_kernel": "resample_kernel",
    "mbstd_group_size": "mbstd_group_size",
    "mbstd_num_features": "mbstd_num_features",
    "style_mixing_prob": "style_mixing_prob",
    "dlatent_avg_beta": "dlatent_avg_beta",
    "use_wscale": "use_wscale",
    "use_styles": "use_styles",
    "const_input_layer": "const_input_layer",
    "use_noise": "use_noise",
    "use_pixel_norm": "use_pixel_norm",
    "use_instance_norm": "use_instance_norm",
    "blur_filter": "blur_filter",
    "fused_scale": "fused_scale",
}
"""Keyword arguments of the original and our keys in `model`."""

SIZES = ("latent_size", "dlatent_size", "mapping_layers", "mapping_fmaps", "fmap_base", "fmap_max")
ONLY_G = frozenset(
    "z_dim w_dim mapping_layers mapping_fmaps mapping_lrmul mapping_nonlinearity normalize_latents style_mixing_prob "
    "dlatent_avg_beta use_styles const_input_layer use_noise use_pixel_norm use_instance_norm".split()
)
ONLY_D = frozenset({"mbstd_group_size", "mbstd_num_features"})

ELSEWHERE = frozenset(
    "label_size num_channels resolution dlatent_broadcast mapping_func synthesis_func randomize_noise fused_modconv "
    "is_training is_validation is_template_graph return_dlatents truncation_psi truncation_cutoff truncation_psi_val "
    "truncation_cutoff_val structure dtype force_clean_graph components func_name name".split()
)
"""Keyword arguments that do not describe the model, or are read elsewhere."""


def network_from_tf(func: str, build_kwargs: Mapping[str, Any], variables: Mapping[str, ArrayLike]) -> nn.Module:
    """The network that `func` (e.g. networks_stylegan2.G_main) builds from these arguments, with these variables.

    A Generator for G_main, else the Mapping, Synthesis or Discriminator. Evaluations are ours: no truncation
    unless asked for (`truncation` gives what the original does).
    """
    with torch.device("meta"):
        like = build(func, build_kwargs)
    arrays = fitting_arrays(like, variables)  # compared first, so that a file cannot ask for more memory than it has
    with torch.random.fork_rng(devices=[]):
        network = build(func, build_kwargs)
    state = network.state_dict()
    for name, array in arrays.items():
        state[name].copy_(torch.tensor(array))
    return network.eval()


def model_config(func: str, build_kwargs: Mapping[str, Any]) -> ModelConfig:
    """The `model` section for the keyword arguments of a network function of the original."""
    values: dict[str, Any] = {"family": _family(func, build_kwargs)}
    unknown = [key for key in build_kwargs if key not in KEYS and key not in ELSEWHERE and key != "architecture"]
    if unknown:
        raise BadFileError(f"{func} has keyword arguments that are not known here: {_listed(unknown)}")
    values |= {KEYS[key]: value for key, value in build_kwargs.items() if key in KEYS}
    if isinstance(values.get("fused_scale"), bool):
        values["fused_scale"] = "on" if values["fused_scale"] else "off"
    if values["family"] == "stylegan1":
        values.setdefault("fmap_base", 8192)
    if "architecture" in build_kwargs:
        values["D_architecture" if _name(func).startswith("D_") else "G_architecture"] = build_kwargs["architecture"]
    return validated({"model": values}).model


def build_kwargs(part: str, model: ModelConfig) -> dict[str, Any]:
    """Keyword arguments with which the original builds G or D of this `model` section: sizes, and no other defaults.

    The reverse of `model_config`, but for keys that the original does not have.
    """
    kwargs = {}
    for theirs, ours in KEYS.items():
        value = getattr(model, ours)
        if ours in (ONLY_D if part == "G" else ONLY_G):
            continue
        if theirs in SIZES or value != ModelConfig.model_fields[ours].default:
            kwargs[theirs] = list(value) if isinstance(value, tuple) else value
    if "fused_scale" in kwargs:
        kwargs["fused_scale"] = kwargs["fused_scale"] == "on"
    if model.family == "stylegan2":
        kwargs["architecture"] = model.G_architecture if part == "G" else model.D_architecture
    return kwargs


def full_name(func: str) -> str:
    """A function name with its module, for the functions that build whole networks (pickles lack the module)."""
    names = [name for name in FAMILIES if name.endswith(f".{func}")]
    if not names:
        raise BadFileError(
            f"network function {printable(func, 60)!r} is not known here; known are {', '.join(FAMILIES)}"
        )
    return names[0]


def truncation(func: str, run_kwargs: Mapping[str, Any]) -> tuple[float, int | None]:
    """psi and cutoff (None: all layers) that an evaluation of G_main or G_style with these arguments uses."""
    style = _name(func) == "G_style"
    psi, cutoff = run_kwargs.get("truncation_psi", 0.7 if style else 0.5), run_kwargs.get("truncation_cutoff", 8)
    if not style:
        cutoff = run_kwargs.get("truncation_cutoff")
    if run_kwargs.get("is_validation"):
        psi, cutoff = run_kwargs.get("truncation_psi_val"), run_kwargs.get("truncation_cutoff_val")
    if psi is None or run_kwargs.get("is_training") or (style and cutoff is None):
        return 1.0, None
    return psi, cutoff


def fitting_arrays(network: nn.Module, variables: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    """Variables under our names and in our layouts; raises ValueError where they are not exactly those of a network."""
    state = network.state_dict()
    rows = list(tf_names(network))
    known = {theirs for _, theirs, _ in rows}
    missing = [theirs for theirs in known if theirs not in variables]
    extra = [name for name in variables if name not in known and not str(name).endswith("lod")]
    if missing or extra:
        raise BadFileError(f"variables do not fit: missing {_listed(missing)}, not used {_listed(extra)}")
    fitting = {}
    for ours, theirs, layout in rows:
        array, shape = np.asarray(variables[theirs]), tuple(state[ours].shape)
        array = layout.ours(array) if array.ndim == len(shape) else array
        if array.shape != shape:
            raise BadFileError(f"variable {theirs} becomes {array.shape}, but {ours} is {shape}")
        require_numbers({theirs: array})
        fitting[ours] = array + np.asarray(layout.offset, array.dtype)
    return fitting


def _listed(names: list[str]) -> str:
    """Some of the names, for a message."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    shown = ", ".join(repr(printable(name, 60)) for name in sorted(map(str, names))[:MOST_NAMED])
    return f"{shown}{more}" if names else "none"


def tf_variables(network: nn.Module) -> dict[str, NDArray]:
    """All tensors of a network as variables of the original: its names, layouts and values."""
    state = network.state_dict()
    if any(value.dtype == torch.bfloat16 for value in state.values()):  # numpy has no such type
        state = {name: value.float() for name, value in state.items()}
    return {
        theirs: layout.theirs(state[ours].cpu().numpy()) - layout.offset for ours, theirs, layout in tf_names(network)
    }


def tf_gradients(network: nn.Module) -> dict[str, NDArray | None]:
    """The gradients of all parameters under the original's names and layouts; None where there is none."""
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {
        theirs: None if gradients[ours] is None else layout.theirs(gradients[ours].cpu().numpy())  # type: ignore
        for ours, theirs, layout in tf_names(network)
        if ours in gradients
    }


def tf_names(network: nn.Module) -> Iterator[tuple[str, str, Layout]]:
    """Our name, the original's name and the layout of every tensor of a network."""
    for ours in network.state_dict():
        if ours == "w_avg":
            yield ours, "dlatent_avg", SAME
        elif isinstance(network, Generator):
            part, _, rest = ours.partition(".")
            theirs, layout = _translate(network.get_submodule(part), rest)
            yield ours, f"G_{part}/{theirs}", layout
        else:
            yield ours, *_translate(network, ours)


def build(func: str, build_kwargs: Mapping[str, Any]) -> nn.Module:
    """A new network like the one that `func` builds from these arguments."""
    cfg, kwargs = model_config(func, build_kwargs), build_kwargs
    resolution, num_channels, label_size = data_shape(
        kwargs.get("resolution", 1024), kwargs.get("num_channels", 3), kwargs.get("label_size", 0)
    )
    if _name(func) == "G_mapping":
        num_ws = kwargs.get("dlatent_broadcast")
        return build_mapping(cfg, label_size, num_ws if num_ws is None else checked_int(num_ws, "num_ws", 1, 64))
    if _name(func).startswith("G_synthesis"):
        return build_synthesis(cfg, resolution, num_channels)
    if _name(func).startswith("D_"):
        return build_discriminator(cfg, resolution, num_channels, label_size)
    return build_generator(cfg, resolution, num_channels, label_size)


def _family(func: str, build_kwargs: Mapping[str, Any]) -> str:
    module, _, name = func.rpartition(".")
    full = f"{module.rpartition('.')[2]}.{printable(build_kwargs.get('synthesis_func', name), 60)}"
    if full not in FAMILIES:
        raise BadFileError(f"network function {printable(func, 60)} is not known here; known are {', '.join(FAMILIES)}")
    return FAMILIES[full]


def _name(func: str) -> str:
    return func.rpartition(".")[2]


G_LAYERS = {"conv0": "Conv0_up", "conv1": "Conv1", "skip": "Skip", "torgb": "ToRGB"}
D_LAYERS = {
    "fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip", "conv": "Conv", "dense0": "Dense0",
}  # fmt: skip
TENSORS = {
    "bias": ("bias", SAME),
    "noise_strength": ("noise_strength", SAME),
    "affine.weight": ("mod_weight", DENSE),
    "affine.bias": ("mod_bias", STYLE_BIAS),
}


STYLE1_TENSORS = {
    "noise_strength": ("Noise/weight", SAME),
    "style.weight": ("StyleMod/weight", DENSE),
    "style.bias": ("StyleMod/bias", SAME),
    "bias": ("bias", SAME),
}


def _translate(network: Any, ours: str) -> tuple[str, Layout]:
    """The original's name and the layout of a tensor of a mapping, synthesis or discriminator network."""
    if ours == "label_weight":
        return "LabelConcat/weight", DENSE
    if match := re.fullmatch(r"dense(\d+)\.(weight|bias)", ours):
        return f"Dense{match[1]}/{match[2]}", DENSE if match[2] == "weight" else SAME
    match = re.fullmatch(r"b(\d+)\.(\w+)\.?(.*)", ours)
    if match is None:
        raise ValueError(f"tensor {ours} has no counterpart in the TensorFlow programs")
    size, layer, tensor = int(match[1]), match[2], match[3]
    block = network.get_submodule(f"b{size}")
    name, layout = TENSORS.get(tensor, (tensor, DENSE if layer in ("dense0", "out") else CONV))
    if layer in ("torgb", "fromrgb") and isinstance(network, GrowingSynthesis | GrowingDiscriminator):
        scope = "ToRGB" if layer == "torgb" else "FromRGB"
        return f"{scope}_lod{max(network.resolution).bit_length() - size.bit_length()}/{name}", layout
    if isinstance(network, Discriminator | GrowingDiscriminator):
        last = "4x4/Dense1" if isinstance(block, Style1Epilogue) else "Output"
        return f"{last if layer == 'out' else f'{size}x{size}/{D_LAYERS[layer]}'}/{name}", layout
    if isinstance(block, Style1Block):
        return _translate_style1(block, size, layer, tensor)
    if layer == "constant":
        return f"{size}x{size}/Const/const", SAME
    if tensor == "noise_const":
        return f"noise{2 * block.level - (1 if layer == 'conv0' else 0)}", SAME
    layout = FLIPPED_CONV if (layer, tensor) == ("conv0", "weight") else layout
    return f"{size}x{size}/{'Conv' if (size, layer) == (4, 'conv1') else G_LAYERS[layer]}/{name}", layout


def _translate_style1(block: Style1Block, size: int, layer: str, tensor: str) -> tuple[str, Layout]:
    """As `_translate`, for the synthesis of StyleGAN1."""
    if tensor == "noise_const":
        return f"noise{2 * block.level + (layer == 'layer1')}", SAME
    second = "Conv1" if block.level else "Conv"
    first = "Conv0_up" if block.level else "Const" if block.start.is_constant else "Dense"
    scope = f"{size}x{size}/{second if layer in ('conv', 'layer1') else first}"
    if layer in ("layer0", "layer1"):
        name, layout = STYLE1_TENSORS[tensor]
        return f"{scope}/{name}", layout
    if tensor == "constant":
        return f"{scope}/const", SAME
    return f"{scope}/weight", DENSE if tensor == "dense.weight" else CONV
