"""Layers with equalized learning rate: weights are stored raw and scaled when used (PGGAN, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylegan_ray.networks.shapes import Size
from stylegan_ray.ops import ACTIVATIONS, bias_act, conv2d_resample, fir_filter, modulated_conv2d

DEMODULATION_EPS = 1e-8


def normal(*shape: int, std: float = 1.0) -> Tensor:
    """Normal values from torch's global generator, which draws all initial values."""
    x = torch.empty(*shape)
    return x if x.is_meta else x.normal_(std=std)  # on the meta device a draw would cost seconds of imports


class Dense(nn.Module):
    """act(x W^T + b) * act_gain, weight [out,in].

    `lrmul` scales the learning rate: weights start with std 1 / lrmul and are multiplied by lrmul when used. Without
    `use_wscale` the equalizing factor is part of the initial values instead.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        act: str = "linear",
        *,
        lrmul: float = 1.0,
        weight_gain: float = 1.0,
        act_gain: float | None = None,
        bias: bool = True,
        bias_init: float = 0.0,
        use_wscale: bool = True,
    ):
        super().__init__()
        std = weight_gain / in_features**0.5
        self.weight = nn.Parameter(normal(out_features, in_features, std=(1.0 if use_wscale else std) / lrmul))
        self.bias = nn.Parameter(torch.full((out_features,), bias_init)) if bias else None
        self.act = act
        self.act_gain = ACTIVATIONS[act].gain if act_gain is None else act_gain
        self.weight_scale = (std if use_wscale else 1.0) * lrmul
        self.bias_scale = lrmul

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight_scale * self.act_gain  # relu and lrelu are homogeneous: the gain may come first
        if self.bias is None:
            x = (x * scale) @ self.weight.t()
        else:
            x = torch.addmm(self.bias, x, self.weight.t(), beta=self.bias_scale * self.act_gain, alpha=scale)
        return bias_act(x, act=self.act, gain=1.0, overwrite=True)


class Conv(nn.Module):
    """Convolution with FIR resampling, bias and activation, in the data type of x; weight [O,I,k,k].

    The kernel of an upsampling layer is stored flipped, as the transposed convolution uses it.
    """

    taps: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        act: str = "linear",
        *,
        up: int = 1,
        down: int = 1,
        taps: Sequence[float] = (1.0,),
        bias: bool = True,
        clamp: float | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("taps", fir_filter(taps, separable=True), persistent=False)
        self.act, self.clamp, self.up, self.down = act, clamp, up, down
        self.act_gain = ACTIVATIONS[act].gain
        self.weight_scale = 1.0 / (in_channels * kernel**2) ** 0.5

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        gain *= self.act_gain  # relu and lrelu are homogeneous: the gain may come first
        weight = (self.weight * (self.weight_scale * gain)).to(x.dtype)
        bias = None if self.bias is None else (self.bias * gain).to(x.dtype)
        pad = int(self.weight.shape[2]) // 2  # a tracer makes tensors of sizes
        x = conv2d_resample(x, weight, self.taps, self.up, self.down, pad, flip_weight=self.up == 1, bias=bias)
        clamp = _scaled(self.clamp, gain / self.act_gain)
        return bias_act(x, act=self.act, gain=1.0, clamp=clamp, overwrite=True)


class StyledConv(nn.Module):
    """Modulated, demodulated 3x3 convolution, noise, bias, activation, in the data type of x (StyleGAN2, figure 2d)."""

    taps: Tensor
    noise_const: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: Size,
        act: str,
        *,
        up: int = 1,
        taps: Sequence[float] = (1.0,),
        use_noise: bool = True,
        clamp: float | None = None,
        grouped: bool = False,
    ):
        super().__init__()
        self.affine = Dense(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(normal(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(())) if use_noise else None
        self.register_buffer("noise_const", normal(1, 1, *size) if use_noise else None)
        self.register_buffer("taps", fir_filter(taps, separable=True), persistent=False)
        self.act, self.clamp, self.up, self.grouped, self.size = act, clamp, up, grouped, size
        self.act_gain = ACTIVATIONS[act].gain

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None, gain: float = 1.0) -> Tensor:
        clamp = _scaled(self.clamp, gain)
        gain *= self.act_gain  # relu and lrelu are homogeneous: the gain may come first
        if noise is not None:
            assert self.noise_strength is not None, "this layer has no noise"
            noise = (noise * (self.noise_strength * gain)).to(x.dtype)  # [N,1,H,W]
        x = modulated_conv2d(
            x, self.weight, self.affine(w), noise, up=self.up, padding=1, resample_filter=self.taps, gain=gain,
            flip_weight=self.up == 1, grouped=self.grouped, eps=DEMODULATION_EPS * self.weight[0].numel(),
        )  # fmt: skip
        return bias_act(x, (self.bias * gain).to(x.dtype), act=self.act, gain=1.0, clamp=clamp, overwrite=True)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to pixels, in the data type of x, without demodulation, noise and activation."""

    def __init__(self, in_channels: int, num_channels: int, w_dim: int, clamp: float | None = None):
        super().__init__()
        self.affine = Dense(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(normal(num_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        gain = 1.0 / self.weight.shape[1] ** 0.5
        bias = self.bias[:, None, None].to(x.dtype)
        x = modulated_conv2d(x, self.weight, self.affine(w), bias, demodulate=False, gain=gain)
        return bias_act(x, clamp=self.clamp)


def minibatch_stddev(x: Tensor, group_size: int | None, num_features: int = 1, num_batches: int = 1) -> Tensor:
    """x [N,C,H,W] with `num_features` more maps: the standard deviation over groups of samples (PGGAN, section 3).

    Groups are strided: group m of M contains samples m, m + M, m + 2M, ...; `group_size` None: the whole batch. x may
    be `num_batches` concatenated batches, which share no group. Raises ValueError for a batch that is no multiple of
    the group size.
    """
    n, c, h, w = len(x) // num_batches, *x.shape[1:]
    group = n if group_size is None else min(group_size, n)
    if n % group:
        raise ValueError(
            f"a batch of {n} cannot be cut into groups of model.mbstd_group_size={group}; use a multiple of {group}"
        )
    y = x.reshape(num_batches, group, -1, num_features, c // num_features, h, w)  # [B,G,M,F,C/F,H,W]  M = N/G groups
    y = y.var(dim=1, unbiased=False).add(1e-8).sqrt()  # [B,M,F,C/F,H,W]  stddev over the group
    y = y.mean(dim=(3, 4, 5)).repeat(1, group, 1).flatten(0, 1)  # [B*N,F]
    return torch.cat([x, y[:, :, None, None].expand(-1, -1, h, w)], dim=1)  # [B*N,C+F,H,W]


def _scaled(clamp: float | None, gain: float) -> float | None:
    return None if clamp is None else clamp * gain
