"""Convolutions whose derivatives of every order are convolutions again, each in the quickest way that was measured.

PyTorch's own second derivatives take gradients of weights by convolutions with kernels as large as a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.ops import im2col, winograd

LOW_PRECISION = (torch.bfloat16, torch.float16)

_penalised = False


class Geometry(NamedTuple):
    stride: int
    padding: tuple[int, int]
    groups: int


@contextmanager
def penalised_gradients(wanted: bool = True) -> Iterator[None]:
    """Inside, convolutions are prepared for a penalty on the gradient with respect to pictures or styles.

    Such a gradient (one taken with create_graph=True) may not be asked for with respect to weights, nor to what they
    are made of: weights that follow styles are used with `wanted` False.
    """
    global _penalised
    before, _penalised = _penalised, wanted
    try:
        yield
    finally:
        _penalised = before


def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """x [N,I,H,W] convolved with w [O,I/groups,kh,kw]."""
    if is_native(x):
        return conv2d_reference(x, w, bias, stride, padding, groups)
    return _Convolution.apply(x, w, bias, Geometry(stride, padding, groups))  # type: ignore[return-value]


def conv2d_reference(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """PyTorch's."""
    return F.conv2d(x, w, bias, stride, padding, groups=groups)


def conv_transpose2d(
    x: Tensor, w: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> Tensor:
    """x [N,I,H,W] through the transposed convolution with w [I,O/groups,kh,kw]."""
    if is_native(x):
        return conv_transpose2d_reference(x, w, stride, padding, groups)
    size = tuple((x.shape[2 + i] - 1) * stride - 2 * padding[i] + w.shape[2 + i] for i in (0, 1))
    return _Adjoint.apply(x, w, Geometry(stride, padding, groups), size)  # type: ignore[return-value]


def conv_transpose2d_reference(
    x: Tensor, w: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> Tensor:
    """PyTorch's."""
    return F.conv_transpose2d(x, w, None, stride, padding, groups=groups)


def laid_out(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [N,C,H,W] in a data type, and in memory as convolutions of that type like it best.

    Channels come last on CPUs, and on GPUs where tensor cores multiply.
    """
    last = x.device.type == "cpu" or dtype in LOW_PRECISION or torch.backends.cudnn.allow_tf32
    return x.to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def laid_out_reference(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a data type."""
    return x.to(dtype)


def is_native(x: Tensor) -> bool:
    """Whether PyTorch's own convolution serves: in compiled code, and on GPUs where no second derivative is needed."""
    return torch.compiler.is_compiling() or (x.device.type != "cpu" and not _penalised)


class _Convolution(torch.autograd.Function):
    """y from x and w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.penalised = geometry, _penalised
        return convolution(x, w, bias, geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (x, w), (y,), (of_x, of_w, of_bias, _) = ctx.saved_tensors, grads, ctx.needs_input_grad
        weights = not (ctx.penalised and torch.is_grad_enabled())
        with penalised_gradients(ctx.penalised):
            return (
                _Adjoint.apply(y, w, ctx.geometry, x.shape[2:]) if of_x else None,
                _WeightGradient.apply(x, y, ctx.geometry, w.shape) if of_w and weights else None,
                y.sum(dim=(0, 2, 3)) if of_bias and weights else None,
                None,
            )


class _Adjoint(torch.autograd.Function):
    """x of a given size from y and w: the transposed convolution."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, w: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(y, w)
        ctx.geometry, ctx.penalised = geometry, _penalised
        return adjoint(y, w, geometry, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (y, w), (x,), (of_y, of_w, _, _) = ctx.saved_tensors, grads, ctx.needs_input_grad
        weights = not (ctx.penalised and torch.is_grad_enabled())
        with penalised_gradients(ctx.penalised):
            return (
                _Convolution.apply(x, w, None, ctx.geometry) if of_y else None,
                _WeightGradient.apply(x, y, ctx.geometry, w.shape) if of_w and weights else None,
                None,
                None,
            )


class _WeightGradient(torch.autograd.Function):
    """w from x and y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.geometry, ctx.penalised = geometry, _penalised
        return weight_gradient(x, y, geometry, shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (x, y), (w,), (of_x, of_y, _, _) = ctx.saved_tensors, grads, ctx.needs_input_grad
        with penalised_gradients(ctx.penalised):
            return (
                _Adjoint.apply(y, w, ctx.geometry, x.shape[2:]) if of_x else None,
                _Convolution.apply(x, w, None, ctx.geometry) if of_y else None,
                None,
                None,
            )


def convolution(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y, without autograd."""
    if suits_winograd(x, w.shape, geometry, WINOGRAD_CHANNELS):
        y = winograd.convolution(x, computed(w))
        return y if bias is None else y.add_(bias[:, None, None])
    stride, padding, groups = geometry
    x = _relaid(x, groups)
    y = F.conv2d(computed(x), computed(w), None if bias is None else computed(bias), stride, padding, groups=groups)
    return y.to(x.dtype)


def adjoint(y: Tensor, w: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
    """x of a size, without autograd."""
    if suits_winograd(y, w.shape, geometry, WINOGRAD_CHANNELS):
        return winograd.convolution(y, computed(w).flip((2, 3)).transpose(0, 1))
    stride, padding, groups = geometry
    y = _relaid(y, groups)
    more = [size[i] - ((y.shape[2 + i] - 1) * stride - 2 * padding[i] + w.shape[2 + i]) for i in (0, 1)]
    return F.conv_transpose2d(computed(y), computed(w), None, stride, padding, more, groups).to(y.dtype)


def _relaid(x: Tensor, groups: int) -> Tensor:
    """x laid out anew if need be: PyTorch's convolutions hand on the layout they get to all that follows."""
    return laid_out(x, x.dtype) if groups == 1 else x


def weight_gradient(x: Tensor, y: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
    """w of a shape, without autograd."""
    if suits_winograd(x, shape, geometry, WINOGRAD_GRADIENT_CHANNELS):
        return winograd.weight_gradient(x, y, computed(x[:0]).dtype).to(x.dtype)
    stride, padding, groups = geometry
    a, b = computed(x), computed(y)
    if suits_windows(a, groups):
        return im2col.weight_gradient(a, b, shape[2:], stride, padding).to(x.dtype)
    if groups > 1 and x.device.type == "cpu":
        a, b = a.contiguous(), b.contiguous()
    else:
        a, b = _relaid(a, groups), _relaid(b, groups)
    w, wanted = a.new_empty(1).expand(shape), [False, True, False]  # only the shape of w matters
    return torch.ops.aten.convolution_backward(
        b, a, w, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], groups, wanted
    )[1].to(x.dtype)


WINOGRAD_CHANNELS, WINOGRAD_GRADIENT_CHANNELS = 64, 32
"""From how many feature maps on Winograd's way is quicker, for pictures and for weights."""
WINOGRAD_TILES = 128
"""And from how many tiles in a batch."""


def suits_winograd(x: Tensor, shape: torch.Size, geometry: Geometry, least_channels: int) -> bool:
    """Whether Winograd's way is possible, and was quicker where it was measured: in float32 on a CPU."""
    n, _, height, width = x.shape
    return (
        x.device.type == "cpu"
        and computed(x[:0]).dtype == torch.float32
        and allows_winograd(x, shape, geometry)
        and n * height * width >= WINOGRAD_TILES * winograd.STEP**2
        and min(shape[:2]) >= least_channels
    )


def allows_winograd(x: Tensor, shape: torch.Size, geometry: Geometry) -> bool:
    """Whether Winograd's way is possible: 3x3, stride 1, the size kept, sides in whole steps."""
    whole = x.shape[2] % winograd.STEP == x.shape[3] % winograd.STEP == 0
    return shape[2:] == (3, 3) and geometry == (1, (1, 1), 1) and whole


def suits_windows(x: Tensor, groups: int) -> bool:
    """Whether products of matrices are a quicker and a more exact way to a gradient of weights: on a CPU."""
    return x.device.type == "cpu" and x.dtype not in LOW_PRECISION and groups == 1


def computed(x: Tensor) -> Tensor:
    """x in the data type to compute in: a CPU without instructions for a low precision takes its numbers as float32."""
    is_wide = x.dtype in (torch.float32, torch.float64)
    if x.device.type != "cpu" or is_wide or torch.compiler.is_compiling() or has_instructions(x.dtype):
        return x
    return x.float()


@cache
def has_instructions(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies numbers of a low precision."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported()
