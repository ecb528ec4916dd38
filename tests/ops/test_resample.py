"""Convolution with resampling: the cheap orders of steps equal the plain one."""

import itertools
from contextlib import nullcontext

import pytest
import torch

from stylegan_ray.ops import conv2d_resample, conv2d_resample_reference, fir_filter, forced


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)])
def test_fast_path_is_the_twin(kernel, up, down):
    x, w, b = random(2, 4, 8, 6), random(6, 2, kernel, kernel, seed=1), random(6, seed=2)
    filters = [fir_filter(taps).double() for taps in ([1, 3, 3, 1], [1, 2, 1], [1, 1], [1, 2, 3, 4, 5])]
    for f, flip, pads in itertools.product(filters, (True, False), (kernel // 2, [1, 2, 0, 1])):
        fast, plain = (
            op(x, w, f, up, down, pads, groups=2, flip_weight=flip, bias=b)
            for op in (conv2d_resample, conv2d_resample_reference)
        )
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_derivatives_are_those_of_the_twin(up, down):
    x, w = random(2, 3, 6, 6).requires_grad_(), random(4, 3, 3, 3, seed=1).requires_grad_()
    f, results = fir_filter([1, 3, 3, 1]).double(), []
    for op in (conv2d_resample, conv2d_resample_reference):
        y = op(x, w, f, up, down, 1)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append((dx, *torch.autograd.grad(dx.square().sum(), (x, w))))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("way", [None, "as_on_gpus"])
def test_low_precision_has_a_bias_on_every_device(up, down, kernel, way):
    """The analysis of memory computes as GPUs do on processors without such instructions."""
    x, w, b = (random(*shape).bfloat16() for shape in ((2, 3, 8, 8), (4, 3, kernel, kernel), (4,)))
    with forced(way) if way else nullcontext():
        y = conv2d_resample(x, w, fir_filter([1, 3, 3, 1]), up, down, kernel // 2, bias=b)
    assert y.dtype == torch.bfloat16 and y.shape == (2, 4, 8 * up // down, 8 * up // down)


def test_sizes_double_and_halve_for_every_filter():
    for taps in ([1, 1], [1, 2, 1], [1, 3, 3, 1], [1, 4, 6, 4, 1], [1, 2, 3, 3, 2, 1]):
        f = fir_filter(taps).double()
        for kernel in (1, 3):
            x, w = random(1, 1, 8, 10), random(1, 1, kernel, kernel)
            assert conv2d_resample(x, w, f, up=2, padding=kernel // 2).shape[2:] == (16, 20)
            assert conv2d_resample(x, w, f, down=2, padding=kernel // 2).shape[2:] == (4, 5)
