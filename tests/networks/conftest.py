"""Small configurations for the tests of networks."""

import pytest

from stylegan_ray.config import ModelConfig

SMALL = {"z_dim": 6, "w_dim": 5, "mapping_layers": 2, "mapping_fmaps": 7, "fmap_base": 32, "fmap_max": 6}


@pytest.fixture
def small():
    """Makes a small model configuration with other values for some keys."""

    def make(**values):
        return ModelConfig(**(SMALL | values))

    return make
