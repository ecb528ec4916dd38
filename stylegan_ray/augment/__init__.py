"""Augmentation of the images that D sees: adaptive discriminator augmentation, and DiffAugment.

An augmentation is an object of plain values. `parameters` turns random numbers into small tensors, outside of compiled
code; `apply` changes images by them and can be differentiated to any order. `augmentation_of` chooses one.
"""

from stylegan_ray.augment.augmentation import Augmentation, Numbers, Parameters, joined
from stylegan_ray.augment.choice import augmentation_of, check_augmentable
from stylegan_ray.augment.diffaugment import DiffAugment
from stylegan_ray.augment.pipeline import Pipeline
from stylegan_ray.augment.strengths import PIPES, Strengths

__all__ = [
    "PIPES",
    "Augmentation",
    "DiffAugment",
    "Numbers",
    "Parameters",
    "Pipeline",
    "Strengths",
    "augmentation_of",
    "check_augmentable",
    "joined",
]
