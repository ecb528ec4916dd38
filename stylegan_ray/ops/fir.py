"""FIR resampling: insert zeros, pad, filter, keep every n-th sample.

The adjoint of such an operation is one of the same kind (up and down swapped, filter flipped), so the fast path defines
its own backward and any order of derivative costs as little as the forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.ops.convolution import LOW_PRECISION, widened
from stylegan_ray.ops.ways import is_forced, is_on_cpu

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]

LONG = 8
"""Number of taps from which a filter is cheaper along one side after the other."""


def fir_filter(
    taps: Any,
    *,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Tensor:
    """The filter that the other functions expect, from 1-D or 2-D taps; its sum is `gain`.

    1-D taps become their outer product, or stay separable (1-D) if there are LONG or more. Raises ValueError for no
    taps and for more than two dimensions.
    """
    taps = np.asarray(1.0 if taps is None else taps, dtype=np.float64)
    if taps.ndim > 2 or taps.size == 0:
        raise ValueError(f"a FIR filter must have 1-D or 2-D taps, not shape {taps.shape}; e.g. [1, 3, 3, 1]")
    taps = taps.reshape(1) if taps.ndim == 0 else taps
    if taps.ndim == 1 and not (len(taps) >= LONG if separable is None else separable):
        taps = np.outer(taps, taps)
    if normalize:
        taps = taps / taps.sum()
    if flip:
        taps = np.flip(taps)
    return torch.tensor(taps * gain ** (taps.ndim / 2), dtype=torch.float32)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsamples by zeros, pads (or crops), convolves every channel with `f` and downsamples.

    `up` and `down` are a number or (x, y), `padding` a number, (x, y) or (x0, x1, y0, y1). True convolution, unless
    `flip_filter`; f None is a single 1. No gradient flows to `f`.
    """
    compiling = torch.compiler.is_compiling() or torch.jit.is_tracing()
    up_xy, down_xy, pads = _pair(up), _pair(down), four_pads(padding)
    f = _scaled(f, x, gain)
    if f.ndim == 1 and len(f) < LONG and not compiling:
        f = torch.outer(f, f)
    apply: Any = _convolved if torch.compiler.is_exporting() else shifted_sums if compiling else _UpFirDn.apply
    if f.ndim == 2:
        return apply(x, f, up_xy, down_xy, pads, flip_filter)
    x = apply(x, f[None, :], (up_xy[0], 1), (down_xy[0], 1), (*pads[:2], 0, 0), flip_filter)
    return apply(x, f[:, None], (1, up_xy[1]), (1, down_xy[1]), (0, 0, *pads[2:]), flip_filter)


