"""What a configuration and its data must fulfil together before a training starts, and what has no effect there."""

from __future__ import annotations

from collections.abc import Iterator

from stylegan_ray.config import AugmentConfig, ConfigError, RunConfig
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.images.grid import check_layout
from stylegan_ray.train.memory import Subject
from stylegan_ray.train.metrics import check_metrics
from stylegan_ray.train.schedule import check_growing
from stylegan_ray.train.stop_when import check_stop_when

MODES_OF_KEYS = {
    "p": ("ada", "fixed"),
    "pipe": ("ada", "fixed"),
    "policy": ("diffaug",),
    "target": ("ada",),
    "ada_kimg": ("ada",),
}
"""In which modes the keys of `augment` have an effect."""


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


def check_frozen(cfg: RunConfig) -> None:
    """Raises ConfigError where a run with new networks would keep layers of D as they were drawn."""
    if cfg.train.freeze_D:
        raise ConfigError(
            f"train.freeze_D={cfg.train.freeze_D} keeps layers of trained networks, and this run starts with new ones; "
            "give --resume-from, or train.freeze_D=0"
        )


def notes(cfg: RunConfig, data: Dataset, starts_from_others: bool) -> Iterator[str]:
    """A line for each value that has no effect. `starts_from_others`: the run was given --resume-from."""
    augment = cfg.augment
    for key, modes in MODES_OF_KEYS.items():
        if augment.mode not in modes and getattr(augment, key) != AugmentConfig.model_fields[key].default:
            yield f"note: augment.{key} has no effect with augment.mode={augment.mode}"
    if augment.mode == "fixed" and not augment.p:
        yield "note: augment.mode=fixed with augment.p=0 augments nothing; give --augment.p"
    if not starts_from_others:
        for key in ("resume_kimg", "resume_time"):
            if getattr(cfg.train, key) is not None:
                yield f"note: train.{key} has no effect without --resume-from"
    if cfg.data.subset is not None and cfg.data.subset > data.num_images:
        yield f"note: data.subset={cfg.data.subset} is more than the {data.num_images} images that there are"
