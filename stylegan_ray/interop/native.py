"""Network files of this package: safetensors with the tensors of G, D and G_ema; the configuration is metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from stylegan_ray.config import FORMAT_VERSION, ModelConfig, RunConfig, validated, without_places
from stylegan_ray.interop.sizes import (
    LARGEST_CLOCK,
    DataShape,
    checked_augment_p,
    checked_float,
    checked_int,
    checked_lod,
    data_shape,
    require_numbers,
    require_shapes,
    stated_shapes,
)
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.packed_tensors import PackedTensors
from stylegan_ray.run_folder import CONFIG, COUNTERS, HEADER_BYTES, STATE
from stylegan_ray.untrusted import COPY_AGAIN, BadFileError, check_size, printable
from stylegan_ray.untrusted_text import parse_json, parse_yaml

PARTS = ("G", "D", "G_ema")
D_KEYS = frozenset({"D_architecture", "D_mapping_layers", "cmap_dim", "mbstd_group_size", "mbstd_num_features"})
"""Keys of `model` that only D reads."""

READ_AS_JSON = (
    "config", "D_model", "resolution", "num_channels", "label_size", "format_version", "cur_nimg", "lod", "augment_p",
)  # fmt: skip
"""Entries of the metadata; `parts` is words."""
FLOATING = ("F16", "BF16", "F32", "F64")
"""Types of numbers that networks have, by their names in a header."""
LARGEST_VERSION = 1 << 20
MOST_LEVELS = 20
"""Levels of a network, at most."""


@dataclass(frozen=True)
class Networks:
    """The networks of a file with their configuration and clock value; those that the file lacks are None."""

    G: Any
    D: Any
    G_ema: Any
    config: RunConfig
    D_model: ModelConfig | None = None  # the `model` section of D, where it differs from config.model
    cur_nimg: int = 0
    lod: float = 0.0
    augment_p: float | None = None  # of a training with adaptive augmentation

    def parts(self) -> dict[str, Any]:
        """The networks that the file holds, by name."""
        return {name: part for name in PARTS if (part := getattr(self, name)) is not None}


def save_network(
    G: Any,
    D: nn.Module | None,
    G_ema: nn.Module | None,
    cfg: RunConfig,
    cur_nimg: int,
    D_model: ModelConfig | None = None,
    lod: float = 0.0,
    augment_p: float | None = None,
) -> bytes:
    """The content of a network file; of G, D and G_ema those that are None are left out."""
    return bytes(pack(Networks(G, D, G_ema, cfg, D_model, cur_nimg, lod, augment_p)).content)


def pack(networks: Networks) -> PackedTensors:
    """A network file in a block of memory of its own, for a process that must not grow."""
    parts = networks.parts()
    tensors = {
        f"{part}.{name}": value.detach()
        for part, network in parts.items()
        for name, value in network.state_dict().items()
    }
    like = next(iter(parts.values()))
    metadata = {
        "config": json.dumps(networks.config.of_network()),
        "cur_nimg": str(networks.cur_nimg),
        "resolution": json.dumps(list(like.resolution)),
        "num_channels": str(like.num_channels),
        "label_size": str(like.label_size),
        "format_version": str(FORMAT_VERSION),
    }
    if len(parts) < len(PARTS):
        metadata["parts"] = " ".join(parts)
    if networks.lod:
        metadata["lod"] = repr(networks.lod)
    if networks.augment_p is not None:
        metadata["augment_p"] = repr(networks.augment_p)
    if networks.D_model is not None:
        metadata["D_model"] = networks.D_model.model_dump_json()
    return PackedTensors(tensors, metadata)


@dataclass(frozen=True)
class Stated:
    """What the header of a network file states, checked against itself: its tensors are those of its configuration."""

    config: RunConfig
    D_model: ModelConfig | None
    shape: DataShape
    parts: tuple[str, ...]
    cur_nimg: int
    lod: float
    augment_p: float | None


def header_size(head: bytes, size: int) -> int:
    """Bytes of the header of a network file, with the eight that state its length; raises BadFileError."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > size - 8:
        raise BadFileError(f"not a complete safetensors file: its header does not fit into it; {COPY_AGAIN}")
    check_size(length, HEADER_BYTES, "its header")
    return 8 + length


