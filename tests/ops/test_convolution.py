"""Convolutions: every algorithm against PyTorch's, to second order."""

import pytest
import torch
import torch.nn.functional as F

from stylegan_ray.ops import (
    cache_blocking,
    conv2d,
    conv_transpose2d,
    convolution,
    forced,
    im2col,
    penalized_gradients,
    to_memory_format,
    winograd,
)

SHAPES = {  # x, kernel, options
    "same": ((2, 3, 8, 12), (5, 3, 3, 3), {"padding": (1, 1)}),
    "odd": ((1, 3, 6, 5), (2, 3, 3, 3), {"padding": (1, 1)}),
    "strided": ((2, 3, 9, 9), (4, 3, 3, 3), {"stride": 2}),
    "strided with a rest": ((2, 3, 8, 9), (4, 3, 3, 3), {"stride": 2}),
    "grouped": ((1, 6, 7, 8), (4, 3, 3, 3), {"groups": 2, "padding": (0, 1)}),
    "pointwise": ((2, 3, 4, 4), (5, 3, 1, 1), {}),
}


WAYS = ["direct", "winograd", "im2col of few maps", "im2col of many maps"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """How convolutions and gradients of weights are computed; its name."""
    if request.param in ("direct", "winograd"):
        with forced(request.param):
            yield request.param
    else:
        monkeypatch.setattr(im2col, "FEW", 1 if "many" in request.param else 1000)
        yield request.param


@pytest.fixture
def always_winograd():
    """Winograd's algorithm wherever it is possible, in float64 too."""
    with forced("winograd"):
        yield


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def orders(op, x, w, bias, options):
    """Values, gradients of a function of them, and gradients of those."""
    y = op(x, w, bias, **options) if bias is not None else op(x, w, **options)
    inputs = [part for part in (x, w, bias) if part is not None]
    first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    return y, first, torch.autograd.grad(sum(g.square().sum() for g in first), inputs)


@pytest.mark.parametrize("case", SHAPES)
def test_convolution_is_that_of_pytorch_to_second_order(case, way):
    shape, kernel, options = SHAPES[case]
    x, w, bias = random(*shape), random(*kernel, seed=1), random(kernel[0], seed=2)
    ours, pytorchs = orders(conv2d, x, w, bias, options), orders(F.conv2d, x, w, bias, options)
    torch.testing.assert_close(ours, pytorchs)


@pytest.mark.parametrize("options", [{"padding": (1, 1)}, {"stride": 2}, {"stride": 2, "groups": 2}])
def test_transposed_convolution_is_that_of_pytorch_to_second_order(options, way):
    x, w = random(2, 4, 8, 4), random(4, 3, 3, 3, seed=1)
    torch.testing.assert_close(
        orders(conv_transpose2d, x, w, None, options), orders(F.conv_transpose2d, x, w, None, options)
    )


def test_prepared_for_a_penalty_its_gradient_is_that_of_pytorch(always_winograd):
    x, w = random(2, 3, 8, 8), random(4, 3, 3, 3, seed=1)
    results = []
    for op, inside in ((conv2d, penalized_gradients), (F.conv2d, torch.enable_grad)):
        with inside():
            y = op(x, w, padding=(1, 1)).sin()
            (dx,) = torch.autograd.grad(op(y, w.transpose(0, 1), padding=(1, 1)).sin().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), (x, w)))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("threads", [1, 2, 4])  # of 6 images: one share, two, three
