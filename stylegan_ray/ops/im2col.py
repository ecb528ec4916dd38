"""Gradients of a convolution's weights as matrix products over the windows of its kernel (im2col)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.ops.cache_blocking import at_once, split_rows

FEW = 16
"""Feature maps below which several small products at once are faster than one."""


def weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: int, padding: tuple[int, int]) -> Tensor:
    """The gradient [O,I,kh,kw] of weights from x [N,I,H,W] and the gradient of the output [N,O,h,w], without autograd.

    Fastest where both have their channels last in memory.
    """
    n, out_channels, rows, columns = grad.shape
    (height, width), (pad_y, pad_x), channels = kernel, padding, x.shape[1]
    x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # [N,H,W,I], [N,h,w,O]
    x = F.pad(x, (0, 0, pad_x, pad_x, pad_y, pad_y)) if any(padding) else x
    seen = x.unfold(1, height, stride).unfold(2, width, stride).permute(0, 1, 2, 4, 5, 3)  # [N,h,w,kh,kw,I]
    of_window, few = height * width * channels, min(channels, out_channels) < FEW
    w = x.new_zeros(out_channels, of_window)
    for samples, part in split_rows(x, n, rows, columns * max(of_window, out_channels) * x.element_size()):
        a = grad[samples, part].reshape(-1, columns, out_channels)
        b = seen[samples, part].reshape(-1, columns, of_window)
        if few:
            w += batched_product(a, b)
        else:
            w.addmm_(a.flatten(0, 1).t(), b.flatten(0, 1))
    return w.view(out_channels, height, width, channels).permute(0, 3, 1, 2)


def batched_product(a: Tensor, b: Tensor) -> Tensor:
    """The sum over rows of the products of a [rows,K,A] and b [rows,K,B], [A,B], in blocks of rows."""
    parts = at_once(len(a), a.shape[2] * b.shape[2] * a.element_size())
    a, b = (part.reshape(parts, -1, part.shape[2]) for part in (a, b))
    if a.shape[2] > b.shape[2]:  # the longer side comes last
        return torch.bmm(b.transpose(1, 2), a).sum(0).t()
    return torch.bmm(a.transpose(1, 2), b).sum(0)
