"""The small detector that ships with the package, for metrics without downloads; not comparable with Inception's."""

from __future__ import annotations

from importlib import resources

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

FILE = "tiny_detector.safetensors"
INPUT_SIZE = 64
NUM_FEATURES = 96
NUM_CLASSES = 12
WIDTHS = (24, 48, 48, 64, 64, 64)
STRIDES = (2, 2, 1, 2, 1, 2)


class TinyDetector(nn.Module):
    """Six convolutions and a dense layer on 64x64 pixels: features [N,96] and logits of 12 emoji groups [N,12]."""

    def __init__(self, normalized: bool = False) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 5 if n == 0 else 3, s, padding=2 if n == 0 else 1)
            for n, (i, o, s) in enumerate(zip(inputs, WIDTHS, STRIDES, strict=True))
        )
        # Training uses batch normalization; the shipped weights have it folded into the convolutions.
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) if normalized else nn.Identity() for width in WIDTHS)
        self.features = nn.Linear(sum(WIDTHS[2:5:2]) + WIDTHS[-1] * 16, NUM_FEATURES)
        self.classes = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(features, logits) of images [N,1 or 3,H,W] in 0..255, uint8 or float."""
        features = self.embed(to_input(images))
        return features, self.classes(features)

    def embed(self, x: Tensor) -> Tensor:
        """Features [N,96] of images [N,3,64,64] in -1..1."""
        maps = self.maps(x)
        pooled = [maps[number].mean(dim=(2, 3)) for number in (2, 4)]  # texture: present anywhere in the image
        return self.features(torch.cat([*pooled, maps[-1].flatten(1)], dim=1))  # [N,48+64+1024]

    def maps(self, x: Tensor) -> list[Tensor]:
        """Activations [N,width,h,w] of every convolution, for images [N,3,64,64] in -1..1."""
        maps = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
            maps.append(x)
        return maps


def to_input(images: Tensor) -> Tensor:
    """Images in 0..255 of any size and 1 or 3 channels, as [N,3,64,64] in -1..1."""
    x = images.float().div(127.5).sub(1)
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    (height, rest_down), (width, rest_across) = (divmod(side, INPUT_SIZE) for side in x.shape[2:])
    if height and width and not rest_down and not rest_across:
        x = F.avg_pool2d(x, (height, width))  # integer factors by the mean, without blur
    else:
        x = F.interpolate(x, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True, align_corners=False)
    return x


def shipped_weights() -> bytes:
    """The content of the packaged weight file."""
    return (resources.files("stylegan_ray.metrics") / FILE).read_bytes()


def load_tiny_detector(content: bytes | None = None) -> TinyDetector:
    """The detector with the shipped weights, or with those of another such file; computes in float32."""
    detector = TinyDetector()
    state = load_safetensors(shipped_weights() if content is None else content)
    detector.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return detector.eval().requires_grad_(False)
