"""The synthesis network of StyleGAN2 (section 4.1, figure 7): skip, resnet or orig."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_ray.networks.layers import Conv, StyledConv, ToRGB
from stylegan_ray.networks.shapes import Size, level_name
from stylegan_ray.ops import fir_filter, upsample2d

Noise = str | Sequence[Tensor]


class SynthesisBlock(nn.Module):
    """One resolution: (upsampling) convolutions, and what the architecture adds to them."""

    taps: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: Size,
        num_channels: int,
        *,
        architecture: str,
        act: str,
        taps: Sequence[float],
        is_last: bool,
        use_noise: bool,
        clamp: float | None,
        grouped: bool,
    ):
        super().__init__()
        self.size, self.is_first = size, in_channels == 0

        def styled(wide: int, up: int) -> StyledConv:
            options = {"use_noise": use_noise, "clamp": clamp, "grouped": grouped}
            return StyledConv(wide, out_channels, w_dim, size, act, up=up, taps=taps, **options)

        if self.is_first:
            self.constant = nn.Parameter(torch.randn(1, out_channels, *size))
        else:
            self.conv0 = styled(in_channels, up=2)
            self.register_buffer("taps", fir_filter(taps), persistent=False)
        self.conv1 = styled(out_channels, up=1)
        has_skip = architecture == "resnet" and not self.is_first
        self.skip = Conv(in_channels, out_channels, 1, up=2, taps=taps, bias=False) if has_skip else None
        has_rgb = architecture == "skip" or is_last
        self.torgb = ToRGB(out_channels, num_channels, w_dim, clamp=clamp) if has_rgb else None

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Sequence[Tensor], noise: Iterator[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """`ws`: w of conv0, conv1 and torgb, each [N,w]; the first block has no conv0 but takes all three."""
        if x is None:
            x = self.conv1(self.constant.expand(len(ws[1]), -1, -1, -1), ws[1], next(noise))
        elif self.skip is None:
            x = self.conv1(self.conv0(x, ws[0], next(noise)), ws[1], next(noise))
        else:
            y = self.skip(x, gain=0.5**0.5)
            x = self.conv0(x, ws[0], next(noise))
            x = y + self.conv1(x, ws[1], next(noise), gain=0.5**0.5)
        if image is not None:
            image = upsample2d(image, self.taps)
        if self.torgb is not None:
            rgb = self.torgb(x, ws[2])
            image = rgb if image is None else image + rgb
        return x, image  # type: ignore[return-value]


class Synthesis(nn.Module):
    """ws [N,num_ws,w] -> images [N,C,H,W]; layers of 2 a resolution, ToRGB shares its w with the next convolution."""

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
    ):
        super().__init__()
        self.sizes, self.resolution = list(sizes), sizes[-1]
        self.w_dim, self.num_channels = w_dim, num_channels
        self.num_ws = 2 * len(sizes)
        for level, size in enumerate(sizes):
            block = SynthesisBlock(
                widths[level] if level else 0, widths[level + 1], w_dim, size, num_channels, architecture=architecture,
                act=act, taps=taps, is_last=level == len(sizes) - 1, use_noise=use_noise, clamp=clamp, grouped=grouped,
            )  # fmt: skip
            self.add_module(level_name(size), block)

    def forward(self, ws: Tensor, noise: Noise = "const", lod: float = 0.0) -> Tensor:
        refuse_lod(lod)
        check_ws(ws, self.num_ws, self.w_dim)
        w = ws.unbind(dim=1)
        noises = noise_inputs(noise, self._noise_layers(), ws)
        x = image = None
        for level, size in enumerate(self.sizes):
            block_ws = (w[max(2 * level - 1, 0)], w[2 * level], w[2 * level + 1])
            x, image = self.get_submodule(level_name(size))(x, image, block_ws, noises)
        assert image is not None
        return image

    def noise_shapes(self, num: int, lod: float = 0.0) -> list[tuple[int, int, int, int]]:
        """Shapes of the noise tensors that `forward` takes for `num` samples, in its order."""
        refuse_lod(lod)
        return [(num, 1, *layer.size) for layer in self._noise_layers() if layer.noise_const is not None]

    def _noise_layers(self) -> list[StyledConv]:
        return [layer for layer in self.modules() if isinstance(layer, StyledConv)]


def noise_inputs(noise: Noise, layers: Sequence[Any], like: Tensor) -> Iterator[Tensor | None]:
    """One noise tensor (or None) for each of the layers: stored, drawn here, none, or as given."""
    stored: list[Tensor | None] = [layer.noise_const for layer in layers]
    if not isinstance(noise, str):
        return _given_noise(noise, stored, len(like))
    if noise == "const":
        return iter(stored)
    if noise == "none":
        return iter([None] * len(layers))
    if noise != "random":
        raise ValueError(f"noise={noise!r} must be 'const', 'random', 'none' or a list of tensors")
    return (None if s is None else like.new_empty(len(like), 1, *s.shape[2:]).normal_() for s in stored)


def _given_noise(noise: Sequence[Tensor], stored: Sequence[Tensor | None], num: int) -> Iterator[Tensor | None]:
    wanted = [(num, *s.shape[1:]) for s in stored if s is not None]
    if [tuple(n.shape) for n in noise] != wanted:
        raise ValueError(f"noise tensors {[tuple(n.shape) for n in noise]} must be {wanted}: noise_shapes()")
    given = iter(noise)
    return (None if s is None else next(given) for s in stored)


def check_ws(ws: Tensor, num_ws: int, w_dim: int) -> None:
    if ws.ndim != 3 or ws.shape[1:] != (num_ws, w_dim):
        raise ValueError(f"ws {tuple(ws.shape)} must be [N, {num_ws}, {w_dim}]: one w for each layer (mix_styles)")


def refuse_lod(lod: float) -> None:
    if lod != 0:
        raise ValueError(f"lod={lod}: networks of model.family=stylegan2 do not grow; use family revised or stylegan1")
