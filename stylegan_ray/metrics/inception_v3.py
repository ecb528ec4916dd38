"""The Inception network of December 2015, whose features define the Fréchet inception distance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_SIZE = 299
Kernel = int | tuple[int, int]
Step = tuple[int, Kernel | list[Kernel]]  # output maps; kernel, or the kernels of two convolutions side by side


class Conv(nn.Module):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Parallel chains of convolutions whose outputs are concatenated (Szegedy et al. 2016, fig. 5 to 7).

    A chain is a list of (maps, kernel); convolutions are named chain_1, chain_2, ..., a single one chain. Two kernels
    in the last step are two convolutions of the same input, named a and b. A reducing block halves the size.
    """

    def __init__(
        self, inputs: int, chains: Mapping[str, Sequence[Step]], pool: str, pool_maps: int | None, reduces: bool = False
    ) -> None:
        super().__init__()
        self.chains: list[list[tuple[str, ...]]] = []
        self.pool, self.reduces = pool, reduces
        for chain, steps in chains.items():
            self.chains.append(self._add_chain(chain, inputs, steps))
        if pool_maps is not None:
            self.branch_pool = Conv(inputs, pool_maps, 1)

    def _add_chain(self, chain: str, inputs: int, steps: Sequence[Step]) -> list[tuple[str, ...]]:
        names = []
        for number, (outputs, kernels) in enumerate(steps, start=1):
            last = number == len(steps)
            name = chain if len(steps) == 1 else f"{chain}_{number}"
            pair = kernels if isinstance(kernels, list) else [kernels]
            here = (name,) if len(pair) == 1 else (f"{name}a", f"{name}b")
            for part, kernel in zip(here, pair, strict=True):
                halves = self.reduces and last
                setattr(self, part, Conv(inputs, outputs, kernel, 2 if halves else 1, padded=not halves))
            names.append(here)
            inputs = outputs
        return names

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for chain in self.chains:
            y = x
            for names in chain:
                y = torch.cat([getattr(self, name)(y) for name in names], dim=1)
            outputs.append(y)
        return torch.cat([*outputs, self._pooled(x)], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.reduces:
            return F.max_pool2d(x, 3, stride=2)
        # The 2015 graph does not count padding in its means, and pools by maximum in its last block.
        y = F.max_pool2d(x, 3, 1, 1) if self.pool == "max" else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.branch_pool(y)


def _narrow(inputs: int, pool_maps: int) -> Mixed:
    chains = {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
    }
    return Mixed(inputs, chains, "avg", pool_maps)


def _long(maps: int) -> Mixed:
    chains = {
        "branch1x1": [(192, 1)],
        "branch7x7": [(maps, 1), (maps, (1, 7)), (192, (7, 1))],
        "branch7x7dbl": [(maps, 1), (maps, (7, 1)), (maps, (1, 7)), (maps, (7, 1)), (192, (1, 7))],
    }
    return Mixed(768, chains, "avg", 192)


def _wide(inputs: int, pool: str) -> Mixed:
    chains = {
        "branch1x1": [(320, 1)],
        "branch3x3": [(384, 1), (384, [(1, 3), (3, 1)])],
        "branch3x3dbl": [(448, 1), (384, 3), (384, [(1, 3), (3, 1)])],
    }
    return Mixed(inputs, chains, pool, 192)


class InceptionV3(nn.Module):
    """Features [N,2048] and logits without bias [N,1008] of images in 0..255; torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _narrow(192, 32), _narrow(256, 64), _narrow(288, 64)
        chains = {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
        self.Mixed_6a = Mixed(288, chains, "max", None, reduces=True)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _long(128), _long(160), _long(160), _long(192)
        chains = {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]}
        self.Mixed_7a = Mixed(768, chains, "max", None, reduces=True)
        self.Mixed_7b, self.Mixed_7c = _wide(1280, "avg"), _wide(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = (resized_like_tensorflow(images.float(), INPUT_SIZE) - 128) / 128  # [N,3,299,299]
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        features = x.mean(dim=(2, 3))
        return features, features @ self.fc.weight.T  # the inception score uses logits without bias


def resized_like_tensorflow(images: Tensor, size: int) -> Tensor:
    """Images [N,C,size,size], bilinear as in TensorFlow 1: corners not aligned and no shift by half a pixel."""
    if images.shape[2:] == (size, size):
        return images
    return _resized(_resized(images, size, dim=2), size, dim=3)


def _resized(x: Tensor, size: int, dim: int) -> Tensor:
    place = torch.arange(size, device=x.device) * (x.shape[dim] / size)
    low = place.floor().long()
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    fraction = (place - low).to(x.dtype)
    if dim == 2:
        fraction = fraction[:, None]
    return torch.lerp(x.index_select(dim, low), x.index_select(dim, high), fraction)
