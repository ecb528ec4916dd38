"""Layers: equalized learning rate and the minibatch standard deviation."""

import pytest
import torch

from stylegan_ray.networks.layers import Conv, Dense, StyledConv, minibatch_stddev


def test_every_layer_keeps_unit_power_at_the_start():
    """He et al. 2015 at run time: stored weights have the same standard deviation for all sizes."""
    torch.manual_seed(0)
    for width in (16, 400):
        x = torch.randn(512, width)
        for lrmul in (1.0, 0.01):
            layer = Dense(width, 256, "lrelu", lrmul=lrmul)
            assert layer.weight.std().item() == pytest.approx(1 / lrmul, rel=0.05)
            assert layer(x).square().mean().item() == pytest.approx(1.0, abs=0.15)
    image = torch.randn(8, 32, 16, 16)
    assert Conv(32, 64, 3, "lrelu")(image)[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(1.0, abs=0.15)


def test_lrmul_slows_a_layer_down():
    """A gradient step moves the scaled weight by lrmul squared, so a step of Adam by lrmul."""
    x, steps = torch.ones(1, 4), {}
    for lrmul in (1.0, 0.01):
        layer = Dense(4, 1, lrmul=lrmul)
        layer(x).sum().backward()
        steps[lrmul] = (layer.weight.grad.norm() * layer.weight_scale, layer.bias.grad.norm() * layer.bias_scale)
    for fast, slow in zip(steps[1.0], steps[0.01], strict=True):
        torch.testing.assert_close(slow, fast * 1e-4)


def test_styles_start_at_one():
    layer = StyledConv(4, 4, 5, (8, 8), "lrelu")
    torch.testing.assert_close(layer.affine(torch.zeros(2, 5)), torch.ones(2, 4))
    assert layer.noise_strength.item() == 0 and layer.noise_const.shape == (1, 1, 8, 8)


def test_minibatch_stddev_groups_are_strided():
    """Samples m, m + M, m + 2M, ... make group m."""
    x = torch.zeros(6, 4, 2, 2, dtype=torch.float64)
    x[0], x[3] = 1.0, -1.0  # one group of two, standard deviation 1; the other groups are flat
    y = minibatch_stddev(x, group_size=2)
    assert y.shape == (6, 5, 2, 2)
    flat = 1e-8**0.5
    expected = torch.tensor([1.0, flat, flat, 1.0, flat, flat], dtype=torch.float64)
    torch.testing.assert_close(y[:, 4], expected[:, None, None].expand(6, 2, 2), atol=1e-7, rtol=0)


def test_minibatch_stddev_by_hand():
    x = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    y = minibatch_stddev(x, group_size=None, num_features=2)
    for feature, maps in enumerate((slice(0, 3), slice(3, 6))):
        expected = (x[:, maps].var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[:, 6 + feature], expected.expand(4, 3, 3))


def test_minibatch_stddev_of_a_small_batch_and_an_uneven_one():
    assert minibatch_stddev(torch.randn(3, 2, 2, 2), group_size=4).shape == (3, 3, 2, 2)
    with pytest.raises(ValueError, match="mbstd_group_size=4"):
        minibatch_stddev(torch.randn(6, 2, 2, 2), group_size=4)
