"""Networks of StyleGAN (Karras et al. 2019), configuration A: blocks for the growing generator and discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_ray.networks.discriminator import add_rgb
from stylegan_ray.networks.growing import enlarge
from stylegan_ray.networks.layers import Dense, minibatch_stddev, normal
from stylegan_ray.networks.shapes import Size
from stylegan_ray.ops import bias_act, fir_filter, upfirdn2d

SQRT2 = 2.0**0.5
"""Gain of the weights of layers with an activation; the activation itself has none (He et al. 2015)."""

FUSED_FROM = 128
"""Resolution from which layers resample and convolve in one step with `fused_scale` auto."""


class PlainConv(nn.Module):
    """Convolution with equalized learning rate, optionally resampling by nearest neighbor or 2x2 mean; no bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        gain: float = SQRT2,
        use_wscale: bool = True,
        up: bool = False,
        down: bool = False,
        fused: bool = False,
    ):
        super().__init__()
        std = gain / (in_channels * kernel**2) ** 0.5
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel, kernel, std=1.0 if use_wscale else std))
        self.weight_scale = std if use_wscale else 1.0
        self.up, self.down, self.fused = up, down, fused

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.weight_scale
        if self.up and self.fused:
            return F.conv_transpose2d(x, _four_shifts(weight).transpose(0, 1), stride=2, padding=1)
        if self.down and self.fused:
            return F.conv2d(x, _four_shifts(weight) / 4, stride=2, padding=1)
        x = F.conv2d(enlarge(x) if self.up else x, weight, padding=weight.shape[2] // 2)
        return F.avg_pool2d(x, 2) if self.down else x


class BiasedConv(PlainConv):
    """PlainConv with bias and activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, act: str, **options: Any):
        super().__init__(in_channels, out_channels, kernel, **options)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(super().forward(x), self.bias, act=self.act, gain=1.0)


class Blur(nn.Module):
    """FIR filter with zero padding that keeps the size; taps None: the identity."""

    taps: Tensor

    def __init__(self, taps: Sequence[float] | None):
        super().__init__()
        self.pads = None if taps is None else ((len(taps) - 1) // 2, len(taps) // 2) * 2
        self.register_buffer("taps", None if taps is None else fir_filter(taps, separable=True), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.pads is None else upfirdn2d(x, self.taps, padding=self.pads, flip_filter=True)


class StyledLayer(nn.Module):
    """The layers after a convolution: noise, bias, activation, normalization, style (StyleGAN, figure 1b)."""

    noise_const: Tensor | None

    def __init__(
        self,
        channels: int,
        w_dim: int,
        size: Size,
        act: str,
        *,
        use_noise: bool = True,
        use_pixel_norm: bool = False,
        use_instance_norm: bool = True,
        use_styles: bool = True,
        use_wscale: bool = True,
    ):
        super().__init__()
        self.act, self.use_pixel_norm, self.use_instance_norm = act, use_pixel_norm, use_instance_norm
        self.bias = nn.Parameter(torch.zeros(channels))
        self.noise_strength = nn.Parameter(torch.zeros(channels)) if use_noise else None
        self.register_buffer("noise_const", normal(1, 1, *size) if use_noise else None)
        self.style = Dense(w_dim, 2 * channels, use_wscale=use_wscale) if use_styles else None

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        if noise is not None:
            assert self.noise_strength is not None, "this layer has no noise"
            x = x + noise * self.noise_strength[:, None, None]
        x = bias_act(x, self.bias, act=self.act, gain=1.0)
        if self.use_pixel_norm:
            x = x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        if self.use_instance_norm:
            x = x - x.mean(dim=(2, 3), keepdim=True)
            x = x * (x.square().mean(dim=(2, 3), keepdim=True) + 1e-8).rsqrt()
        if self.style is not None:
            scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)  # [N,C,1,1] each
            x = torch.addcmul(shift + x, x, scale)  # x * (scale + 1) + shift
        return x


class StartLayer(nn.Module):
    """The first layer: a learned constant, or a dense layer from w."""

    def __init__(self, channels: int, w_dim: int, size: Size, *, is_constant: bool = True, use_wscale: bool = True):
        super().__init__()
        self.shape = (channels, *size)
        if is_constant:
            self.constant = nn.Parameter(torch.ones(1, *self.shape))
        else:  # the gain is that of PGGAN, where this layer followed a normalized latent
            features = channels * size[0] * size[1]
            self.dense = Dense(w_dim, features, weight_gain=SQRT2 / 4, bias=False, use_wscale=use_wscale)
        self.is_constant = is_constant

    def forward(self, w: Tensor) -> Tensor:
        if self.is_constant:
            return self.constant.expand(w.shape[0], -1, -1, -1)
        return self.dense(w).reshape(-1, *self.shape)


class Style1Block(nn.Module):
    """One resolution of the synthesis: two styled layers and ToRGB; level l uses w number 2l and 2l+1."""

    def __init__(
        self,
        level: int,
        size: Size,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        num_channels: int,
        *,
        act: str,
        blur: Sequence[float] | None,
        fused_scale: str,
        const_input_layer: bool,
        use_wscale: bool,
        **epilogue: bool,
    ):
        super().__init__()
        self.level = level

        def styled() -> StyledLayer:
            return StyledLayer(out_channels, w_dim, size, act, use_wscale=use_wscale, **epilogue)

        if level == 0:
            self.start = StartLayer(out_channels, w_dim, size, is_constant=const_input_layer, use_wscale=use_wscale)
        else:
            fused = _is_fused(fused_scale, size)
            self.up = PlainConv(in_channels, out_channels, 3, use_wscale=use_wscale, up=True, fused=fused)
            self.blur = Blur(blur)
        self.layer0 = styled()
        self.conv = PlainConv(out_channels, out_channels, 3, use_wscale=use_wscale)
        self.layer1 = styled()
        self.torgb = BiasedConv(out_channels, num_channels, 1, "linear", gain=1.0, use_wscale=use_wscale)

    def features(self, x: Tensor | None, w: Sequence[Tensor], noise: Sequence[Tensor | None]) -> Tensor:
        w0, w1 = w[2 * self.level], w[2 * self.level + 1]
        x = self.start(w0) if x is None else self.blur(self.up(x))
        x = self.layer0(x, w0, noise[0])
        return self.layer1(self.conv(x), w1, noise[1])

    def rgb(self, x: Tensor, w: Sequence[Tensor]) -> Tensor:
        return self.torgb(x)


class Style1DiscriminatorBlock(nn.Module):
    """One resolution of the discriminator: FromRGB, convolution, blur, downsampling convolution."""

    def __init__(
        self,
        size: Size,
        in_channels: int,
        out_channels: int,
        num_channels: int,
        *,
        act: str,
        blur: Sequence[float] | None,
        fused_scale: str,
        use_wscale: bool,
    ):
        super().__init__()
        fused = _is_fused(fused_scale, size)
        self.fromrgb = BiasedConv(num_channels, in_channels, 1, act, use_wscale=use_wscale)
        self.conv0 = BiasedConv(in_channels, in_channels, 3, act, use_wscale=use_wscale)
        self.blur = Blur(blur)
        self.conv1 = BiasedConv(in_channels, out_channels, 3, act, use_wscale=use_wscale, down=True, fused=fused)

    def forward(self, x: Tensor | None, image: Tensor | None) -> Tensor:
        x = add_rgb(x, image, self.fromrgb)
        return self.conv1(self.blur(self.conv0(x)))


class Style1Epilogue(nn.Module):
    """The last resolution of the discriminator."""

    def __init__(
        self,
        size: Size,
        channels: int,
        dense_width: int,
        out_features: int,
        num_channels: int,
        *,
        act: str,
        use_wscale: bool,
        mbstd_group_size: int | None,
        mbstd_num_features: int,
    ):
        super().__init__()
        self.mbstd_group_size, self.mbstd_num_features = mbstd_group_size, mbstd_num_features
        self.fromrgb = BiasedConv(num_channels, channels, 1, act, use_wscale=use_wscale)
        self.conv = BiasedConv(channels + mbstd_num_features, channels, 3, act, use_wscale=use_wscale)
        features = channels * size[0] * size[1]
        self.dense0 = Dense(features, dense_width, act, weight_gain=SQRT2, act_gain=1.0, use_wscale=use_wscale)
        self.out = Dense(dense_width, out_features, use_wscale=use_wscale)

    def forward(self, x: Tensor | None, image: Tensor | None, num_batches: int = 1) -> Tensor:
        x = add_rgb(x, image, self.fromrgb)
        if self.mbstd_num_features:
            x = minibatch_stddev(x, self.mbstd_group_size, self.mbstd_num_features, num_batches)
        return self.out(self.dense0(self.conv(x).flatten(1)))  # [N,out]


def _four_shifts(weight: Tensor) -> Tensor:
    """A 3x3 kernel followed (or preceded) by the 2x2 sum, as one 4x4 kernel."""
    weight = F.pad(weight, [1, 1, 1, 1])
    return weight[..., 1:, 1:] + weight[..., :-1, 1:] + weight[..., 1:, :-1] + weight[..., :-1, :-1]


def _is_fused(fused_scale: str, size: Size) -> bool:
    return fused_scale == "on" or (fused_scale == "auto" and min(size) >= FUSED_FROM)
