"""Checkpoints of rosinality's stylegan2-pytorch (.pt), which pSp and e4e read too.

The file is a dictionary: `g`, `d` and `g_ema` are states of the networks, `latent_avg` [w] is the center of truncation.
Our parameters hold the same numbers; names and leading axes differ, and FIR filters are stored as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_ray.config import ConfigError, ModelConfig, validated
from stylegan_ray.interop.native import Networks, run_config
from stylegan_ray.interop.pickles import Budget, take_tensor
from stylegan_ray.interop.requirements import (
    OURS,
    Written,
    precision_notes,
    require_square,
    require_values,
)
from stylegan_ray.interop.sizes import data_shape, require_numbers, require_shapes
from stylegan_ray.interop.torch_files import read_torch_file
from stylegan_ray.networks import Generator, build_discriminator, build_generator
from stylegan_ray.rng import stream, stream_key
from stylegan_ray.untrusted import BadFileError, printable

FORMAT = "a .pt file in rosinality's layout"
KEYS = {"G": "g", "D": "d", "G_ema": "g_ema"}
"""Our names of the networks and the keys of the file."""
G_VALUES = {
    "family": "stylegan2", "G_architecture": "skip", "nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu",
    "mapping_lrmul": 0.01, "normalize_latents": True, "use_noise": True,
}  # fmt: skip
D_VALUES = {"family": "stylegan2", "D_architecture": "resnet", "nonlinearity": "lrelu"}
"""Keys of `model` that the file does not hold, with the values that its readers assume."""
MOST_TENSORS = 1_000
"""Tensors of a network, FIR filters included, at most; StyleGAN2 at 1024 pixels has 200."""
LARGEST_FILTER = 32
"""Taps of a FIR filter, at most."""
NUM_LATENTS = 10_000
"""Latents whose mean w is the center of truncation of a file without latent_avg (StyleGAN2 paper, appendix D)."""
NAME = re.compile(
    r"style\.\d+\.(weight|bias)|input\.input|noises\.noise_\d+|(conv1|convs\.\d+|to_rgb1|to_rgbs\.\d+|final_conv|"
    r"final_linear)\..+"
)
Names = Iterator[tuple[str, str, tuple[int, int]]]
PLAIN, LED, BROAD = (0, 0), (1, 0), (1, 2)
"""Axes of length one that a tensor of the file has before and after ours."""


def read(content: bytes) -> Networks:
    """The networks of a file; nothing in it is executed. Raises ValueError for a file that holds none."""
    found, copies = _load(content), Budget(content)
    states = {part: _state(found[key], key, copies) for part, key in KEYS.items() if key in found}
    if not states:
        keys = ", ".join(printable(key, 40) for key in sorted(map(str, found))[:8])
        raise BadFileError(
            f"no networks in rosinality's layout: expected the keys g, d and g_ema (one at least), found {keys}"
        )
    models = {part: (_D_model if part == "D" else _G_model)(states[part], KEYS[part]) for part in states}
    G_model = models.get("G_ema") or models.get("G") or models["D"]
    cfg, D_model = run_config(G_model, models.get("D", G_model))
    parts: dict[str, Any] = dict.fromkeys(KEYS)
    parts |= {part: _network(part, states[part], models[part]) for part in states}
    for part in ("G", "G_ema"):
        if parts[part] is not None:
            parts[part].w_avg.copy_(_w_avg(found.get("latent_avg"), parts[part]))
    return Networks(**parts, config=cfg, D_model=D_model)


def write(networks: Networks) -> Written:
    """The file of the networks, of those that there are; raises ConfigError by key for what the layout cannot hold."""
    _check(networks)
    G_model = networks.config.model
    models = {"G": G_model, "D": networks.D_model or G_model, "G_ema": G_model}
    parts = networks.parts()
    content: dict[str, Any] = {KEYS[part]: _their_state(n, models[part]) for part, n in parts.items()}
    if (center := networks.G_ema or networks.G) is not None:
        content["latent_avg"] = center.w_avg.detach().cpu().clone()
    file = io.BytesIO()
    torch.save(content, file)
    return Written(file.getvalue(), (*_class_notes(networks), *precision_notes([models[part] for part in parts])))


def _load(content: bytes) -> Mapping[str, Any]:
    """The dictionary of the file, whose tensors are views of its storages."""
    found = read_torch_file(content)
    if not isinstance(found, Mapping):
        raise BadFileError(f"expected a dictionary with the keys g, d and g_ema, found {type(found).__name__}")
    return found


def _state(found: Any, key: str, copies: Budget) -> dict[str, Tensor]:
    """The tensors of a network, whose bytes count; raises ValueError where they are not of rosinality's networks."""
    if not isinstance(found, Mapping):
        raise BadFileError(f"{key} must be a state_dict, not {type(found).__name__}")
    if len(found) > MOST_TENSORS:
        raise BadFileError(f"{key} has {len(found):,} tensors; rosinality's networks have at most {MOST_TENSORS:,}")
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise BadFileError(f"{key}: {printable(name, 60)!r} must be a tensor of floating-point numbers")
        take_tensor(copies, f"{key}: {name}", value.nbytes)
    if unknown := [printable(name, 60) for name in found if not NAME.fullmatch(str(name))]:
        raise BadFileError(f"{key}: tensors that rosinality's networks do not have: {', '.join(unknown[:4])}")
    return dict(found)


