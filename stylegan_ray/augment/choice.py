"""The augmentation that a configuration names."""

from __future__ import annotations

from stylegan_ray.augment.augmentation import Augmentation
from stylegan_ray.augment.diffaugment import DiffAugment
from stylegan_ray.augment.pipeline import Pipeline
from stylegan_ray.augment.strengths import Strengths
from stylegan_ray.config import AugmentConfig


def augmentation_of(cfg: AugmentConfig) -> Augmentation | None:
    """What D's images undergo; None for nothing."""
    if cfg.mode == "noaug":
        return None
    if cfg.mode == "diffaug":
        return DiffAugment(cfg.policy)
    return Pipeline(Strengths.of(cfg.pipe))


def check_augmentable(cfg: AugmentConfig, size: tuple[int, int]) -> None:
    """Raises ValueError for images (H, W) that the configuration's augmentation cannot augment."""
    if (augmentation := augmentation_of(cfg)) is not None:
        augmentation.check_size(size)
