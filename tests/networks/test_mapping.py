"""The mapping network."""

import pytest
import torch

from stylegan_ray.networks import Mapping
from stylegan_ray.networks.mapping import unit_power

SIZES = {"num_layers": 2, "hidden_dim": 7, "embed_dim": 5}


def test_scale_of_z_does_not_matter():
    mapping, z = Mapping(6, 0, 5, **SIZES).double(), torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(mapping(z), mapping(10 * z))
    plain = Mapping(6, 0, 5, normalize=False, **SIZES).double()
    assert not torch.allclose(plain(z), plain(10 * z))


def test_joint_labels_share_the_normalization_of_z_and_separate_ones_do_not():
    z, labels = torch.randn(2, 6, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[:2]
    joint = Mapping(6, 3, 5, label_mode="joint", **SIZES).double()
    assert not torch.allclose(joint(z, labels), joint(10 * z, labels))
    separate = Mapping(6, 3, 5, label_mode="separate", **SIZES).double()
    torch.testing.assert_close(separate(z, labels), separate(10 * z, labels))
    assert not torch.allclose(separate(z, labels), separate(z, labels.flip(0)))
    assert separate.dense0.weight.shape == (7, 11) and joint.dense0.weight.shape == (7, 12)


def test_labels_alone():
    mapping = Mapping(0, 3, 5, label_mode="separate", **SIZES)
    assert mapping(None, torch.eye(3)).shape == (3, 5)


def test_wrong_labels_are_refused():
    mapping = Mapping(6, 3, 5, **SIZES)
    with pytest.raises(ValueError, match="no labels were given"):
        mapping(torch.randn(2, 6))
    with pytest.raises(ValueError, match="labels of 4 numbers"):
        mapping(torch.randn(2, 6), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="labels of 0 numbers"):
        Mapping(6, 0, 5, **SIZES)(torch.randn(2, 6), torch.zeros(2, 4))


def test_repeated_for_every_layer():
    w = Mapping(6, 0, 5, num_ws=4, **SIZES)(torch.randn(2, 6))
    assert w.shape == (2, 4, 5)
    torch.testing.assert_close(w[:, 0], w[:, 3])


def test_unit_power():
    x = unit_power(torch.randn(5, 400) * 3)
    torch.testing.assert_close(x.square().mean(dim=1), torch.ones(5))