def test_results_do_not_depend_on_the_block_size(threads, way, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, w, grad, strided = (
        random(*shape, seed=i).detach()
        for i, shape in enumerate([(6, 3, 12, 8), (5, 3, 3, 3), (6, 5, 12, 8), (6, 5, 5, 3)])
    )
    results = []
    for size in (1, 3 * 36 * 2 * 5 * 4, 2 * 3 * 36 * 2 * 5 * 4, 1 << 30):  # a row of tiles, an image, two, all
        monkeypatch.setattr(cache_blocking, "CACHE_BYTES", size)
        of_strided = convolution.weight_gradient(x, strided, convolution.Geometry(2, (0, 0), 1), w.shape)
        results.append((winograd.convolution(x, w), winograd.weight_gradient(x, grad, torch.float64), of_strided))
        assert sum(block.num_rows for block in winograd.blocks_of(x, 5)) == 6 * 3 // winograd.num_shares(x)
    assert {len(winograd.blocks_of(x, 5))} == {1}
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_gradients_of_weights_by_im2col_are_exact_to_float32():
    x, grad = random(4, 32, 65, 65).detach().float(), random(4, 64, 32, 32, seed=1).detach().float()
    geometry, shape = convolution.Geometry(2, (0, 0), 1), torch.Size([64, 32, 3, 3])
    assert convolution.suits_im2col(x, 1)
    exact = convolution.weight_gradient(x.double(), grad.double(), geometry, shape)
    torch.testing.assert_close(exact, torch.nn.grad.conv2d_weight(x.double(), shape, grad.double(), stride=2))
    error = (convolution.weight_gradient(x, grad, geometry, shape) - exact).abs().max() / exact.abs().max()
    assert error < 1e-6


def test_winograd_in_float32_is_as_good_as_golden_tests_need():
    """It rounds a few times more than the direct algorithm: below 1e-5 of the largest value."""
    x, w = random(8, 64, 16, 16).detach().float(), random(64, 64, 3, 3, seed=1).detach().float() / 24
    geometry = convolution.Geometry(1, (1, 1), 1)
    assert convolution.suits_winograd(x, w.shape, geometry, convolution.WINOGRAD_CHANNELS)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    assert (conv2d(x, w, padding=(1, 1)) - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_rounds_inputs_and_outputs_only(dtype):
    for channels, size in ((8, 8), (64, 16)):  # direct and Winograd
        x, w = (random(8, channels, size, size).detach(), random(channels, channels, 3, 3, seed=1).detach())
        x, w = x.to(dtype).requires_grad_(), (w / channels).to(dtype)
        y = conv2d(x, w, padding=(1, 1))
        (dx,) = torch.autograd.grad(y.float().square().sum(), x)
        exact = F.conv2d(x.double(), w.double(), padding=1)
        assert y.dtype == dx.dtype == dtype
        assert (y - exact).abs().max() < 2 * torch.finfo(dtype).eps * exact.abs().max()


def test_channels_are_last_on_a_cpu():
    x = to_memory_format(torch.zeros(2, 3, 4, 5), torch.bfloat16)
    assert x.dtype == torch.bfloat16 and x.is_contiguous(memory_format=torch.channels_last)
    assert to_memory_format(x, torch.bfloat16) is x


@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_in_another_memory_format_do_not_spread_it(kernel):
    """PyTorch's convolutions pass on the format they get, and what follows is several times slower in another."""
    x, w, pad = random(2, 16, 8, 8), random(16, 16, kernel, kernel, seed=1), (kernel // 2, kernel // 2)
    for op in (conv2d, conv_transpose2d):
        y = op(to_memory_format(x, x.dtype), w, padding=pad)
        (dx,) = torch.autograd.grad(y, x, torch.ones(y.shape, dtype=y.dtype))
        assert not dx.is_contiguous() and dx.is_contiguous(memory_format=torch.channels_last)


def test_outputs_of_winograd_can_be_changed_in_place(always_winograd):
    """Activations reuse the memory of a convolution's output, which PyTorch refuses for views."""
    x, w, bias = random(1, 3, 8, 8), random(4, 3, 3, 3, seed=1), random(4, seed=2)
    for y in (conv2d(x, w, bias, padding=(1, 1)), conv_transpose2d(x, w.transpose(0, 1), padding=(1, 1))):
        F.leaky_relu(y, 0.2, inplace=True).sum().backward()
    assert x.grad.isfinite().all()