@lru_cache(maxsize=1)  # a file's header is read before the rest of it, and again with it
def stated_networks(header: bytes) -> Stated:
    """Reads the header of a file of `save_network` (with its length); raises BadFileError where it cannot be one."""
    content = parse_json(header[8:], "its header", HEADER_BYTES)
    metadata = content.pop("__metadata__", {}) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(metadata, dict):
        raise BadFileError(f"not a complete safetensors file: its header is no object; {COPY_AGAIN}")
    if missing := [key for key in ("config", "resolution", "num_channels", "label_size") if key not in metadata]:
        raise BadFileError(f"not a network file of stylegan_ray: its metadata lacks {', '.join(missing)}")
    values = {key: parse_json(str(metadata[key]).encode(), f"its {key}") for key in READ_AS_JSON if key in metadata}
    version = checked_int(values.get("format_version", FORMAT_VERSION), "format_version", 1, LARGEST_VERSION)
    if version > FORMAT_VERSION:
        raise BadFileError(f"file format {version} is newer than {FORMAT_VERSION}; update stylegan_ray")
    cfg = validated(without_places(_section(values["config"], "config")))
    D_model = validated({"model": _section(values["D_model"], "D_model")}).model if "D_model" in values else None
    parts = tuple(str(metadata.get("parts", " ".join(PARTS))).split())
    if not parts or len(set(parts)) != len(parts) or not set(parts) <= set(PARTS):
        raise BadFileError(f"its metadata names the networks {printable(parts)}; they must be among {', '.join(PARTS)}")
    shape = data_shape(values["resolution"], values["num_channels"], values["label_size"])
    _require_tensors({name: _stated_shape(name, entry) for name, entry in content.items()}, cfg, D_model, shape, parts)
    return Stated(
        cfg, D_model, shape, parts, checked_int(values.get("cur_nimg", 0), "cur_nimg", 0, LARGEST_CLOCK),
        checked_lod(values.get("lod", 0.0), cfg.model, shape[0]),
        checked_augment_p(values["augment_p"], "augment_p") if "augment_p" in values else None,
    )  # fmt: skip


def networks_from_bytes(content: bytes) -> Networks:
    """Reads a file of `save_network`; raises BadFileError where it is damaged, foreign or newer than this version."""
    stated = stated_networks(content[: header_size(content[:8], len(content))])
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise BadFileError(f"not a complete safetensors file: {printable(error)}; {COPY_AGAIN}") from error
    networks = _build(tensors, stated.config, stated.D_model, stated.shape, stated.cur_nimg, stated.parts)
    return replace(networks, lod=stated.lod, augment_p=stated.augment_p)


def networks_from_checkpoint(state: bytes, config_yaml: bytes, counters: bytes) -> Networks:
    """The networks of a training checkpoint, from the contents of its three files; raises BadFileError."""
    values = _section(parse_json(counters, COUNTERS), COUNTERS)
    try:
        tensors = safetensors.torch.load(state)
    except safetensors.SafetensorError as error:
        raise BadFileError(f"{STATE} is not a complete safetensors file: {printable(error)}; {COPY_AGAIN}") from error
    cfg = validated(_section(parse_yaml(config_yaml, CONFIG), CONFIG))
    G = {name.removeprefix("G."): value for name, value in tensors.items() if name.startswith("G.")}
    shape = data_shape(*_shape_of(G))
    networks_only = {name: value for name, value in tensors.items() if name.partition(".")[0] in PARTS}
    _require_tensors({name: tuple(value.shape) for name, value in networks_only.items()}, cfg, None, shape, PARTS)
    networks = _build(
        networks_only, cfg, None, shape, checked_int(values.get("cur_nimg"), "cur_nimg", 0, LARGEST_CLOCK)
    )
    p = values.get("augment_p") if cfg.augment.mode == "ada" else None
    lod = checked_float(values.get("prev_lod", 0.0), "prev_lod", -1, MOST_LEVELS)
    lod = checked_lod(max(lod, 0.0), cfg.model, shape[0])
    return replace(networks, lod=lod, augment_p=None if p is None else checked_augment_p(p, "augment_p"))


