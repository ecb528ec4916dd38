"""The warp against its plain twin, to second derivatives, in every way of computing it."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stylegan_ray import ops
from stylegan_ray.ops.warp import DENSE_UP_TO, reflect2d

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


@pytest.mark.parametrize("margin", [(0, 0), (1, 0), (0, 4), (3, 2), (6, 4)])
def test_reflection_is_that_of_pytorch_to_second_derivatives(margin):
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    results = []
    for padded in (reflect2d(x, margin), F.pad(x, [margin[0]] * 2 + [margin[1]] * 2, mode="reflect")):
        (dx,) = torch.autograd.grad(padded.pow(3).sum(), x, create_graph=True)
        results.append((padded, dx, torch.autograd.grad(dx.pow(2).sum(), x)[0]))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


class Operations(TorchDispatchMode):
    """Remembers the operations that are called inside."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


def test_the_backward_pass_of_reflection_is_not_the_one_that_adds_atomically_on_a_gpu():
    x, inverse = torch.randn(1, 1, 8, 8, requires_grad=True), some_matrices(1).float()
    with ops.forced("resampled"), Operations() as called:
        ops.warp2d(x, inverse, ops.warp_margin(inverse, (8, 8))).sum().backward()
    assert "reflection_pad2d.default" in called.names
    assert "reflection_pad2d_backward.default" not in called.names


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradients_of_large_images_repeat_on_a_gpu():
    side = DENSE_UP_TO + 32
    x = torch.randn(4, 3, side, side, device="cuda", requires_grad=True)
    inverse = some_matrices(4).float()
    margin = ops.warp_margin(inverse, (side, side))
    weights, grads = torch.randn(4, 3, side, side, device="cuda"), []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for _ in range(2):
            (dx,) = torch.autograd.grad((ops.warp2d(x, inverse.cuda(), margin) * weights).square().sum(), x)
            grads.append(dx)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*grads)