def _network(part: str, state: Mapping[str, Tensor], model: ModelConfig) -> nn.Module:
    build = build_discriminator if part == "D" else build_generator
    shape = data_shape(_resolution(state), _num_channels(part, state), 0)
    with torch.device("meta"):  # compared first, so that a file cannot ask for more memory than it has
        like = build(model, *shape)
    expected = {theirs: _with_axes(like.state_dict()[ours].shape, axes) for ours, theirs, axes in _names(like)}
    found = {name: tuple(value.shape) for name, value in state.items() if not name.endswith("kernel")}
    require_shapes(expected, found, KEYS[part])
    require_numbers(state, KEYS[part])
    with torch.random.fork_rng(devices=[]):
        network = build(model, *shape).to(next(iter(state.values())).dtype)
    ours = network.state_dict()
    for name, theirs, _ in _names(network):
        ours[name].copy_(state[theirs].reshape(ours[name].shape))
    return network.eval()


def _their_state(network: Any, model: ModelConfig) -> dict[str, Tensor]:
    state = network.state_dict()
    theirs = {
        name: state[ours].detach().cpu().reshape(_with_axes(state[ours].shape, axes)).clone()
        for ours, name, axes in _names(network)
    }
    taps = torch.tensor(model.resample_kernel or (1.0, 1.0), dtype=torch.float64)
    kernel = torch.outer(taps, taps)
    kernel = (kernel / kernel.sum()).float()
    gain = 4 if isinstance(network, Generator) else 1  # upsampling by 2 spreads a pixel over 4
    return theirs | {name: kernel * gain for name in _kernel_names(network)}


def _with_axes(shape: Sequence[int], axes: tuple[int, int]) -> tuple[int, ...]:
    """A shape with axes of length one before and after it."""
    return (1,) * axes[0] + tuple(shape) + (1,) * axes[1]


def _names(network: Any) -> Names:
    """Our name, rosinality's name, and its additional axes, of every tensor but w_avg."""
    return _names_of_G(network) if isinstance(network, Generator) else _names_of_D(network)


def _names_of_G(G: Any) -> Names:
    for i in range(G.mapping.num_layers):
        yield from ((f"mapping.dense{i}.{name}", f"style.{i + 1}.{name}", PLAIN) for name in ("weight", "bias"))
    yield "synthesis.b4.constant", "input.input", PLAIN
    for level in range(len(G.synthesis.sizes)):
        block = f"synthesis.b{4 * 2**level}"
        if level:
            yield from _styled(f"{block}.conv0", f"convs.{2 * level - 2}", 2 * level - 1)
        yield from _styled(f"{block}.conv1", f"convs.{2 * level - 1}" if level else "conv1", 2 * level)
        torgb = f"to_rgbs.{level - 1}" if level else "to_rgb1"
        yield f"{block}.torgb.bias", f"{torgb}.bias", BROAD
        yield from _modulated(f"{block}.torgb", torgb)


def _styled(ours: str, theirs: str, noise: int) -> Names:
    yield from _modulated(ours, theirs)
    yield f"{ours}.bias", f"{theirs}.activate.bias", PLAIN
    yield f"{ours}.noise_strength", f"{theirs}.noise.weight", LED
    yield f"{ours}.noise_const", f"noises.noise_{noise}", PLAIN


def _modulated(ours: str, theirs: str) -> Names:
    yield f"{ours}.weight", f"{theirs}.conv.weight", LED
    yield f"{ours}.affine.weight", f"{theirs}.conv.modulation.weight", PLAIN
    yield f"{ours}.affine.bias", f"{theirs}.conv.modulation.bias", PLAIN


