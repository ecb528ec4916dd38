"""Images in the middle of a black square, as StyleGAN2's data set of LSUN cars has them."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from stylegan_ray.data.dataset import Dataset, Images
from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.errors import DataError


@dataclass(frozen=True)
class LetterboxedImages:
    """Reads images with black rows above and below, or black columns beside them."""

    images: Images
    side: int

    @property
    def decoder(self) -> Decoder:
        return self.images.decoder

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,side>>level,side>>level]; raises what the images raise."""
        image = self.images.read(entry, name, level)
        channels, height, width = image.shape
        side = self.side >> level
        square = np.zeros((channels, side, side), dtype=np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[:, top : top + height, left : left + width] = image
        return square


def letterbox(dataset: Dataset) -> Dataset:
    """The data set with images in black squares; raises DataError where they are squares already."""
    height, width = dataset.resolution
    if height == width:
        raise DataError(
            f"--letterbox has nothing to do with images of {height}x{width}; give the size of the part of the square "
            "that they fill, as in --resolution 384x512"
        )
    padded, side = copy(dataset), max(height, width)
    padded.images, padded.resolution = LetterboxedImages(dataset.images, side), (side, side)
    padded.fingerprint = f"{dataset.fingerprint}-letterbox"
    return padded
