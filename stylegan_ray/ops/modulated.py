"""Convolution modulated by a style and demodulated (StyleGAN2, section 2.2, equations 1 to 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylegan_ray.ops.resample import conv2d_resample, conv2d_resample_reference


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
    added. Scales activations around one shared convolution, or with `grouped` runs one convolution of N groups.
    """
    n, _, h, w = x.shape
    coefs = _demodulation(weight, styles, eps, gain) if demodulate else None  # [N,O]
    if weight.shape[2:] == (1, 1) and up == down == 1 and padding == 0:
        return _pointwise(x, weight, styles, noise, coefs, gain)
    if grouped:
        kernels = weight[None] * styles[:, None, :, None, None]  # [N,O,I,k,k]
        kernels = kernels * (gain if coefs is None else coefs[:, :, None, None, None])
        x = x.reshape(1, -1, h, w)  # [1,N*I,H,W]
        x = conv2d_resample(x, kernels.flatten(0, 1), resample_filter, up, down, padding, n, flip_weight)
        x = x.reshape(n, -1, *x.shape[2:])  # [N,O,H,W]
        return x if noise is None else x + noise
    if coefs is None and gain != 1:
        styles = styles * gain
    x = x * styles[:, :, None, None]
    x = conv2d_resample(x, weight, resample_filter, up, down, padding, 1, flip_weight)
    if coefs is None:
        return x if noise is None else x + noise
    coefs = coefs[:, :, None, None]
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
    """What `modulated_conv2d` means: one convolution per sample with its own weights."""
    kernels = weight[None] * styles[:, None, :, None, None]  # [N,O,I,k,k]
    if demodulate:
        kernels = kernels / (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + eps).sqrt()
    samples = zip(x.split(1), kernels * gain, strict=True)
    images = [
        conv2d_resample_reference(image, kernel, resample_filter, up, down, padding, 1, flip_weight)
        for image, kernel in samples
    ]
    return torch.cat(images) if noise is None else torch.cat(images) + noise


def _pointwise(
    x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None, coefs: Tensor | None, gain: float
) -> Tensor:
    """A 1x1 kernel: the modulated weights are small, so one matrix product a sample spares scaling x."""
    kernels = weight[None, :, :, 0, 0] * styles[:, None, :]  # [N,O,I]
    kernels = kernels * (gain if coefs is None else coefs[:, :, None])
    y = torch.bmm(kernels, x.flatten(2)).unflatten(2, x.shape[2:])  # [N,O,H,W]
    return y if noise is None else y + noise


def _demodulation(weight: Tensor, styles: Tensor, eps: float, gain: float) -> Tensor:
    """gain / sqrt(sum of the squared modulated weights + eps) [N,O], without the modulated weights themselves."""
    power = weight.square().sum(dim=(2, 3))  # [O,I]
    return torch.rsqrt(styles.square() @ power.t() + eps) * gain
