"""Small networks, and files of them that a test may spoil."""

import pytest
from support.networks import built

from stylegan_ray.config import load_config

SMALL = {
    "model.z_dim": 6, "model.w_dim": 5, "model.mapping_layers": 2, "model.mapping_fmaps": 7, "model.fmap_base": 32,
    "model.fmap_max": 6,
}  # fmt: skip


@pytest.fixture
def networks():
    """(cfg, G, D, G_ema) of 8x8 pixels."""
    cfg = load_config("config-f", SMALL)
    return cfg, *built(cfg, (8, 8), 3, 0)
