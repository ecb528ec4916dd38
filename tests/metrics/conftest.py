"""A small generator and data set to measure, and a cache of their own for every test."""

import numpy as np
import pytest
import torch
from support.data_sets import label_json, opened, write_folder
from torch import nn

from stylegan_ray.metrics.detectors import Detector


class PaintedSynthesis(nn.Module):
    """Paints a picture in the color of w, brighter to the right, with noise on it."""

    num_ws = 2

    def __init__(self, resolution):
        super().__init__()
        self.resolution = resolution
        self.strength = nn.Parameter(torch.tensor(0.1))

    def noise_shapes(self, num, lod=0.0):
        return [(num, 1, *self.resolution)]

    def forward(self, ws, noise="const", lod=0.0):
        across = torch.linspace(-0.2, 0.2, self.resolution[1], dtype=ws.dtype)
        images = 0.3 * ws.mean(dim=1)[:, :3, None, None] + across.expand(1, 3, *self.resolution)
        return images if noise == "const" else images + self.strength * noise[0]


class PaintedGenerator(nn.Module):
    """A generator whose w is its z, moved by the label."""

    def __init__(self, label_size=0, resolution=(16, 16)):
        super().__init__()
        self.z_dim = self.w_dim = 4
        self.label_size, self.num_channels, self.resolution = label_size, 3, resolution
        self.synthesis = PaintedSynthesis(resolution)
        self.register_buffer("w_avg", torch.full((4,), 0.5))
        self.labels_seen = []

    def mapping(self, z, labels=None):
        if not self.label_size:
            return z
        self.labels_seen.append(labels)
        return z + labels.argmax(dim=1, keepdim=True)


class ColorModule(nn.Module):
    """Mean color and contrast as features; brightness as an attribute's logit."""

    def forward(self, images):
        x = images.float() / 255
        features = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)
        return features, torch.cat([features[:, :1] - 0.5, 0.5 - features[:, :1]], dim=1)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """No test sees weights or features of another."""
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STYLEGAN_RAY_DETECTORS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def color_detector():
    """A detector that costs nothing."""
    return Detector("color", "c0ffee", "none", ColorModule())


@pytest.fixture
def painted():
    """A generator that costs nothing."""
    return PaintedGenerator()


@pytest.fixture
def pictures():
    """100 pictures {name: pixels}, half of them of class 1 and reddish."""
    draw = np.random.default_rng(0)
    colors = draw.integers(40, 200, (100, 1, 1, 3)) + np.array([40, 0, 0]) * (np.arange(100) % 2)[:, None, None, None]
    return (colors + draw.integers(-20, 20, (100, 16, 16, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def data(tmp_path, pictures):
    """The pictures as a data set with two classes."""
    from PIL import Image

    names = [f"{number:03d}.png" for number in range(100)]
    files = {name: Image.fromarray(pixels) for name, pixels in zip(names, pictures, strict=True)}
    labels = label_json([[name, number % 2] for number, name in enumerate(names)])
    return opened(write_folder(tmp_path / "pictures", {**files, "dataset.json": labels}), cond=True)
