"""What a configuration and its data must fulfil together before a training starts, and what has no effect there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stylegan_ray.config import ConfigError, RunConfig, load_config, preset_names
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.images.grid import check_layout
from stylegan_ray.train.memory import Subject
from stylegan_ray.train.metrics import check_metrics
from stylegan_ray.train.schedule import check_growing
from stylegan_ray.train.stop_when import check_stop_when

RESUME_FROM = "--resume-from"
PATH_LENGTH, R1_OR_R2, WGAN_GP = ("logistic_ns_pathreg",), ("logistic_r1", "logistic_r2", "rpgan"), ("wgan_gp",)
ADA = ("ada", "fixed")
EFFECTIVE: dict[str, dict[str, tuple[Any, ...]]] = {
    "augment.p": {"augment.mode": ADA},
    "augment.pipe": {"augment.mode": ADA},
    "augment.policy": {"augment.mode": ("diffaug",)},
    "augment.target": {"augment.mode": ("ada",)},
    "augment.ada_kimg": {"augment.mode": ("ada",)},
    "model.D_mapping_layers": {"model.label_mode": ("separate",)},
    "model.cmap_dim": {"model.label_mode": ("separate",)},
    "model.mapping_embed": {"model.label_mode": ("separate",)},
    "loss.r1_gamma": {"loss.D": R1_OR_R2},
    "loss.wgan_epsilon": {"loss.D": ("wgan", *WGAN_GP)},
    "loss.wgan_lambda": {"loss.D": WGAN_GP},
    "loss.wgan_target": {"loss.D": WGAN_GP},
    "loss.pl_weight": {"loss.G": PATH_LENGTH},
    "loss.pl_decay": {"loss.G": PATH_LENGTH},
    "loss.pl_minibatch_shrink": {"loss.G": PATH_LENGTH},
    "train.G_reg_interval": {"train.lazy_regularization": (True,), "loss.G": PATH_LENGTH},
    "train.D_reg_interval": {"train.lazy_regularization": (True,), "loss.D": (*R1_OR_R2, *WGAN_GP)},
    "schedule.lod_training_kimg": {"schedule.lod_initial_resolution": ()},
    "schedule.lod_transition_kimg": {"schedule.lod_initial_resolution": ()},
    "metrics.all_images": {"data.subset": ()},
    "train.resume_kimg": {RESUME_FROM: ()},
    "train.resume_time": {RESUME_FROM: ()},
    "train.resume_with_new_nets": {RESUME_FROM: ()},
}
"""The keys that decide whether a key has an effect, and the values of each with which it has one; (): all but null."""

OF_STYLEGAN2: dict[str, dict[str, tuple[Any, ...]]] = {
    "revised": {"G_architecture": ("skip",), "D_architecture": ("resnet", "skip")},
    "stylegan1": {
        "G_architecture": ("skip",),
        "D_architecture": ("resnet",),
        "resample_kernel": ((1.0, 3.0, 3.0, 1.0),),
        "conv_clamp": (None,),
        "fused_modconv": ("auto",),
    },
}
"""Keys of `model` that other families of networks do not have, and the values that are allowed all the same: the
default first, and what the networks do."""


def check_with_data(cfg: RunConfig, data: Dataset) -> None:
    """Raises ConfigError where the configuration does not go with the data."""
    check_growing(cfg, data.resolution)
    check_metrics(cfg, data)
    check_stop_when(cfg)
    try:
        check_layout(data, cfg.train.grid_layout)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_subject(cfg: RunConfig, data: Dataset) -> Subject:
    """What is trained, of a configuration without open choices; raises ConfigError where that is impossible."""
    subject = Subject(cfg, data.resolution, data.num_channels, data.label_size)
    subject.check()
    return subject


def check_new(cfg: RunConfig, starts_from_others: bool) -> None:
    """Raises ConfigError where a run that has not started yet would keep a key from having its effect.

    `starts_from_others`: the run was given --resume-from.
    """
    check_family(cfg)
    if not starts_from_others:
        check_frozen(cfg)


def check_frozen(cfg: RunConfig) -> None:
    """Raises ConfigError where a run with new networks would keep layers of D as they were drawn."""
    if cfg.train.freeze_D:
        raise ConfigError(
            f"train.freeze_D={cfg.train.freeze_D} keeps layers of trained networks, and this run starts with new ones; "
            "give --resume-from, or train.freeze_D=0"
        )


def check_family(cfg: RunConfig) -> None:
    """Raises ConfigError where a new run has a key of `model` that its networks do not have.

    Stored configurations may hold such values: their networks are loaded, and their runs continue.
    """
    for key, allowed in OF_STYLEGAN2.get(cfg.model.family, {}).items():
        value = getattr(cfg.model, key)
        if value not in allowed:
            raise ConfigError(
                f"model.{key}={value!r} does not apply to model.family={cfg.model.family}; use "
                f"model.family=stylegan2, or {allowed[0]!r}"
            )


def notes(cfg: RunConfig, data: Dataset, starts_from_others: bool) -> Iterator[str]:
    """A line for each given value that has no effect. `starts_from_others`: the run was given --resume-from."""
    values = {**cfg.flat(), RESUME_FROM: starts_from_others or None}
    for key in given_keys(cfg):
        if why := why_idle(key, values):
            yield f"note: {key} has no effect {why}"
    if cfg.augment.mode == "fixed" and not cfg.augment.p:
        yield "note: augment.mode=fixed with augment.p=0 augments nothing; give --augment.p"
    if cfg.data.subset is not None and cfg.data.subset > data.num_images:
        yield f"note: data.subset={cfg.data.subset} is more than the {data.num_images} images that there are"


def why_idle(key: str, values: Mapping[str, Any]) -> str | None:
    """With which value of another key this one has no effect; None if it has one."""
    for decisive, wanted in EFFECTIVE.get(key, {}).items():
        value = values[decisive]
        if value is None:
            return f"without {decisive}"
        if wanted and value not in wanted:
            return f"with {decisive}={str(value).lower() if value is False else value}"
    return None


def given_keys(cfg: RunConfig) -> list[str]:
    """Keys in the order of EFFECTIVE whose values are neither defaults nor those of a built-in preset."""
    preset = load_config(cfg.run.preset) if cfg.run.preset in preset_names() else RunConfig()
    ours, before, default = cfg.flat(), preset.flat(), RunConfig().flat()
    return [key for key in EFFECTIVE if key not in preset.train.auto and ours[key] not in (before[key], default[key])]
