"""How a run starts from the networks of another run: what fits is copied, by name and shape.

Data of another resolution, number of channels or label size change some tensors only; those are new, and a table says
which. Another model fits nowhere and is refused, with the preset that fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch

from stylegan_ray.config import ConfigError, ModelConfig, RunConfig, load_config, preset_names
from stylegan_ray.interop.loading import load
from stylegan_ray.interop.native import PARTS, Networks
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.table import format_table
from stylegan_ray.train.auto import with_choices
from stylegan_ray.train.state import TrainState

MOST_NAMED = 3
"""Tensors that a row of the table names at most, and presets that an error does."""
OF_TRAINING = frozenset(
    {
        "style_mixing_prob", "dlatent_avg_beta", "fused_modconv", "fused_scale", "conv_clamp", "num_lowp_res",
        "lowp_dtype", "mbstd_group_size",
    }
)  # fmt: skip
"""Keys of `model` that a training may choose anew: they change no tensor and little of what the networks compute."""
OF_NETWORKS = tuple(key for key in ModelConfig.model_fields if key not in OF_TRAINING)
"""Keys of `model` that decide what the networks are."""
OF_SHAPES = frozenset({"fmap_base", "fmap_decay", "fmap_min", "fmap_max"})
"""Those that act through the shapes of tensors only."""
Shapes = Mapping[str, tuple[int, ...]]


class DataShape(NamedTuple):
    """What of the data decides the shapes of tensors."""

    resolution: tuple[int, int]
    num_channels: int
    label_size: int

    def difference(self, there: DataShape, field: str) -> str:
        """In words, such as "resolution 512x512 here, 256x256 there"."""
        ours, theirs = getattr(self, field), getattr(there, field)
        if field == "resolution":
            ours, theirs = ("x".join(map(str, pair)) for pair in (ours, theirs))
        return f"{field.replace('_', ' ')} {ours} here, {theirs} there"


def check_start(
    cfg: RunConfig, resolution: int | Sequence[int], num_channels: int, label_size: int, source: str
) -> str:
    """A table of what a run copies from `source` and what it does not; copies nothing.

    Raises ConfigError when the networks there are of another model (but for train.resume_with_new_nets), when layers
    that train.freeze_D freezes would not be copied, or when the run would end where it starts.
    """
    found = load(source, PARTS)
    here = DataShape(_pair(resolution), num_channels, label_size)
    there = DataShape(_pair(found.G.resolution), found.G.num_channels, found.G.label_size)
    theirs = _shapes(found.parts())
    if not cfg.train.resume_with_new_nets and _shapes_of(cfg.model, there) != theirs:
        raise ConfigError(_misfit(cfg, found, here, there, source))
    _refuse_frozen_new_layers(cfg, here, theirs, source)
    start = start_nimg(cfg, found)
    if start >= cfg.train.total_nimg:
        raise ConfigError(
            f"train.total_kimg={cfg.train.total_kimg:g}: the networks of {source} are at {start / 1000:g} kimg, where "
            f"the run would start; give --train.resume_kimg 0, or a larger train.total_kimg"
        )
    return "\n".join([*_description(cfg, found, here, there, source), _table(cfg.model, here, there, theirs)])


def start_from(state: TrainState, cfg: RunConfig, source: str) -> list[str]:
    """Copies the networks of a run folder, checkpoint or network file; returns a line for each network.

    cur_nimg starts at train.resume_kimg; null: at that of the source, 0 where it has none. `check_start` comes first.
    """
    found = load(source, PARTS)
    lines = []
    for part, theirs in found.parts().items():
        target, values = getattr(state, part), theirs.state_dict()
        ours = target.state_dict()
        matching = [name for name in ours if name in values and ours[name].shape == values[name].shape]
        target.load_state_dict({name: values[name].to(ours[name]) for name in matching}, strict=False)
        lines.append(f"{part}: copied {len(matching)} of {len(ours)} tensors")
    state.cur_nimg = state.tick_start_nimg = state.augment_nimg = start_nimg(cfg, found)
    state.elapsed_sec = cfg.train.resume_time or 0.0
    return lines


def start_nimg(cfg: RunConfig, found: Networks) -> int:
    """cur_nimg of a run that starts from these networks."""
    kimg = cfg.train.resume_kimg
    return found.cur_nimg if kimg is None else round(kimg * 1000)


def _description(cfg: RunConfig, found: Networks, here: DataShape, there: DataShape, source: str) -> Iterator[str]:
    height, width = there.resolution
    labels = f"labels of size {there.label_size}" if there.label_size else "no labels"
    yield f"Starting from {source}: {width}x{height}, {there.num_channels} channels, {labels}"
    if found.augment_p is not None:
        hint = (
            f"; --augment.p {min(found.augment_p, 1):.3g} continues from there"
            if cfg.augment.mode == "ada" and not cfg.augment.p
            else ""
        )
        yield f"It was trained up to augment_p {found.augment_p:.3g}{hint}"
    unused = OF_SHAPES if there.label_size or here.label_size else OF_SHAPES | {"label_mode"}
    if unlike := _unlike_keys(cfg.model, found, [key for key in OF_NETWORKS if key not in unused]):
        yield f"warning: it was made with {_keys(unlike)}, which changes what the copied tensors compute"


def _table(model: ModelConfig, here: DataShape, there: DataShape, theirs: Shapes) -> str:
    """One row for each block of layers: how many of its tensors are copied, and why the others are not."""
    ours = _shapes_of(model, here)
    variants = {
        field: _shapes_of(model, here._replace(**{field: getattr(there, field)}))
        for field in DataShape._fields
        if getattr(here, field) != getattr(there, field)
    }
    blocks: dict[str, list[str]] = {}
    for name in {**ours, **theirs}:
        if not name.startswith("G_ema."):
            blocks.setdefault(_block(name), []).append(name)
    rows = [("layers", "copied", "not copied")]
    for block, names in blocks.items():
        left = [name for name in names if ours.get(name) != theirs.get(name)]
        fields = [field for field, shapes in variants.items() if any(shapes.get(n) != ours.get(n) for n in left)]
        reasons = [here.difference(there, field) for field in fields] or ["other keys of model"]
        named = ", ".join(
            f"{name.removeprefix(block + '.')} ({_change(ours, theirs, name)})" for name in left[:MOST_NAMED]
        )
        more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
        why = f"{named}{more}: {', '.join(reasons)}" if left else ""
        rows.append((block, f"{len(names) - len(left)} of {len(names)}", why))
    return f"{format_table(rows)}\nG_ema: as G"


def _change(ours: Shapes, theirs: Shapes, name: str) -> str:
    """The two shapes of a tensor that is not copied."""
    if name not in theirs:
        return "new"
    if name not in ours:
        return "not here"
    return " from ".join("x".join(map(str, shapes[name])) for shapes in (ours, theirs))


def _block(name: str) -> str:
    """The block of layers that a tensor belongs to, such as G.synthesis.b8 or D.b16."""
    parts = name.split(".")
    return ".".join(parts[:3] if parts[1] == "synthesis" else parts[:2])


def _misfit(cfg: RunConfig, found: Networks, here: DataShape, there: DataShape, source: str) -> str:
    """What is wrong with the model, and which preset or keys are right."""
    unlike = _unlike_keys(cfg.model, found) or _unlike_keys(cfg.model, found, OF_TRAINING)
    presets = _fitting_presets(found, here, there)
    use = f"use preset {' or '.join(presets)}, or give those values" if presets else "give those values"
    return (
        f"run.preset={cfg.run.preset}: its networks differ from those of {source}, which have {_keys(unlike)}; {use} "
        f"(--model.KEY VALUE), or train.resume_with_new_nets=true to copy only the tensors that match"
    )


def _refuse_frozen_new_layers(cfg: RunConfig, here: DataShape, theirs: Shapes, source: str) -> None:
    """Raises ConfigError where train.freeze_D would keep a layer as it was drawn, since the source lacks it."""
    if not cfg.train.freeze_D:
        return
    with torch.device("meta"):
        D: Any = build_discriminator(cfg.model, *here)
    names = {module: name for name, module in D.named_modules()}
    for layer in D.layers()[: cfg.train.freeze_D]:
        for name, value in layer.state_dict(prefix=f"D.{names[layer]}.").items():
            if theirs.get(name) != tuple(value.shape):
                raise ConfigError(
                    f"train.freeze_D={cfg.train.freeze_D}: {name} would be frozen, but {source} has no such tensor of "
                    f"this shape to copy; give --train.freeze_D 0, or data of the source's resolution and channels"
                )


def _unlike_keys(
    model: ModelConfig, found: Networks, among: Collection[str] = OF_NETWORKS
) -> dict[str, tuple[Any, Any]]:
    """Those of some keys of `model` that differ, with their values here and in the source."""
    sources = [found.config.model, *([found.D_model] if found.D_model else [])]
    return {
        key: (getattr(model, key), getattr(source, key))
        for source in sources
        for key in among
        if getattr(model, key) != getattr(source, key)
    }


def _keys(unlike: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"model.{key}={theirs} (here {ours})" for key, (ours, theirs) in unlike.items())


def _fitting_presets(found: Networks, here: DataShape, there: DataShape) -> list[str]:
    """Presets that have these tensors and choose keys for our data; those that agree in most keys first."""
    theirs = _shapes(found.parts())
    presets = {name: _model_of(name, here.resolution) for name in preset_names()}
    by_keys = sorted(presets, key=lambda name: len(_unlike_keys(presets[name], found)))
    return list(islice((name for name in by_keys if _shapes_of(presets[name], there) == theirs), MOST_NAMED))


def _model_of(preset: str, resolution: Sequence[int]) -> ModelConfig:
    """The keys of a preset's networks, those chosen by the resolution included."""
    cfg = load_config(preset)
    keys = [key for key in cfg.train.auto if key.startswith("model.")]
    return with_choices(cfg.with_overrides({"train.auto": keys}), resolution).model


def _shapes_of(model: ModelConfig, data: DataShape) -> Shapes:
    """Names and shapes of all tensors of the networks."""
    with torch.device("meta"):
        G = build_generator(model, *data)
        D = build_discriminator(model, *data)
    return _shapes({"G": G, "D": D, "G_ema": G})


def _shapes(parts: Mapping[str, torch.nn.Module]) -> Shapes:
    return {
        f"{part}.{name}": tuple(value.shape)
        for part, network in parts.items()
        for name, value in network.state_dict().items()
    }


def _pair(resolution: int | Sequence[int]) -> tuple[int, int]:
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return height, width
