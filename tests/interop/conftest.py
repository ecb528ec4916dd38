"""Small networks for the tests of files."""

import pytest
import torch
from support.networks import built

from stylegan_ray.config import load_config

SMALL = {
    "model.z_dim": 6, "model.w_dim": 5, "model.mapping_layers": 2, "model.mapping_fmaps": 7, "model.fmap_base": 32,
    "model.fmap_max": 6,
}  # fmt: skip


@pytest.fixture
def made():
    """Makes (cfg, G, D, G_ema) of a small configuration with other values for some keys."""

    def make(resolution=(16, 12), num_channels=3, label_size=2, seed=0, **overrides):
        cfg = load_config("config-f", SMALL | overrides)
        G, D, G_ema = built(cfg, resolution, num_channels, label_size, seed)
        G_ema.w_avg.normal_()
        return cfg, G, D, G_ema

    return make


@pytest.fixture
def same():
    """Asserts that two networks hold the same tensors."""

    def check(first, second):
        first, second = first.state_dict(), second.state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    return check
