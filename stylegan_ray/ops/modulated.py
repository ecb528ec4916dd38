"""Convolution modulated by a style and demodulated (StyleGAN2, section 2.2, equations 1 to 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylegan_ray.ops.convolution import penalized_gradients, widened
from stylegan_ray.ops.resample import conv2d_resample
from stylegan_ray.ops.ways import is_forced


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    grouped: bool = False,
    eps: float = 1e-8,
    gain: float = 1.0,
) -> Tensor:
    """x [N,I,H,W] convolved with weight [O,I,k,k], whose input maps are scaled by styles [N,I], plus `noise`.

    `demodulate` divides every output map by the norm of its weights, and `gain` multiplies it, before the noise is
    added. Scales activations before and after one shared convolution, or with `grouped` runs one convolution of N
    groups. Computes in the data type of x; weights and styles may have a higher precision, in which the norms are
    computed.
    """
    n, _, h, w = x.shape
    if demodulate and x.dtype == torch.float16:
        weight, styles, least = _within_half(weight, styles, eps)
    else:
        least = eps
    coefs = _demodulation(weight, styles, least, gain) if demodulate else None  # [N,O]
    if weight.shape[2:] == (1, 1) and up == down == 1 and padding == 0:
        return _pointwise(x, weight, styles, noise, coefs, gain)
    if grouped or is_forced("grouped"):
        kernels = weight[None] * styles[:, None, :, None, None]  # [N,O,I,k,k]
        kernels = kernels * (gain if coefs is None else coefs[:, :, None, None, None])
        x = x.reshape(1, -1, h, w)  # [1,N*I,H,W]
        kernels = kernels.flatten(0, 1).to(x.dtype)  # [N*O,I,k,k]
        with penalized_gradients(False):
            x = conv2d_resample(x, kernels, resample_filter, up, down, padding, n, flip_weight)
        x = x.reshape(n, -1, *x.shape[2:])  # [N,O,H,W]
        return x if noise is None else x + noise
    if coefs is None and gain != 1:
        styles = styles * gain
    x = x * styles[:, :, None, None].to(x.dtype)
    x = conv2d_resample(x, weight.to(x.dtype), resample_filter, up, down, padding, 1, flip_weight)
    if coefs is None:
        return x if noise is None else x + noise
    coefs = coefs[:, :, None, None].to(x.dtype)
    return x * coefs if noise is None else torch.addcmul(noise, x, coefs)


def modulated_conv2d_reference(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    eps: float = 1e-8,
    gain: float = 1.0,
) -> Tensor:
    """The definition of `modulated_conv2d`: scaled input maps, one convolution, scaled output maps."""
    x = conv2d_resample(x * styles[:, :, None, None], weight, resample_filter, up, down, padding, 1, flip_weight)
    if demodulate:
        kernels = weight[None] * styles[:, None, :, None, None]  # [N,O,I,k,k]
        x = x / (kernels.square().sum(dim=(2, 3, 4)) + eps).sqrt()[:, :, None, None]
    x = x * gain
    return x if noise is None else x + noise


def _pointwise(
    x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None, coefs: Tensor | None, gain: float
) -> Tensor:
    """A 1x1 kernel: modulated weights are small, so one matrix product per sample is cheaper than scaling x."""
    kernels = weight[None, :, :, 0, 0] * styles[:, None, :]  # [N,O,I]
    kernels = kernels * (gain if coefs is None else coefs[:, :, None])
    n, _, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, -1)  # [N,H*W,I]  no copy where channels are last in memory
    kernels = kernels.transpose(1, 2).to(x.dtype)  # [N,I,O]
    y = torch.bmm(widened(pixels), widened(kernels)).to(x.dtype)  # [N,H*W,O]
    y = y.reshape(n, h, w, -1).permute(0, 3, 1, 2)  # [N,O,H,W]
    return y if noise is None else y + noise


def _within_half(weight: Tensor, styles: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, styles and eps scaled so that float16 does not overflow; demodulation cancels the scales."""
    weight_scale = weight.detach().abs().amax() * weight[0].numel() ** 0.5
    style_scale = styles.detach().abs().amax(dim=1, keepdim=True)  # [N,1]
    return weight / weight_scale, styles / style_scale, eps / (weight_scale * style_scale).square()


def _demodulation(weight: Tensor, styles: Tensor, eps: Tensor | float, gain: float) -> Tensor:
    """gain / sqrt(sum of squared modulated weights + eps) [N,O], without computing the modulated weights."""
    power = weight.square().sum(dim=(2, 3))  # [O,I]
    return torch.rsqrt(styles.square() @ power.t() + eps) * gain
