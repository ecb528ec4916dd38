"""FIR resampling: the fast path against its twin, and the property that makes its derivatives cheap."""

import itertools

import pytest
import torch

from stylegan_ray.ops import downsample2d, fir_filter, forced, upfirdn2d, upfirdn2d_reference, upsample2d

SLOPED = fir_filter([[1.0, 2.0, 0.5], [0.2, -1.0, 3.0]]).double()  # no symmetry anywhere
TAPS = {"1331": fir_filter([1, 3, 3, 1]).double(), "121": fir_filter([1, 2, 1]).double(), "sloped": SLOPED}
PADS = [(0, 0, 0, 0), (1, 1, 1, 1), (2, 1, 2, 1), (3, 1, -1, 2)]


def random_images(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), ((2, 1), (1, 3))])
def test_fast_path_is_the_twin(taps, up, down):
    x = random_images(2, 3, 7, 8)
    for pads, flip in itertools.product(PADS, (False, True)):
        fast, plain = (
            op(x, TAPS[taps], up=up, down=down, padding=pads, flip_filter=flip, gain=1.5)
            for op in (upfirdn2d, upfirdn2d_reference)
        )
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), ((2, 1), (1, 3))])
def test_low_precision_on_a_cpu_with_instructions_for_it(up, down, layout, dtype):
    taps = fir_filter([[1, 2, 3], [4, 5, -6]], normalize=False)
    whole = random_images(2, 3, 7, 8).mul(3).round().clamp(-6, 6)  # products and sums are exact in every type
    for pads in PADS:
        results = []
        for x, op in ((whole.to(dtype, memory_format=layout), upfirdn2d), (whole.float(), upfirdn2d_reference)):
            x.requires_grad_()
            with forced("low_precision"):
                y = op(x, taps, up=up, down=down, padding=pads)
                (dx,) = torch.autograd.grad(y, x, y.detach().sign())
            results.append((y.detach().float(), dx.float()))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_derivatives_are_those_of_the_twin(up, down):
    x = random_images(1, 2, 6, 5).requires_grad_()
    for pads in PADS:
        results = []
        for op in (upfirdn2d, upfirdn2d_reference):
            y = op(x, SLOPED, up=up, down=down, padding=pads)
            (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            (d2x,) = torch.autograd.grad((dx * dx).sum(), x)
            results.append((dx.detach(), d2x))
        torch.testing.assert_close(results[0], results[1])


def test_derivatives_agree_with_finite_differences():
    x = random_images(1, 1, 5, 4).requires_grad_()

    def op(x):
        return upfirdn2d(x, SLOPED, up=2, down=1, padding=(1, 2, 0, 1)).sin()

    assert torch.autograd.gradcheck(op, x)
    assert torch.autograd.gradgradcheck(op, x)


def test_backward_is_the_adjoint():
    """<A x, y> = <x, A^T y>."""
    x = random_images(1, 2, 9, 6).requires_grad_()
    y = downsample2d(x, TAPS["1331"])
    other = random_images(*y.shape)
    (back,) = torch.autograd.grad(y, x, other)
    torch.testing.assert_close((y * other).sum(), (x * back).sum())


def test_resampling_keeps_a_flat_image_flat():
    flat = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    inner = (..., slice(3, -3), slice(3, -3))
    for taps in ([1, 3, 3, 1], [1, 1], [1, 2, 1]):
        f = fir_filter(taps).double()
        torch.testing.assert_close(upsample2d(flat, f)[inner], torch.ones(1, 1, 10, 10, dtype=torch.float64))
        torch.testing.assert_close(downsample2d(flat, f)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2, dtype=torch.float64))


def test_box_filter_is_nearest_neighbor_and_mean():
    x, box = random_images(2, 3, 4, 6), fir_filter([1, 1]).double()
    torch.testing.assert_close(upsample2d(x, box), x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(downsample2d(x, box), torch.nn.functional.avg_pool2d(x, 2))


def test_long_filters_stay_separable():
    taps = torch.arange(1.0, 10.0)
    f = fir_filter(taps)
    assert f.shape == (9,) and fir_filter(taps[:7]).shape == (7, 7)
    x = random_images(1, 1, 12, 12)
    full = upfirdn2d(x, torch.outer(f, f).double(), up=2, padding=4)
    torch.testing.assert_close(upfirdn2d(x, f.double(), up=2, padding=4), full)


def test_a_filter_without_taps_is_refused():
    with pytest.raises(ValueError, match="1-D or 2-D"):
        fir_filter([])


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), ((2, 1), (1, 3))])
def test_sums_for_compilers_are_the_same_map(up, down, monkeypatch):
    x, line = random_images(2, 3, 7, 8), fir_filter([1, 3, 3, 1], separable=True).double()
    for f, pads, flip in itertools.product((SLOPED, line), PADS, (False, True)):
        plain = upfirdn2d_reference(x, f, up=up, down=down, padding=pads, flip_filter=flip, gain=1.5)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            sums = upfirdn2d(x, f, up=up, down=down, padding=pads, flip_filter=flip, gain=1.5)
        torch.testing.assert_close(sums, plain)
