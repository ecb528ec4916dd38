"""Affine warps of images without aliasing (Karras et al. 2020, ADA, appendix B).

An image is continued by reflection, upsampled twice by the filter of the wavelet sym6, sampled bilinearly, and
downsampled by the same filter reversed. All of it is linear in the image: derivatives of any order are such maps or
their adjoints.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.ops.fir import downsample2d, fir_filter, upfirdn2d_reference, upsample2d
from stylegan_ray.ops.ways import is_forced

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Scaling filter of the wavelet sym6 (Daubechies 1992)."""
REACH = len(SYM6) // 4
"""Pixels of an image beyond its borders that the downsampling filter needs."""
CENTER = -0.5
"""Upsampled pixels from the center of an upsampled image to that of what it shows: sym6 is not symmetric."""
DENSE_UP_TO = 320
"""Pixels of the larger side up to which filters are products with whole matrices, which takes less time there."""

Pair = tuple[int, int]
"""(x, y)."""


def warp_margin(inverse: Tensor | None, size: tuple[int, int]) -> Pair:
    """Pixels by which images of a size (H, W) must be continued for matrices [N,3,3] on the CPU; None: for any.

    A larger margin gives the same result. Reflection allows one pixel less than a side; there are zeros further out.
    """
    height, width = size
    if inverse is None:
        return width - 1, height - 1
    x, y = width / 2 + REACH + 0.5, height / 2 + REACH + 0.5
    corners = torch.tensor([[x, x, -x, -x], [y, -y, y, -y], [1, 1, 1, 1]], dtype=inverse.dtype)
    furthest = (inverse @ corners)[:, :2].abs().amax(dim=(0, 2)).tolist()
    margin_x, margin_y = (
        min(max(math.ceil(far + REACH + 1 - side / 2), 0), side - 1)
        for far, side in zip(furthest, (width, height), strict=True)
    )
    return margin_x, margin_y


def warp2d(x: Tensor, inverse: Tensor, margin: Pair) -> Tensor:
    """Images [N,C,H,W] warped by matrices [N,3,3], to which no gradient flows.

    A matrix maps positions in the result to positions in x, (x, y, 1) in pixels from the center. `margin` is the
    `warp_margin` of the matrices.
    """
    size, grid = (x.shape[3], x.shape[2]), _grid(x, inverse, margin)
    if max(size) > DENSE_UP_TO or is_forced("resampled"):
        upsampled = upsample2d(reflect2d(x, margin), _taps(x))
        return downsample2d(sample2d(upsampled, grid), _taps(x), padding=-2 * REACH, flip_filter=True)
    up_x, up_y = (upsampling_matrix(side, m).to(x) for side, m in zip(size, margin, strict=True))
    down_x, down_y = (downsampling_matrix(side).to(x) for side in size)
    sampled = sample2d(up_y @ x @ up_x.mT, grid)  # from 2(H+2my) x 2(W+2mx) to 2(H+6) x 2(W+6) pixels
    return down_y @ sampled @ down_x.mT


