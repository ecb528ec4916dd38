"""The synthesis network of StyleGAN2 (section 4.1, figure 7): skip, resnet or orig."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_ray.networks.layers import Conv, StyledConv, ToRGB, normal
from stylegan_ray.networks.recompute import called
from stylegan_ray.networks.shapes import Size, is_lowp, level_name
from stylegan_ray.ops import fir_filter, to_memory_format, upsample2d

Noise = str | Sequence[Tensor]


class SynthesisBlock(nn.Module):
    """One resolution: (upsampling) convolutions, and the architecture's skip connection.

    The convolutions of level l use w number 2l-1 and 2l, ToRGB uses 2l+1, like the next convolution. Features are
    computed in `dtype` (None: the data type of w), the image in that of w.
    """

    taps: Tensor

    def __init__(
        self,
        level: int,
        size: Size,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        num_channels: int,
        *,
        architecture: str,
        act: str,
        taps: Sequence[float],
        is_last: bool,
        use_noise: bool,
        clamp: float | None,
        grouped: bool,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.level, self.dtype = level, dtype

        def styled(wide: int, up: int) -> StyledConv:
            options = {"use_noise": use_noise, "clamp": clamp, "grouped": grouped}
            return StyledConv(wide, out_channels, w_dim, size, act, up=up, taps=taps, **options)

        if level == 0:
            self.constant = nn.Parameter(normal(1, out_channels, *size))
        else:
            self.conv0 = styled(in_channels, up=2)
            self.register_buffer("taps", fir_filter(taps, separable=True), persistent=False)
        self.conv1 = styled(out_channels, up=1)
        has_skip = architecture == "resnet" and level > 0
        self.skip = Conv(in_channels, out_channels, 1, up=2, taps=taps, bias=False) if has_skip else None
        has_rgb = architecture == "skip" or is_last
        self.torgb = ToRGB(out_channels, num_channels, w_dim, clamp=clamp) if has_rgb else None

    def forward(
        self, x: Tensor | None, image: Tensor | None, w: Sequence[Tensor], noise: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """Features [N,O,H,W] of this resolution, and the image so far plus its ToRGB."""
        x = self.features(x, w, noise)
        if image is not None:
            image = upsample2d(image, self.taps)
        if self.torgb is not None:
            image = self.rgb(x, w) if image is None else image + self.rgb(x, w)
        return x, image

    def features(self, x: Tensor | None, w: Sequence[Tensor], noise: Sequence[Tensor | None]) -> Tensor:
        w1 = w[2 * self.level]
        if x is None:
            constant = to_memory_format(self.constant, w1.dtype)
            return self.conv1(constant.expand(w1.shape[0], -1, -1, -1), w1, noise[0])
        w0, x = w[2 * self.level - 1], to_memory_format(x, self.dtype or w1.dtype)
        if self.skip is None:
            return self.conv1(self.conv0(x, w0, noise[0]), w1, noise[1])
        y = self.skip(x, gain=0.5**0.5)
        return y + self.conv1(self.conv0(x, w0, noise[0]), w1, noise[1], gain=0.5**0.5)

    def rgb(self, x: Tensor, w: Sequence[Tensor]) -> Tensor:
        assert self.torgb is not None
        w_rgb = w[2 * self.level + 1]
        return self.torgb(x, w_rgb).to(w_rgb.dtype)


class Synthesis(nn.Module):
    """ws [N,num_ws,w] -> images [N,C,H,W]."""

    def __init__(
        self,
        sizes: Sequence[Size],
        widths: Sequence[int],
        w_dim: int,
        num_channels: int,
        *,
        architecture: str = "skip",
        act: str = "lrelu",
        taps: Sequence[float] = (1, 3, 3, 1),
        use_noise: bool = True,
        clamp: float | None = None,
        grouped: bool = False,
        num_lowp_res: int = 0,
        lowp_dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__()
        self.sizes, self.resolution = list(sizes), sizes[-1]
        self.w_dim, self.num_channels, self.num_ws = w_dim, num_channels, 2 * len(sizes)
        for level, size in enumerate(sizes):
            block = SynthesisBlock(
                level, size, widths[level], widths[level + 1], w_dim, num_channels, architecture=architecture, act=act,
                taps=taps, is_last=level == len(sizes) - 1, use_noise=use_noise, clamp=clamp, grouped=grouped,
                dtype=lowp_dtype if is_lowp(level, len(sizes), num_lowp_res) else None,
            )  # fmt: skip
            self.add_module(level_name(size), block)

    def forward(self, ws: Tensor, noise: Noise = "const", lod: float = 0.0) -> Tensor:
        refuse_lod(lod)
        w = layer_ws(ws, self.num_ws, self.w_dim)
        blocks, x, image = list(self.children()), None, None
        for block, inputs in zip(blocks, noise_inputs(noise, blocks, ws), strict=True):
            x, image = called(block, block, x, image, w, inputs)
        assert image is not None
        return image

    def noise_shapes(self, num: int, lod: float = 0.0) -> list[tuple[int, ...]]:
        """Shapes of the noise tensors that `forward` expects for `num` samples, in the order of layers."""
        refuse_lod(lod)
        return noise_shapes(self.children(), num)


def noise_layers(blocks: Iterable[nn.Module]) -> list[Any]:
    """All layers with a noise input, in the order of the forward pass."""
    return [layer for block in blocks for layer in block.modules() if hasattr(layer, "noise_const")]


def noise_shapes(blocks: Iterable[nn.Module], num: int) -> list[tuple[int, ...]]:
    stored = [layer.noise_const for layer in noise_layers(blocks)]
    return [(num, *s.shape[1:]) for s in stored if s is not None]


def noise_inputs(noise: Noise, blocks: Sequence[nn.Module], like: Tensor) -> list[list[Tensor | None]]:
    """For each block one noise tensor (or None) for each of its layers.

    They are stored ones ("const"), drawn here ("random"), "none", or given. Raises ValueError for another word and for
    tensors of other shapes.
    """
    inputs = _noise_of_layers(noise, [layer.noise_const for layer in noise_layers(blocks)], like)
    return [[next(inputs) for _ in noise_layers([block])] for block in blocks]


def _noise_of_layers(noise: Noise, stored: Sequence[Tensor | None], like: Tensor) -> Iterator[Tensor | None]:
    if not isinstance(noise, str):
        return _given_noise(noise, stored, len(like))
    if noise == "const":
        return iter(stored)
    if noise == "none":
        return iter([None] * len(stored))
    if noise != "random":
        raise ValueError(f"noise={noise!r} must be 'const', 'random', 'none' or a list of tensors")
    return (None if s is None else like.new_empty(len(like), 1, *s.shape[2:]).normal_() for s in stored)


def _given_noise(noise: Sequence[Tensor], stored: Sequence[Tensor | None], num: int) -> Iterator[Tensor | None]:
    wanted = [(num, *s.shape[1:]) for s in stored if s is not None]
    if [tuple(n.shape) for n in noise] != wanted:
        raise ValueError(f"noise tensors {[tuple(n.shape) for n in noise]} must be {wanted}: noise_shapes()")
    given = iter(noise)
    return (None if s is None else next(given) for s in stored)


def layer_ws(ws: Tensor, num_ws: int, w_dim: int) -> tuple[Tensor, ...]:
    """One w [N,w] for each layer from ws [N,num_ws,w]; raises ValueError for another shape."""
    if ws.ndim != 3 or ws.shape[1:] != (num_ws, w_dim):
        raise ValueError(f"ws {tuple(ws.shape)} must be [N, {num_ws}, {w_dim}]: one w for each layer (mix_styles)")
    return ws.unbind(dim=1)


def refuse_lod(lod: float) -> None:
    if lod != 0:
        raise ValueError(f"lod={lod}: networks of model.family=stylegan2 do not grow; use family revised or stylegan1")