def _section(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadFileError(f"its {name} is no mapping of keys; {COPY_AGAIN}")
    return value


def _stated_shape(name: str, entry: Any) -> tuple[int, ...]:
    """The shape of a tensor in a header; its type and place are checked by the library that reads it."""
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in shape):
        raise BadFileError(f"not a complete safetensors file: tensor {printable(name, 60)} has no shape; {COPY_AGAIN}")
    if entry.get("dtype") not in FLOATING:
        raise BadFileError(
            f"tensor {printable(name, 60)} holds {printable(entry.get('dtype'), 20)}, not floating-point numbers"
        )
    return tuple(shape)


def _require_tensors(
    found: Mapping[str, tuple[int, ...]],
    cfg: RunConfig,
    D_model: ModelConfig | None,
    shape: DataShape,
    parts: Sequence[str],
) -> None:
    """Raises BadFileError where the tensors of a file are not exactly those of its networks."""
    if unknown := [name for name in found if name.partition(".")[0] not in parts]:
        raise BadFileError(f"tensors of no network in the file: {', '.join(printable(n, 60) for n in unknown[:4])}")
    for part in parts:
        expected = stated_shapes(*_plan(part, cfg, D_model), shape)
        require_shapes(
            expected, {n.partition(".")[2]: s for n, s in found.items() if n.partition(".")[0] == part}, part
        )


def _plan(part: str, cfg: RunConfig, D_model: ModelConfig | None) -> tuple[Any, ModelConfig]:
    """The builder of a network and the `model` section that it reads."""
    return (build_discriminator, D_model or cfg.model) if part == "D" else (build_generator, cfg.model)


def _build(
    tensors: Mapping[str, Tensor],
    cfg: RunConfig,
    D_model: ModelConfig | None,
    shape: DataShape,
    cur_nimg: int,
    parts: Sequence[str] = PARTS,
) -> Networks:
    """The networks of tensors whose names and shapes are checked."""
    networks: dict[str, Any] = dict.fromkeys(PARTS)
    for part in parts:
        build, model = _plan(part, cfg, D_model)
        state = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
        require_numbers(state, part)
        with torch.random.fork_rng(devices=[]):
            network = build(model, *shape)
        network.to(next(iter(state.values())).dtype).load_state_dict(state)
        networks[part] = network.eval()
    return Networks(**networks, config=cfg, D_model=D_model, cur_nimg=cur_nimg)


def _shape_of(G: Mapping[str, Tensor]) -> tuple[tuple[int, int], int, int]:
    """Resolution, channels and label size of a generator, from the shapes of its tensors."""
    levels = sorted({int(match[1]) for name in G if (match := re.match(r"synthesis\.b(\d{1,9})\.", name))})
    if not levels or len(levels) > MOST_LEVELS or f"synthesis.b{levels[-1]}.torgb.weight" not in G:
        raise BadFileError(f"{STATE} holds no generator; {COPY_AGAIN}")
    first, last = f"synthesis.b{levels[0]}", f"synthesis.b{levels[-1]}"
    ends = ("constant", "noise_const")  # networks without a constant input have noise maps of the same size
    start = [value.shape[-2:] for name, value in G.items() if name.startswith(f"{first}.") and name.endswith(ends)]
    height, width = start[0] if start else (levels[0], levels[0])
    factor = 2 ** (len(levels) - 1)
    labels = [G[name].shape[1] for name in ("mapping.label_weight", "mapping.embed.weight") if name in G]
    return (height * factor, width * factor), G[f"{last}.torgb.weight"].shape[0], labels[0] if labels else 0


def run_config(G: ModelConfig, D: ModelConfig) -> tuple[RunConfig, ModelConfig | None]:
    """One configuration for G and D, and the `model` section of D where one cannot describe both."""
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
