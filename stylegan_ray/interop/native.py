"""Network files of this package: safetensors with the tensors of G, D and G_ema; the configuration is metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from stylegan_ray.config import FORMAT_VERSION, ModelConfig, RunConfig, validated
from stylegan_ray.networks import build_discriminator, build_generator

PARTS = ("G", "D", "G_ema")
D_KEYS = frozenset({"D_architecture", "D_mapping_layers", "cmap_dim", "mbstd_group_size", "mbstd_num_features"})
"""Keys of `model` that only D reads."""


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
    given: dict[str, Any] = {part: n for part, n in zip(PARTS, (G, D, G_ema), strict=True) if n is not None}
    tensors = {
        f"{part}.{name}": value.detach().cpu().contiguous()
        for part, network in given.items()
        for name, value in network.state_dict().items()
    }
    like = next(iter(given.values()))
    metadata = {
        "config": json.dumps(cfg.model_dump(mode="json")),
        "cur_nimg": str(cur_nimg),
        "resolution": json.dumps(list(like.resolution)),
        "num_channels": str(like.num_channels),
        "label_size": str(like.label_size),
        "format_version": str(FORMAT_VERSION),
    }
    if len(given) < len(PARTS):
        metadata["parts"] = " ".join(given)
    if lod:
        metadata["lod"] = repr(lod)
    if augment_p is not None:
        metadata["augment_p"] = repr(augment_p)
    if D_model is not None:
        metadata["D_model"] = D_model.model_dump_json()
    return safetensors.torch.save(tensors, metadata)


def networks_from_bytes(content: bytes) -> Networks:
    """Reads a file of `save_network`; raises ValueError where it is damaged, foreign or newer than this version."""
    try:
        tensors = safetensors.torch.load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(f"not a complete safetensors file: {error}; copy or download it again") from error
    missing = [key for key in ("config", "resolution", "num_channels", "label_size") if key not in metadata]
    if missing:
        raise ValueError(f"not a network file of stylegan_ray: its metadata lacks {', '.join(missing)}")
    if int(metadata.get("format_version", FORMAT_VERSION)) > FORMAT_VERSION:
        raise ValueError(
            f"file format {metadata['format_version']} is newer than {FORMAT_VERSION}; update stylegan_ray"
        )
    D_model = validated({"model": json.loads(metadata["D_model"])}).model if "D_model" in metadata else None
    shape = json.loads(metadata["resolution"]), int(metadata["num_channels"]), int(metadata["label_size"])
    cfg = validated(json.loads(metadata["config"]))
    parts = metadata.get("parts", " ".join(PARTS)).split()
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"its metadata names the networks {parts}; they must be among {', '.join(PARTS)}")
    networks = _build(tensors, cfg, D_model, shape, int(metadata.get("cur_nimg", 0)), parts)
    p = metadata.get("augment_p")
    return replace(networks, lod=float(metadata.get("lod", 0.0)), augment_p=None if p is None else float(p))


def networks_from_checkpoint(state: bytes, config_yaml: bytes, counters: bytes) -> Networks:
    """The networks of a training checkpoint, from the contents of its three files."""
    tensors = safetensors.torch.load(state)
    cfg = validated(yaml.safe_load(config_yaml))
    G = {name.removeprefix("G."): value for name, value in tensors.items() if name.startswith("G.")}
    values = json.loads(counters)
    networks = _build(tensors, cfg, None, _shape_of(G), int(values["cur_nimg"]))
    p = values.get("augment_p") if cfg.augment.mode == "ada" else None
    return replace(networks, lod=max(float(values.get("prev_lod", 0.0)), 0.0), augment_p=p)


def _build(
    tensors: Mapping[str, Tensor],
    cfg: RunConfig,
    D_model: ModelConfig | None,
    shape: tuple,
    cur_nimg: int,
    parts: Sequence[str] = PARTS,
) -> Networks:
    networks: dict[str, Any] = dict.fromkeys(PARTS)
    for part in parts:
        model = (D_model or cfg.model) if part == "D" else cfg.model
        build = build_discriminator if part == "D" else build_generator
        with torch.device("meta"):  # compared first, so that a wrong configuration fails at once
            expected = {name: tuple(value.shape) for name, value in build(model, *shape).state_dict().items()}
        state = {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
        found = {name: tuple(value.shape) for name, value in state.items()}
        if found != expected:
            wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            what = ", ".join(f"{n} {found.get(n, 'missing')} for {expected.get(n, 'none')}" for n in wrong[:4])
            raise ValueError(f"{len(wrong)} tensors of {part} do not fit the configuration in the file: {what}")
        with torch.random.fork_rng(devices=[]):
            network = build(model, *shape)
        network.to(next(iter(state.values())).dtype).load_state_dict(state)
        networks[part] = network.eval()
    return Networks(**networks, config=cfg, D_model=D_model, cur_nimg=cur_nimg)


def _shape_of(G: Mapping[str, Tensor]) -> tuple[tuple[int, int], int, int]:
    """Resolution, channels and label size of a generator, from the shapes of its tensors."""
    levels = sorted({int(name.split(".")[1][1:]) for name in G if name.startswith("synthesis.b")})
    first, last = f"synthesis.b{levels[0]}", f"synthesis.b{levels[-1]}"
    start = [value.shape[2:] for name, value in G.items() if name.startswith(first) and name.endswith("constant")]
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
