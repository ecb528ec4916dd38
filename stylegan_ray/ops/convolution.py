"""Convolutions whose derivatives of every order are convolutions again, each by the algorithm that measured fastest.

PyTorch's own second derivatives compute gradients of weights by convolutions with kernels as large as an image.
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
from stylegan_ray.ops.ways import is_forced, is_on_cpu

LOW_PRECISION = (torch.bfloat16, torch.float16)

_penalized = False


class Geometry(NamedTuple):
    stride: int
    padding: tuple[int, int]
    groups: int


@contextmanager
def penalized_gradients(wanted: bool = True) -> Iterator[None]:
    """Inside, convolutions are prepared for a penalty on the gradient with respect to images or styles.

    Such a gradient (computed with create_graph=True) has no part for weights, nor for what weights are computed from:
    where weights depend on styles, the convolution runs with `wanted` False.
    """
    global _penalized
    before, _penalized = _penalized, wanted
    try:
        yield
    finally:
        _penalized = before


def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """y [N,O,h,w]: x [N,I,H,W] convolved with w [O,I/groups,kh,kw], plus bias [O]."""
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
    """PyTorch's own convolution."""
    return F.conv2d(x, w, bias, stride, padding, groups=groups)


def conv_transpose2d(
    x: Tensor, w: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> Tensor:
    """y [N,O,h,w]: the transposed convolution of x [N,I,H,W] with w [I,O/groups,kh,kw]."""
    if is_native(x):
        return conv_transpose2d_reference(x, w, stride, padding, groups)
    size = tuple((x.shape[2 + i] - 1) * stride - 2 * padding[i] + w.shape[2 + i] for i in (0, 1))
    return _Adjoint.apply(x, w, Geometry(stride, padding, groups), size)  # type: ignore[return-value]


def conv_transpose2d_reference(
    x: Tensor, w: Tensor, stride: int = 1, padding: tuple[int, int] = (0, 0), groups: int = 1
) -> Tensor:
    """PyTorch's own convolution."""
    return F.conv_transpose2d(x, w, None, stride, padding, groups=groups)


def to_memory_format(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [N,C,H,W] in a data type and in the memory format in which its convolutions are fastest.

    Channels are last on CPUs, and on GPUs where tensor cores multiply.
    """
    last = is_on_cpu(x) or dtype in LOW_PRECISION or torch.backends.cudnn.allow_tf32
    return x.to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def to_memory_format_reference(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a data type, in the memory format it has."""
    return x.to(dtype)


def is_native(x: Tensor) -> bool:
    """Whether PyTorch's own convolution runs: in compiled and traced code, and on GPUs without second derivatives."""
    on_gpu = not is_on_cpu(x) or is_forced("as_on_gpus")
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return is_recorded or (on_gpu and not _penalized)


def is_penalized() -> bool:
    """Whether this runs inside of `penalized_gradients`."""
    return _penalized


class _Convolution(torch.autograd.Function):
    """y as a function of x and w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.penalized = geometry, _penalized
        return convolution(x, w, bias, geometry)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (x, w), (y,), (of_x, of_w, of_bias, _) = ctx.saved_tensors, grads, ctx.needs_input_grad
        weights = not (ctx.penalized and torch.is_grad_enabled())
        with penalized_gradients(ctx.penalized):
            return (
                _Adjoint.apply(y, w, ctx.geometry, x.shape[2:]) if of_x else None,
                _WeightGradient.apply(x, y, ctx.geometry, w.shape) if of_w and weights else None,
                y.sum(dim=(0, 2, 3)) if of_bias and weights else None,
                None,
            )


class _Adjoint(torch.autograd.Function):
    """The adjoint map, x of a given size as a function of y and w: the transposed convolution."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, w: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(y, w)
        ctx.geometry, ctx.penalized = geometry, _penalized
        return adjoint(y, w, geometry, size)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (y, w), (x,), (of_y, of_w, _, _) = ctx.saved_tensors, grads, ctx.needs_input_grad
        weights = not (ctx.penalized and torch.is_grad_enabled())
        with penalized_gradients(ctx.penalized):
            return (
                _Convolution.apply(x, w, None, ctx.geometry) if of_y else None,
                _WeightGradient.apply(x, y, ctx.geometry, w.shape) if of_w and weights else None,
                None,
                None,
            )


class _WeightGradient(torch.autograd.Function):
    """The gradient of w as a function of x and of the gradient of y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.geometry, ctx.penalized = geometry, _penalized
        return weight_gradient(x, y, geometry, shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        (x, y), (w,), (of_x, of_y, _, _) = ctx.saved_tensors, grads, ctx.needs_input_grad
        with penalized_gradients(ctx.penalized):
            return (
                _Adjoint.apply(y, w, ctx.geometry, x.shape[2:]) if of_x else None,
                _Convolution.apply(x, w, None, ctx.geometry) if of_y else None,
                None,
                None,
            )


def convolution(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y [N,O,h,w] of a convolution, without autograd."""
    if suits_winograd(x, w.shape, geometry, WINOGRAD_CHANNELS):
        y = winograd.convolution(x, widened(w))
        return y if bias is None else y.add_(bias[:, None, None])
    stride, padding, groups = geometry
    x = _in_memory_format(x, groups)
    y = F.conv2d(widened(x), widened(w), None if bias is None else widened(bias), stride, padding, groups=groups)
    return _in_format_of(x, y).to(x.dtype)


def adjoint(y: Tensor, w: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
    """x [N,I,H,W] of a size from y, without autograd: the transposed convolution."""
    if suits_winograd(y, w.shape, geometry, WINOGRAD_CHANNELS):
        return winograd.convolution(y, widened(w).flip((2, 3)).transpose(0, 1))
    stride, padding, groups = geometry
    y = _in_memory_format(y, groups)
    more = [size[i] - ((y.shape[2 + i] - 1) * stride - 2 * padding[i] + w.shape[2 + i]) for i in (0, 1)]
    x = F.conv_transpose2d(widened(y), widened(w), None, stride, padding, more, groups)
    return _in_format_of(y, x).to(y.dtype)


def _in_memory_format(x: Tensor, groups: int) -> Tensor:
    """x in the fast memory format: PyTorch's convolutions pass the format of their input on to all that follows."""
    return to_memory_format(x, x.dtype) if groups == 1 else x


def _in_format_of(x: Tensor, y: Tensor) -> Tensor:
    """y, computed from x, in the memory format that PyTorch gives it: its meta tensors alone do not pass it on."""
    if not (y.is_meta and x.is_contiguous(memory_format=torch.channels_last)):
        return y
    _, channels, height, width = y.shape
    return y.as_strided_(y.shape, (channels * height * width, 1, width * channels, channels))


def weight_gradient(x: Tensor, y: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
    """The gradient of w [O,I/groups,kh,kw] from x and the gradient of y, without autograd."""
    if suits_winograd(x, shape, geometry, WINOGRAD_GRADIENT_CHANNELS):
        return winograd.weight_gradient(x, y, widened(x[:0]).dtype).to(x.dtype)
    stride, padding, groups = geometry
    a, b = widened(x), widened(y)
    if suits_im2col(a, groups):
        return im2col.weight_gradient(a, b, shape[2:], stride, padding).to(x.dtype)
    if groups > 1 and is_on_cpu(x):
        a, b = a.contiguous(), b.contiguous()
    else:
        a, b = _in_memory_format(a, groups), _in_memory_format(b, groups)
    w, wanted = a.new_empty(1).expand(shape), [False, True, False]  # only the shape of w matters
    return torch.ops.aten.convolution_backward(
        b, a, w, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], groups, wanted
    )[1].to(x.dtype)


WINOGRAD_CHANNELS, WINOGRAD_GRADIENT_CHANNELS = 64, 32
"""Feature maps from which Winograd's algorithm is faster: for images, and for gradients of weights."""
WINOGRAD_TILES = 128
"""Tiles in a batch from which it is faster."""


def suits_winograd(x: Tensor, shape: torch.Size, geometry: Geometry, least_channels: int) -> bool:
    """Whether Winograd's algorithm is possible, and was faster where it was measured: in float32 on a CPU."""
    if is_forced("winograd", "direct", "as_on_gpus"):
        return is_forced("winograd") and allows_winograd(x, shape, geometry)
    n, _, height, width = x.shape
    return (
        is_on_cpu(x)
        and widened(x[:0]).dtype == torch.float32
        and allows_winograd(x, shape, geometry)
        and n * height * width >= WINOGRAD_TILES * winograd.STEP**2
        and min(shape[:2]) >= least_channels
    )


def allows_winograd(x: Tensor, shape: torch.Size, geometry: Geometry) -> bool:
    """Whether Winograd's algorithm is possible: 3x3, stride 1, padding 1, sides that are multiples of 4."""
    whole = x.shape[2] % winograd.STEP == x.shape[3] % winograd.STEP == 0
    return shape[2:] == (3, 3) and geometry == (1, (1, 1), 1) and whole


def suits_im2col(x: Tensor, groups: int) -> bool:
    """Whether matrix products give a gradient of weights faster and more exactly: on a CPU, in float32 and float64."""
    if is_forced("direct", "as_on_gpus"):
        return False
    return is_on_cpu(x) and x.dtype not in LOW_PRECISION and groups == 1


def widened(x: Tensor) -> Tensor:
    """x in the data type to compute in: float32 for a low precision that the CPU has no instructions for."""
    is_wide = x.dtype in (torch.float32, torch.float64)
    if not is_on_cpu(x) or is_wide or torch.compiler.is_compiling() or is_forced("low_precision"):
        return x
    return x if has_instructions(x.dtype) and not is_forced("widened") else x.float()


@cache
def has_instructions(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions that multiply numbers of a low precision."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported()
