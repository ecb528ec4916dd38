"""The warp against its plain twin, to second derivatives, in every way of computing it."""

from contextlib import nullcontext

import pytest
import torch

from stylegan_ray import ops

WAYS = [None, "resampled", "gathered"]


def forced(way):
    return ops.forced(way) if way else nullcontext()


def some_matrices(num, seed=0, stretch=0.4):
    """Affine matrices [N,3,3] that scale, shear, rotate and move."""
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.eye(3, dtype=torch.float64).repeat(num, 1, 1)
    matrices[:, :2, :2] += stretch * torch.randn(num, 2, 2, generator=generator, dtype=torch.float64)
    matrices[:, :2, 2] = 2 * torch.randn(num, 2, generator=generator, dtype=torch.float64)
    return matrices


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(8, 8), (7, 12)])
def test_warp_matches_its_twin_to_second_derivatives(size, way):
    x = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    inverse = some_matrices(3)
    margin = ops.warp_margin(inverse, size)
    results = []
    for warp in (ops.warp2d, ops.warp2d_reference):
        with forced(way):
            y = warp(x, inverse, margin)
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            (d2x,) = torch.autograd.grad(dx.square().sum(), x)
        results.append((y, dx, d2x))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", WAYS)
def test_second_derivatives_are_those_of_finite_differences(way):
    x = torch.randn(2, 1, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    inverse = some_matrices(2)
    margin = ops.warp_margin(inverse, (6, 5))
    with forced(way):
        warp = lambda x: ops.warp2d(x, inverse, margin)  # noqa: E731
        assert torch.autograd.gradcheck(warp, x)
        assert torch.autograd.gradgradcheck(lambda x: warp(x).square(), x)


def test_no_warp_changes_nothing():
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    torch.testing.assert_close(ops.warp2d(x, identity, ops.warp_margin(identity, (16, 24))), x, rtol=0, atol=1e-6)


def test_a_larger_margin_gives_the_same_images():
    x, inverse = torch.randn(4, 3, 16, 12, dtype=torch.float64), some_matrices(4, seed=3, stretch=0.1)
    tight, full = ops.warp_margin(inverse, (16, 12)), ops.warp_margin(None, (16, 12))
    assert tight < full
    torch.testing.assert_close(ops.warp2d(x, inverse, tight), ops.warp2d(x, inverse, full), rtol=1e-12, atol=1e-12)


def test_the_grid_sampler_of_pytorch_is_the_twin():
    x, inverse = torch.randn(2, 3, 9, 9, dtype=torch.float64), some_matrices(2, seed=4)
    margin = ops.warp_margin(inverse, (9, 9))
    once, twice = (ops.warp2d_reference(x, inverse, margin, differentiable_twice=twice) for twice in (False, True))
    torch.testing.assert_close(once, twice, rtol=1e-12, atol=1e-12)
