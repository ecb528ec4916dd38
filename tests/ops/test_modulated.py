"""Modulated convolution: both fast forms against the twin, and the effect of demodulation."""

import pytest
import torch

from stylegan_ray.ops import fir_filter, modulated_conv2d, modulated_conv2d_reference, penalized_gradients

CASES = {
    "same": {"padding": 1},
    "up": {"padding": 1, "up": 2, "flip_weight": False},
    "down": {"padding": 1, "down": 2},
    "raw": {"padding": 1, "demodulate": False, "gain": 0.3},
    "gain": {"padding": 1, "gain": 1.7},
    "pointwise": {"kernel": 1, "demodulate": False, "gain": 0.3},
    "pointwise_demodulated": {"kernel": 1},
}


def random(*shape, seed=0, grad=False):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.requires_grad_(grad)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_fast_forms_are_the_twin_to_second_order(case, grouped, noisy):
    options = dict(CASES[case])
    kernel = options.pop("kernel", 3)
    x, w, s = random(3, 4, 6, 6, grad=True), random(5, 4, kernel, kernel, seed=1, grad=True), random(3, 4, seed=2)
    s.requires_grad_()
    noise = random(3, 1, *modulated_conv2d(x, w, s, **options).shape[2:], seed=3) if noisy else None
    options |= {"noise": noise, "resample_filter": fir_filter([1, 3, 3, 1]).double(), "eps": 1e-4}
    results = []
    for op, more in ((modulated_conv2d, {"grouped": grouped}), (modulated_conv2d_reference, {})):
        y = op(x, w, s, **options, **more)
        first = torch.autograd.grad(y.square().sum(), (x, w, s), create_graph=True)
        penalty = sum(g.square().sum() for g in first)
        results.append((y, first, torch.autograd.grad(penalty, (x, w, s))))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("up", [1, 2])
def test_a_penalty_on_styles_reaches_weights_that_depend_on_them(up, num):
    """In one convolution of N groups the styles are part of the weights, whose gradient a penalty then needs."""
    w, options = random(5, 4, 3, 3, seed=1, grad=True), {"padding": 1, "up": up, "resample_filter": fir_filter([1, 1])}
    x, s = random(num, 4, 6, 6), random(num, 4, seed=2, grad=True)
    results = []
    for grouped in (False, True):
        with penalized_gradients():
            y = modulated_conv2d(x, w, s, grouped=grouped, **options)
            (ds,) = torch.autograd.grad(y.sin().sum(), s, create_graph=True)
        results.append((ds, *torch.autograd.grad(ds.square().sum(), (w, s))))
    torch.testing.assert_close(results[1], results[0])


def test_demodulated_maps_have_unit_variance():
    """Equation 3 of the paper: for input of unit variance, whatever the style."""
    x, w, s = random(2, 64, 48, 48), random(8, 64, 3, 3, seed=1), random(2, 64, seed=2) * 7 + 3
    y = modulated_conv2d(x, w, s)
    torch.testing.assert_close(y.std(dim=(2, 3)), torch.ones(2, 8, dtype=torch.float64), atol=0.1, rtol=0)


def test_samples_are_independent():
    """The result of a sample does not depend on its batch."""
    x, w, s = random(3, 4, 5, 5), random(5, 4, 3, 3, seed=1), random(3, 4, seed=2)
    for grouped in (False, True):
        whole = modulated_conv2d(x, w, s, padding=1, grouped=grouped)
        torch.testing.assert_close(modulated_conv2d(x[1:2], w, s[1:2], padding=1, grouped=grouped), whole[1:2])