def _names_of_D(D: Any) -> Names:
    levels = len(D.sizes)
    top = f"b{4 * 2 ** (levels - 1)}"
    yield f"{top}.fromrgb.weight", "convs.0.0.weight", PLAIN
    yield f"{top}.fromrgb.bias", "convs.0.1.bias", PLAIN
    for i in range(1, levels):
        block = f"b{4 * 2 ** (levels - i)}"
        yield f"{block}.conv0.weight", f"convs.{i}.conv1.0.weight", PLAIN
        yield f"{block}.conv0.bias", f"convs.{i}.conv1.1.bias", PLAIN
        yield f"{block}.conv1.weight", f"convs.{i}.conv2.1.weight", PLAIN
        yield f"{block}.conv1.bias", f"convs.{i}.conv2.2.bias", PLAIN
        yield f"{block}.skip.weight", f"convs.{i}.skip.1.weight", PLAIN
    yield "b4.conv.weight", "final_conv.0.weight", PLAIN
    yield "b4.conv.bias", "final_conv.1.bias", PLAIN
    for i, layer in enumerate(("dense0", "out")):
        yield from ((f"b4.{layer}.{name}", f"final_linear.{i}.{name}", PLAIN) for name in ("weight", "bias"))


def _kernel_names(network: Any) -> Iterator[str]:
    """Names of the FIR filters in the state of a network."""
    if isinstance(network, Generator):
        for i in range(len(network.synthesis.sizes) - 1):
            yield from (f"convs.{2 * i}.conv.blur.kernel", f"to_rgbs.{i}.upsample.kernel")
    else:
        for i in range(1, len(network.sizes)):
            yield from (f"convs.{i}.conv2.0.kernel", f"convs.{i}.skip.0.kernel")


def _G_model(state: Mapping[str, Tensor], key: str) -> ModelConfig:
    """The `model` section of a generator, from the names and shapes of its tensors."""
    depth, levels = _count(state, r"style\.(\d+)\.weight"), _count(state, r"to_rgbs\.(\d+)\.bias") + 1
    shape = _Shapes(state, key)
    widths = [shape("input.input", 1), *(shape(f"convs.{2 * i + 1}.conv.weight", 1) for i in range(levels - 1))]
    return validated({"model": {
        "z_dim": shape("style.1.weight", 1), "w_dim": shape("conv1.conv.modulation.weight", 1),
        "mapping_layers": depth, "mapping_fmaps": shape("style.1.weight", 0), **_width_keys(widths, None, key),
        "resample_kernel": _taps(state),
    }}).model  # fmt: skip


def _D_model(state: Mapping[str, Tensor], key: str) -> ModelConfig:
    levels = _count(state, r"convs\.(\d+)\.conv1\.0\.weight") + 1
    shape = _Shapes(state, key)
    last = shape("final_conv.0.weight", 0)
    widths = [last, *(shape(f"convs.{levels - 1 - i}.conv1.0.weight", 0) for i in range(levels - 1))]
    num_features = shape("final_conv.0.weight", 1) - last
    mbstd = {"mbstd_num_features": num_features} if num_features > 0 else {"mbstd_group_size": 0}
    keys = _width_keys(widths, shape("final_linear.0.weight", 0), key)
    return validated({"model": {**keys, **mbstd, "resample_kernel": _taps(state)}}).model


class _Shapes:
    """Sizes of tensors by name and axis; raises ValueError for a tensor that is missing."""

    def __init__(self, state: Mapping[str, Tensor], key: str):
        self.state, self.key = state, key

    def __call__(self, name: str, axis: int) -> int:
        if name not in self.state or self.state[name].ndim <= axis or not self.state[name].numel():
            raise BadFileError(f"{self.key} has no tensor {name} as rosinality's networks have; it is not complete")
        return self.state[name].shape[axis]


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def _resolution(state: Mapping[str, Tensor]) -> int:
    levels = _count(state, r"to_rgbs\.(\d+)\.bias") + _count(state, r"convs\.(\d+)\.conv1\.0\.weight")
    if not 0 < levels < 20:
        raise BadFileError(f"{levels + 1} resolutions; expected 2 (8x8 pixels) to 20")
    return 4 * 2**levels


def _num_channels(part: str, state: Mapping[str, Tensor]) -> int:
    return _Shapes(state, KEYS[part])("convs.0.0.weight" if part == "D" else "to_rgb1.bias", 1)


def _width_keys(widths: Sequence[int], dense: int | None, key: str) -> dict[str, int]:
    """fmap_base and fmap_max with which `feature_maps` gives these widths, and that of the dense layer as stage 0."""
    stages = {stage: width for stage, width in enumerate([dense, *widths]) if width is not None}
    most = max(stages.values())
    least_base = max(width * 2**stage for stage, width in stages.items())
    most_base = min(((width + 1) * 2**stage for stage, width in stages.items() if width < most), default=None)
    if most_base is not None and least_base >= most_base:
        raise BadFileError(
            f"{key} has {', '.join(map(str, widths))} feature maps from 4x4 up, which are not fmap_base / 2^stage "
            "up to fmap_max; such widths are not supported"
        )
    return {"fmap_base": least_base, "fmap_max": most}