def upfirdn2d_reference(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """The definition of `upfirdn2d`, step by step, differentiated by autograd."""
    f = _scaled(f, x, gain)
    f = f if f.ndim == 2 else torch.outer(f, f)
    x = _pad(_insert_zeros(x, _pair(up)), four_pads(padding))
    x = _depthwise(x, f if flip_filter else f.flip((0, 1)), stride=(1, 1))
    down_x, down_y = _pair(down)
    return x[:, :, ::down_y, ::down_x]


def filter2d(
    x: Tensor, f: Tensor | None, padding: int | Sequence[int] = 0, flip_filter: bool = False, gain: float = 1.0
):
    """Filters images; their size changes by `padding` only."""
    x0, x1, y0, y1 = four_pads(padding)
    fw, fh = filter_size(f)
    pads = (x0 + fw // 2, x1 + (fw - 1) // 2, y0 + fh // 2, y1 + (fh - 1) // 2)
    return upfirdn2d(x, f, padding=pads, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsamples images and keeps their mean (the original's `upsample_2d`)."""
    up_x, up_y = _pair(up)
    x0, x1, y0, y1 = four_pads(padding)
    fw, fh = filter_size(f)
    pads = (x0 + (fw + up_x - 1) // 2, x1 + (fw - up_x) // 2, y0 + (fh + up_y - 1) // 2, y1 + (fh - up_y) // 2)
    return upfirdn2d(x, f, up=up, padding=pads, flip_filter=flip_filter, gain=gain * up_x * up_y)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Filters images and keeps every n-th sample (the original's `downsample_2d`)."""
    down_x, down_y = _pair(down)
    x0, x1, y0, y1 = four_pads(padding)
    fw, fh = filter_size(f)
    pads = (x0 + (fw - down_x + 1) // 2, x1 + (fw - down_x) // 2, y0 + (fh - down_y + 1) // 2, y1 + (fh - down_y) // 2)
    return upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter, gain=gain)


def filter_size(f: Tensor | None) -> Pair:
    """Width and height of a filter; None is the filter that does nothing."""
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def shifted_sums(x: Tensor, f: Tensor, up: Pair, down: Pair, pads: Pads, flip: bool) -> Tensor:
    """The same map as a sum of shifted images, which a compiler fuses with the operations around it."""
    f = f if flip else f.flip((0, 1))
    x, (fh, fw) = _pad(_insert_zeros(x, up), pads), f.shape
    height, width = x.shape[2] - fh + 1, x.shape[3] - fw + 1
    terms = [
        x[:, :, row : row + height : down[1], column : column + width : down[0]] * f[row, column]
        for row in range(fh)
        for column in range(fw)
    ]
    return functools.reduce(torch.add, terms)


class _UpFirDn(torch.autograd.Function):
    """A linear map of x; its backward is the adjoint, a map of the same kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, up: Pair, down: Pair, pads: Pads, flip: bool) -> Tensor:
        taps = (f if flip else f.flip((0, 1))).to(widened(x[:0]).dtype)
        y = _upfirdn(widened(x), taps, up, down, pads).to(x.dtype)
        (in_h, in_w), (out_h, out_w), (fh, fw) = x.shape[2:], y.shape[2:], f.shape
        adjoint_pads = (
            fw - 1 - pads[0],
            in_w * up[0] - out_w * down[0] + pads[0] - up[0] + 1,
            fh - 1 - pads[2],
            in_h * up[1] - out_h * down[1] + pads[2] - up[1] + 1,
        )
        ctx.f, ctx.adjoint = f, (down, up, adjoint_pads, not flip)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        grad_x = _UpFirDn.apply(grad_outputs[0], ctx.f, *ctx.adjoint) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, None, None, None


def _convolved(x: Tensor, f: Tensor, up: Pair, down: Pair, pads: Pads, flip: bool) -> Tensor:
    """The same map as one convolution, which runtimes of exported programs have fast code for; no second derivative."""
    return _upfirdn(x, f if flip else f.flip((0, 1)), up, down, pads)


def _upfirdn(x: Tensor, f: Tensor, up: Pair, down: Pair, pads: Pads) -> Tensor:
    """Correlates with `f`; no autograd."""
    if up == (1, 1):
        x, pad_hw = _leave_even_padding(x, pads)
        return _depthwise(x, f, stride=(down[1], down[0]), padding=pad_hw)
    # The transposed convolution was 13 times slower than explicit zeros on CPUs in low precision.
    spread = (is_on_cpu(x) and x.dtype in LOW_PRECISION) or is_forced("spread")
    if down == (1, 1) and not spread:
        fh, fw = f.shape
        crop_x = (fw - 1 - pads[0], fw - up[0] - pads[1])
        crop_y = (fh - 1 - pads[2], fh - up[1] - pads[3])
        if crop_x[0] == crop_x[1] >= 0 and crop_y[0] == crop_y[1] >= 0:
            weight = f.flip((0, 1)).expand(x.shape[1], 1, fh, fw)
            return F.conv_transpose2d(
                x, weight, stride=(up[1], up[0]), padding=(crop_y[0], crop_x[0]), groups=x.shape[1]
            )
    pads = (pads[0], pads[1] + up[0] - 1, pads[2], pads[3] + up[1] - 1)
    return _upfirdn(_spread(x, up), f, (1, 1), down, pads)


def _spread(x: Tensor, up: Pair) -> Tensor:
    """x with zeros between its pixels, none after the last one, in the memory format of x."""
    n, c, h, w = x.shape
    size = (n, c, (h - 1) * up[1] + 1, (w - 1) * up[0] + 1)
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout).zero_()
    y[:, :, :: up[1], :: up[0]] = x
    return y


def _depthwise(x: Tensor, f: Tensor, stride: Pair, padding: Pair = (0, 0)) -> Tensor:
    channels = x.shape[1]
    return F.conv2d(x, f.expand(channels, 1, *f.shape), stride=stride, padding=padding, groups=channels)


def _leave_even_padding(x: Tensor, pads: Pads) -> tuple[Tensor, Pair]:
    """Pads x until the rest is equal on both sides, and returns the rest: a convolution pads that for free."""
    even_x, even_y = max(min(pads[0], pads[1]), 0), max(min(pads[2], pads[3]), 0)
    return _pad(x, (pads[0] - even_x, pads[1] - even_x, pads[2] - even_y, pads[3] - even_y)), (even_y, even_x)


def _insert_zeros(x: Tensor, up: Pair) -> Tensor:
    if up == (1, 1):
        return x
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, [0, up[0] - 1, 0, 0, 0, up[1] - 1])  # [N,C,H,up,W,up]
    return x.reshape(n, c, h * up[1], w * up[0])


def _pad(x: Tensor, pads: Pads) -> Tensor:
    """Zero padding; negative numbers crop."""
    return F.pad(x, list(pads)) if any(pads) else x


def _scaled(f: Tensor | None, x: Tensor, gain: float) -> Tensor:
    """The filter times a gain, in the data type of x."""
    if f is None:
        return x.new_full((1, 1), gain)
    return (f if gain == 1 else f * gain ** (f.dim() / 2)).to(x.dtype)


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def four_pads(padding: int | Sequence[int]) -> Pads:
    if isinstance(padding, int):
        return (padding, padding, padding, padding)
    if len(padding) == 2:
        return (padding[0], padding[0], padding[1], padding[1])
    x0, x1, y0, y1 = padding
    return (x0, x1, y0, y1)
