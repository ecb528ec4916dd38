"""VGG16: features for precision and recall, and with LPIPS weights for path lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stylegan_ray.metrics.inception_v3 import resized_like_tensorflow

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def vgg_layers() -> nn.Sequential:
    """The convolutions and poolings."""
    layers: list[nn.Module] = []
    inputs = 3
    for block in WIDTHS:
        for width in block:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGG16(nn.Module):
    """Configuration D of Simonyan and Zisserman 2015 up to its second dense layer; tensors have torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg_layers()
        dense = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
        self.classifier = nn.Sequential(*dense)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """Activations [N,4096] of the second dense layer for images in 0..255."""
        x = self.features(_normalized(resized_like_tensorflow(images.float(), 224)))
        return self.classifier(x.flatten(1)), None


class PerceptualVGG16(nn.Module):
    """LPIPS (Zhang et al. 2018) as features: their squared distance is the perceptual distance."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(vgg_layers())
        self.weights = nn.ParameterList(torch.ones(block[-1]) for block in WIDTHS)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """Features [N,F] of images in 0..255, without resizing; F depends on their size."""
        x, parts = _normalized(images.float()), []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                parts.append(self._weighted(x, len(parts)))
                if len(parts) == len(WIDTHS):  # the last pooling has no use, and images below 32 pixels nothing to pool
                    break
            x = layer(x)
        return torch.cat(parts, dim=1), None

    def _weighted(self, x: Tensor, block: int) -> Tensor:
        # The clamp changes no value; without it the gradient where all channels are 0 is NaN.
        unit = x / (x.square().sum(dim=1, keepdim=True).clamp(min=1e-20).sqrt() + 1e-10)
        scale = self.weights[block].clamp(min=0).sqrt()[:, None, None] / (x.shape[2] * x.shape[3]) ** 0.5
        return (unit * scale).flatten(1)  # [N,C*h*w]


def perceptual_from(backbone: dict[str, Tensor], heads: dict[str, Tensor]) -> PerceptualVGG16:
    """LPIPS from torchvision's VGG16 weights and its authors' linear weights (lin0.model.1.weight, ...)."""
    network = PerceptualVGG16()
    network.layers.load_state_dict({k.removeprefix("features."): v for k, v in backbone.items() if k.startswith("f")})
    numbers = range(len(WIDTHS))
    network.weights.load_state_dict({str(block): heads[f"lin{block}.model.1.weight"].flatten() for block in numbers})
    return network


def _normalized(images: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, DEVIATION))
    return (images / 255 - mean) / deviation