def _taps(state: Mapping[str, Tensor]) -> tuple[float, ...]:
    """The FIR filter in a state; raises ValueError for filters that differ or are no outer product."""
    stored = [value for name, value in state.items() if name.endswith("kernel")]
    if not stored:
        return (1.0, 3.0, 3.0, 1.0)
    if any(value.ndim != 2 or not 0 < value.numel() <= LARGEST_FILTER**2 for value in stored):
        raise BadFileError(f"its FIR filters (*.kernel) are not of 1 to {LARGEST_FILTER} taps in both directions")
    kernels = [value.double() for value in stored]
    scaled = [kernel / kernel.sum() for kernel in kernels]
    taps = scaled[0].sum(dim=0)
    if any(k.shape != scaled[0].shape or not torch.allclose(k, torch.outer(taps, taps), atol=1e-6) for k in scaled):
        raise BadFileError("its FIR filters (*.kernel) differ from one another, or are not the product of 1-D filters")
    ratios = taps / taps.abs().min()
    taps = ratios.round() if torch.allclose(ratios, ratios.round(), atol=1e-4) else taps
    return tuple(taps.tolist())


def _w_avg(latent_avg: Any, G: Generator) -> Tensor:
    """The center of truncation: as stored, else the mean w of NUM_LATENTS fixed latents."""
    if latent_avg is None:
        z = stream(stream_key(0, 0, "w_avg"), 0).standard_normal((NUM_LATENTS, G.z_dim), dtype=np.float32)
        with torch.no_grad():
            return G.mapping(torch.from_numpy(z).to(G.w_avg.dtype)).mean(dim=0)
    is_w = isinstance(latent_avg, Tensor) and latent_avg.numel() == G.w_dim and latent_avg.is_floating_point()
    if not is_w or not torch.isfinite(latent_avg).all():
        raise BadFileError(f"latent_avg must be a tensor of {G.w_dim} finite numbers, one w")
    return latent_avg.reshape(G.w_dim)


def _check(networks: Networks) -> None:
    """Raises ConfigError for networks that the layout cannot hold."""
    like = next(iter(networks.parts().values()))
    if like.label_size:
        raise ConfigError(f"labels of {like.label_size} numbers (label_size) cannot be stored in {FORMAT}; {OURS}")
    require_square(like.resolution, FORMAT)
    if networks.G is not None or networks.G_ema is not None:
        require_values(networks.config.model, G_VALUES, FORMAT)
    if networks.D is not None:
        require_values(networks.D_model or networks.config.model, D_VALUES, FORMAT)


def _class_notes(networks: Networks) -> Iterator[str]:
    """What rosinality's own classes need to load the file, where their fixed numbers differ."""
    for part, network in networks.parts().items():
        widths, state = _widths(part, network), network.state_dict()
        levels = range(len(widths))
        if not any(widths == [min(512, 16384 * m // 2 // 2 ** (level + 1)) for level in levels] for m in (1, 2)):
            yield (
                f"{KEYS[part]} has {', '.join(map(str, widths))} feature maps from 4x4 up; rosinality's class has 512 "
                "up to 32x32 and channel_multiplier * 256 / 2^k above: change its `channels` to load the file"
            )
        if part != "D" and network.z_dim != network.w_dim:
            yield f"{KEYS[part]} has z_dim={network.z_dim} and w_dim={network.w_dim}; rosinality's class has one size"
        if part == "D" and state["b4.conv.weight"].shape[1] != widths[0] + 1:
            yield "d has another minibatch standard deviation layer than rosinality's class, which adds one feature map"
    if network.num_channels != 3:
        yield f"images have {network.num_channels} channels; rosinality's classes have 3"
    model = networks.D_model or networks.config.model
    if networks.D is not None and model.mbstd_group_size not in (0, 1, 4):
        yield f"model.mbstd_group_size={model.mbstd_group_size} is left out: rosinality's class has groups of 4"


def _widths(part: str, network: Any) -> list[int]:
    """Feature maps of each resolution, smallest first."""
    blocks = [getattr(network if part == "D" else network.synthesis, f"b{max(size)}") for size in _sizes(network)]
    return [block.conv.weight.shape[0] if hasattr(block, "conv") else
            (block.conv0 if part == "D" else block.conv1).weight.shape[0] for block in blocks]  # fmt: skip


def _sizes(network: Any) -> Sequence[tuple[int, int]]:
    return network.synthesis.sizes if isinstance(network, Generator) else network.sizes
