"""Gradients of a convolution's weights as matrix products over the windows that its kernel sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.ops.pieces import cut


def weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: int, padding: tuple[int, int]) -> Tensor:
    """The gradient [O,I,kh,kw] of weights from x [N,I,H,W] and the gradient of the output [N,O,h,w]. No autograd.

    Quickest where both have their channels last in memory.
    """
    n, out_channels, rows, columns = grad.shape
    (height, width), (pad_y, pad_x), channels = kernel, padding, x.shape[1]
    x, grad = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)  # [N,H,W,I], [N,h,w,O]
    x = F.pad(x, (0, 0, pad_x, pad_x, pad_y, pad_y)) if any(padding) else x
    seen = x.unfold(1, height, stride).unfold(2, width, stride).permute(0, 1, 2, 4, 5, 3)  # [N,h,w,kh,kw,I]
    of_window = height * width * channels
    w = x.new_zeros(out_channels, of_window)
    for samples, part in cut(n, rows, columns * of_window * x.element_size()):
        w.addmm_(grad[samples, part].reshape(-1, out_channels).t(), seen[samples, part].reshape(-1, of_window))
    return w.view(out_channels, height, width, channels).permute(0, 3, 1, 2)
