"""Progressive growing (PGGAN, section 2): networks that fade from one resolution to the next.

`lod` 0 is the full resolution, 1 half of it; fractions blend both. Only the levels in use are computed. Images always
have the full size: G upsamples by nearest neighbors, D downsamples by means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_ray.networks.discriminator import check_images, label_logit
from stylegan_ray.networks.mapping import checked_labels
from stylegan_ray.networks.recompute import called
from stylegan_ray.networks.shapes import Size, level_name
from stylegan_ray.networks.synthesis import Noise, layer_ws, noise_inputs, noise_shapes


class GrowingSynthesis(nn.Module):
    """ws [N,num_ws,w] -> images [N,C,H,W], from blocks (smallest first) with methods `features` and `rgb`."""

    def __init__(self, sizes: Sequence[Size], blocks: Sequence[nn.Module], w_dim: int, num_channels: int):
        super().__init__()
        self.sizes, self.resolution = list(sizes), sizes[-1]
        self.w_dim, self.num_channels, self.num_ws = w_dim, num_channels, 2 * len(sizes)
        for size, block in zip(sizes, blocks, strict=True):
            self.add_module(level_name(size), block)

    def forward(self, ws: Tensor, noise: Noise = "const", lod: float = 0.0) -> Tensor:
        blocks, fade = self._in_use(lod)
        w = layer_ws(ws, self.num_ws, self.w_dim)
        before, x = None, None
        for block, inputs in zip(blocks, noise_inputs(noise, blocks, ws), strict=True):
            before, x = x, called(block, block.features, x, w, inputs)
        image = blocks[-1].rgb(x, w)
        if fade:
            image = torch.lerp(image, enlarge(blocks[-2].rgb(before, w)), fade)
        return enlarge(image, 2 ** (len(self.sizes) - len(blocks)))

    def noise_shapes(self, num: int, lod: float = 0.0) -> list[tuple[int, ...]]:
        """Shapes of the noise tensors that `forward` takes for `num` samples at this lod, in its order."""
        return noise_shapes(self._in_use(lod)[0], num)

    def _in_use(self, lod: float) -> tuple[list[Any], float]:
        whole, fade = split_lod(lod, len(self.sizes))
        return list(self.children())[: len(self.sizes) - whole], fade


class GrowingDiscriminator(nn.Module):
    """images [N,C,H,W] (and labels [N,L]) -> logits [N,1], from blocks (largest first) with `fromrgb`.

    `num_batches` equal batches may be concatenated: minibatch standard deviations do not mix them. Always computes in
    full precision.
    """

    def __init__(self, sizes: Sequence[Size], blocks: Sequence[nn.Module], num_channels: int, label_size: int):
        super().__init__()
        self.sizes, self.resolution = list(sizes), sizes[-1]
        self.num_channels, self.label_size = num_channels, label_size
        for size, block in zip(reversed(sizes), blocks, strict=True):
            self.add_module(level_name(size), block)

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        lod: float = 0.0,
        num_batches: int = 1,
        full_precision: bool = True,
    ) -> Tensor:
        check_images(images, self.num_channels, self.resolution)
        labels = checked_labels(labels, self.label_size, images)
        whole, fade = split_lod(lod, len(self.sizes))
        blocks: list[Any] = list(self.children())[whole:]
        x, image = None, F.avg_pool2d(images, 2**whole) if whole else images
        for block in blocks[:-1]:
            x = called(block, block, x, image)
            if image is not None and fade:
                x = torch.lerp(x, blocks[1].fromrgb(F.avg_pool2d(image, 2)), fade)
            image = None
        return label_logit(blocks[-1](x, image, num_batches), labels)


def split_lod(lod: float, num_levels: int) -> tuple[int, float]:
    """Number of levels not in use, and the weight of the next lower one; raises ValueError outside the levels."""
    if not 0 <= lod <= num_levels - 1:
        raise ValueError(f"lod={lod} must be between 0 and {num_levels - 1}, the lowest resolution of this network")
    return int(lod), lod - int(lod)


def enlarge(x: Tensor, factor: int = 2) -> Tensor:
    """x with every pixel repeated `factor` times in both directions."""
    if factor == 1:
        return x
    n, c, h, w = x.shape
    x = x[:, :, :, None, :, None].expand(-1, -1, -1, factor, -1, factor)  # [N,C,H,f,W,f]
    return x.reshape(n, c, h * factor, w * factor)