def warp2d_reference(x: Tensor, inverse: Tensor, margin: Pair, differentiable_twice: bool = True) -> Tensor:
    """The definition of `warp2d`, step by step, differentiated by autograd; once only if it uses F.grid_sample."""
    f, up, down = _taps(x), (len(SYM6) + 1) // 2, (len(SYM6) - 1) // 2
    x_up = F.pad(x, _four(margin), mode="reflect")
    x_up = upfirdn2d_reference(x_up, f, up=2, padding=(up, len(SYM6) // 2 - 1) * 2, gain=4)
    grid = _grid(x, inverse, margin)
    if differentiable_twice:
        sampled = sample2d_reference(x_up, grid)
    else:
        sampled = F.grid_sample(x_up, grid, padding_mode="zeros", align_corners=False)
    return upfirdn2d_reference(sampled, f, down=2, padding=down - 2 * REACH, flip_filter=True)


def reflect2d(x: Tensor, margin: Pair) -> Tensor:
    """Images [N,C,H,W] continued by reflection, as by F.pad.

    On a GPU the backward pass of F.pad adds atomically, so that results would differ between runs; a compiled one
    gathers.
    """
    if torch.compiler.is_compiling():
        return F.pad(x, _four(margin), mode="reflect")
    return _Reflect.apply(x, margin)  # type: ignore[return-value]


class _Reflect(torch.autograd.Function):
    """Reflection; its backward is the adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, margin: Pair) -> Tensor:
        ctx.margin = margin
        return F.pad(x, _four(margin), mode="reflect")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        return (_Fold.apply(grad_outputs[0], ctx.margin) if ctx.needs_input_grad[0] else None), None


class _Fold(torch.autograd.Function):
    """Adds what is beyond the borders to the pixels that it reflects: the adjoint of `_Reflect`, and the reverse."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, margin: Pair) -> Tensor:
        ctx.margin = margin
        return _folded(_folded(y, 2, margin[1]), 3, margin[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        return (_Reflect.apply(grad_outputs[0], ctx.margin) if ctx.needs_input_grad[0] else None), None


def _folded(y: Tensor, dim: int, margin: int) -> Tensor:
    """Along a dimension the middle of y, plus both margins reversed, beside the first and the last pixel."""
    size = y.shape[dim] - 2 * margin
    x = y.narrow(dim, margin, size).clone()
    x.narrow(dim, 1, margin).add_(y.narrow(dim, 0, margin).flip(dim))
    x.narrow(dim, size - 1 - margin, margin).add_(y.narrow(dim, margin + size, margin).flip(dim))
    return x


def sample2d(x: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of x [N,C,H,W] at positions [N,h,w,2], from -1 to 1 between borders; zeros outside.

    Its adjoint adds in the order of memory on a CPU. On a GPU atomic additions would make results differ between runs,
    so with deterministic algorithms, and in compiled code, samples are gathered.
    """
    gathered = x.is_cuda and torch.are_deterministic_algorithms_enabled()
    if gathered or torch.compiler.is_compiling() or is_forced("gathered"):
        return sample2d_reference(x, grid)
    return _Sample.apply(x, grid)  # type: ignore[return-value]


def sample2d_reference(x: Tensor, grid: Tensor) -> Tensor:
    """The definition of `sample2d`: the weighted sum of four gathered pixels."""
    n, c, height, width = x.shape
    columns, rows = (((grid[..., i] + 1) * size - 1) / 2 for i, size in ((0, width), (1, height)))  # [N,h,w]
    pixels, first = x.flatten(2), (columns.floor(), rows.floor())
    total: Any = 0
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = first[0] + dx, first[1] + dy
        weight = (1 - (columns - column).abs()) * (1 - (rows - row).abs())
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
        values = pixels.gather(2, index.flatten(1)[:, None].expand(n, c, -1))  # [N,C,hw]
        total = total + values * (weight * inside).flatten(1)[:, None]
    return total.view(n, c, *grid.shape[1:3])


class _Sample(torch.autograd.Function):
    """Bilinear sampling; its backward is the adjoint."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.grid, ctx.shape = grid, x.shape
        return torch.ops.aten.grid_sampler_2d(x, grid, 0, 0, False)  # bilinear, zeros outside

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        return (_Spread.apply(grad_outputs[0], ctx.grid, ctx.shape) if ctx.needs_input_grad[0] else None), None


class _Spread(torch.autograd.Function):
    """Adds each sample to the pixels that it is made of: the adjoint of `_Sample`, and the reverse."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.grid = grid
        unused = y.new_empty(shape)  # only its shape counts, since no gradient of the grid is asked for
        return torch.ops.aten.grid_sampler_2d_backward(y.contiguous(), unused, grid, 0, 0, False, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):
        return (_Sample.apply(grad_outputs[0], ctx.grid) if ctx.needs_input_grad[0] else None), None, None


def upsampling_matrix(size: int, margin: int) -> Tensor:
    """Reflection by a margin, then upsampling along a side: float64 [2(size+2 margin),size]."""
    first = 2 * (size - 1 - margin)
    return _largest_upsampling_matrix(size)[first : first + 2 * (size + 2 * margin)]


@functools.cache
def _largest_upsampling_matrix(size: int) -> Tensor:
    """The `upsampling_matrix` of the largest margin."""
    places = torch.arange(1 - size, 2 * size - 1).abs()
    reflected = F.one_hot(torch.minimum(places, 2 * (size - 1) - places), size).double()  # [3 size - 2,size]
    return upsample2d(reflected[None, None], _taps(reflected)[:, None], up=(1, 2))[0, 0]


@functools.cache
def downsampling_matrix(size: int) -> Tensor:
    """Downsampling along a side: float64 [size,2(size+6)]."""
    samples = torch.eye(2 * (size + 2 * REACH), dtype=torch.float64)
    pads = (0, 0, -2 * REACH, -2 * REACH)
    return downsample2d(samples[None, None], _taps(samples)[:, None], (1, 2), pads, flip_filter=True)[0, 0]


def _grid(x: Tensor, inverse: Tensor, margin: Pair) -> Tensor:
    """Where `sample2d` reads the upsampled images: [N,2(H+6),2(W+6),2]."""
    height, width = x.shape[2:]
    to = inverse.new_tensor([width + 2 * REACH, height + 2 * REACH])  # half the size of what is sampled
    of = inverse.new_tensor([width + 2 * margin[0], height + 2 * margin[1]])  # half the size of what it is read from
    linear = inverse[:, :2, :2]
    offset = 2 * inverse[:, :2, 2] + CENTER - CENTER * linear.sum(dim=2)  # in upsampled pixels
    theta = torch.cat([linear * to / of[:, None], (offset / of)[:, :, None]], dim=2)  # [N,2,3]
    shape = [len(x), 1, 2 * (height + 2 * REACH), 2 * (width + 2 * REACH)]
    return F.affine_grid(theta, shape, align_corners=False)


def _taps(x: Tensor) -> Tensor:
    return fir_filter(SYM6).to(x)


def _four(margin: Pair) -> list[int]:
    return [margin[0], margin[0], margin[1], margin[1]]
