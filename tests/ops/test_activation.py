"""Bias and activation: the fast path against its twin."""

import itertools

import pytest
import torch

from stylegan_ray.ops import ACTIVATIONS, bias_act, bias_act_reference


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_fast_path_is_the_twin_to_second_order(act):
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    b = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    for gain, clamp, alpha in itertools.product((None, 0.7, -2.0), (None, 0.4), (None, 0.3)):
        results = []
        for op in (bias_act, bias_act_reference):
            y = op(x, b, act=act, gain=gain, clamp=clamp, alpha=alpha)
            first = torch.autograd.grad(y.square().sum(), (x, b), create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, b))
            results.append((y, first, second))
        torch.testing.assert_close(results[0], results[1])


def test_without_bias():
    x = torch.linspace(-2, 2, 9).reshape(1, 9)
    torch.testing.assert_close(bias_act(x, act="lrelu"), bias_act_reference(x, act="lrelu"))
    assert bias_act(x) is x


def test_gain_keeps_the_power_of_normal_inputs():
    """sqrt(2) makes up for relu and lrelu, as equalized layers assume."""
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    for act in ("relu", "lrelu"):
        assert bias_act(x[None], act=act).square().mean() == pytest.approx(1.0, abs=0.05)
