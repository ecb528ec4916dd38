"""The three networks of a configuration."""

import torch

from stylegan_ray.networks import build_discriminator, build_generator


def built(cfg, resolution, num_channels, label_size, seed=0):
    """G, D and G_ema with weights that follow from the seed."""
    torch.manual_seed(seed)
    shape = (resolution, num_channels, label_size)
    return [build(cfg.model, *shape) for build in (build_generator, build_discriminator, build_generator)]
