"""Draws what augmentation does to images: python -m benchmarks.augment_sheet FILE.png [--section.key V ...]."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stylegan_ray.augment import augmentation_of
from stylegan_ray.config import RunConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.options import train_options
from stylegan_ray.rng import Place, SeededDraws

COLUMNS = 12
ROWS = ({"augment.mode": "noaug"}, *({"augment.mode": "fixed", "augment.p": p} for p in (0.2, 0.5, 0.8)))
LAST_ROW = {"augment.mode": "diffaug"}


def main(words: Sequence[str]) -> int:
    """Writes the sheet: images as they are, with p = 0.2, 0.5 and 0.8 of the pipeline, and by DiffAugment."""
    file, *others = words
    cfg = train_options(["tiny", *others], "augment_sheet").cfg
    sheet = sheet_of(cfg, open_dataset(cfg.data, cfg.run.seed))
    Image.fromarray(sheet.permute(1, 2, 0).squeeze(2).numpy()).save(file)
    print(file)
    return 0


def sheet_of(cfg: RunConfig, dataset: Dataset) -> Tensor:
    """uint8 [C,5H,12W]; every row has the same images and random numbers."""
    chosen = np.linspace(0, dataset.num_images - 1, COLUMNS).round().astype(int)
    images = torch.from_numpy(np.stack([dataset.read(int(i)) for i in chosen])).float() / 127.5 - 1  # [12,C,H,W]
    rows = [augmented(cfg.with_overrides(keys), images) for keys in (*ROWS, LAST_ROW)]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)  # [C,5H,12W]
    return ((sheet.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def augmented(cfg: RunConfig, images: Tensor) -> Tensor:
    """Images [N,C,H,W] as D sees them."""
    augmentation, draws, place = augmentation_of(cfg.augment), SeededDraws(cfg.run.seed), Place(0, 0, 0)
    if augmentation is None:
        return images
    numbers = augmentation.draw(draws, "sheet", place, len(images))
    channels, height, width = images.shape[1:]
    parameters = augmentation.parameters(numbers, cfg.augment.first_p, (channels, height, width), False)
    if augmentation.needs_noise:
        parameters["noise"] = draws.augment_noise("sheet", place, tuple(images.shape), images.device, images.dtype)
    return augmentation.apply(
        images, {name: v.to(images) if isinstance(v, Tensor) else v for name, v in parameters.items()}
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
