"""Trains the shipped detector on OpenMoji: `python -m stylegan_ray.metrics.train_tiny_detector`.

It learns the class of an image, its colors on a coarse grid, and the kind and strength of degradations, so that its
features represent both content and quality. Training takes about 8 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stylegan_ray.metrics.degradations import KINDS, degrade, random_strengths
from stylegan_ray.metrics.tiny_detector import (
    FILE,
    INPUT_SIZE,
    NUM_CLASSES,
    NUM_FEATURES,
    TinyDetector,
    load_tiny_detector,
    to_input,
)

THUMBNAIL = 6
LOSS_WEIGHTS = (0.7, 30.0, 1.5)
VARIANCE = 100.0  # total variance of the features of training images, for a readable scale of distances


class Student(nn.Module):
    """The detector in training, with heads that are discarded."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = TinyDetector(normalized=True)
        self.strengths = nn.Linear(NUM_FEATURES, len(KINDS))
        self.thumbnail = nn.Linear(NUM_FEATURES, 3 * THUMBNAIL**2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.detector.embed(x)
        return self.detector.classes(features), self.strengths(features), self.thumbnail(features)


def folded(learnt: TinyDetector) -> TinyDetector:
    """An equal detector without batch normalization."""
    detector = TinyDetector()
    detector.load_state_dict(learnt.state_dict(), strict=False)
    fused = (fuse_conv_bn_eval(*pair) for pair in zip(learnt.eval().convs, learnt.norms, strict=True))  # type: ignore[arg-type]
    detector.convs = nn.ModuleList(fused)
    return detector.eval().requires_grad_(False)


def degraded_batches(
    images: Tensor, labels: Tensor, batch_size: int, num_steps: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches (inputs, labels, strengths, thumbnails) of degraded images."""
    for _ in range(num_steps):
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        clean = images[chosen].float().div(255)
        if torch.rand((), generator=generator) < 0.5:  # as data sets of lower resolution are upsampled
            size = int(torch.randint(24, 56, (), generator=generator))
            clean = F.interpolate(clean, (size, size), mode="bilinear", antialias=True)
        mirrored = torch.rand(batch_size, generator=generator) < 0.5
        clean = torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        strengths = random_strengths(batch_size, generator)
        inputs = to_input(degrade(clean, strengths, generator) * 255)
        yield inputs, labels[chosen], strengths, F.adaptive_avg_pool2d(inputs, THUMBNAIL).flatten(1)


def losses_of(
    student: Student, rarity: Tensor, inputs: Tensor, labels: Tensor, strengths: Tensor, thumbnails: Tensor
) -> Tensor:
    """The three losses [3] of a batch."""
    classes, guessed_strengths, guessed_thumbnails = student(inputs)
    return torch.stack([
        F.cross_entropy(classes, labels, weight=rarity, label_smoothing=0.1),
        F.mse_loss(guessed_strengths, strengths.sqrt()),
        F.mse_loss(guessed_thumbnails, thumbnails),
    ])  # fmt: skip


def train(images: Tensor, labels: Tensor, num_steps: int, batch_size: int, seed: int) -> TinyDetector:
    """A detector trained on images uint8 [N,3,64,64] of classes [N]."""
    torch.manual_seed(seed)
    student = Student().train()
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=num_steps)
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.bincount(labels, minlength=NUM_CLASSES).clamp(min=1)
    rarity = (frequency.float().mean() / frequency).sqrt()
    start, means = time.monotonic(), torch.zeros(3)
    for step, (inputs, classes, strengths, thumbnails) in enumerate(
        degraded_batches(images, labels, batch_size, num_steps, generator)
    ):
        losses = losses_of(student, rarity, inputs, classes, strengths, thumbnails)
        optimizer.zero_grad()
        (losses * torch.tensor(LOSS_WEIGHTS)).sum().backward()
        optimizer.step()
        schedule.step()
        means = means.lerp(losses.detach(), 0.02 if step else 1.0)
        if step % 100 == 99:
            means_by_name = ", ".join(
                f"{name} {value:.3f}" for name, value in zip(("class", "strength", "thumbnail"), means, strict=True)
            )
            print(f"step {step + 1}/{num_steps}: {means_by_name}, {time.monotonic() - start:.0f} s", flush=True)
    return scaled(folded(student.detector), images)


def scaled(detector: TinyDetector, images: Tensor) -> TinyDetector:
    """The detector with features of mean 0 and total variance VARIANCE on these images, and equal logits."""
    features = torch.cat([detector(part)[0] for part in images.split(64)])
    mean, factor = features.mean(dim=0), (VARIANCE / features.var(dim=0).sum()).sqrt()
    detector.classes.bias.data.add_(detector.classes.weight @ mean)
    detector.classes.weight.data.div_(factor)
    detector.features.bias.data.sub_(mean)
    for parameter in detector.features.parameters():
        parameter.data.mul_(factor)
    return detector


def accuracy(detector: TinyDetector, images: Tensor, labels: Tensor) -> float:
    """Share of images whose class is predicted."""
    guesses = torch.cat([detector(part)[1].argmax(dim=1) for part in images.split(64)])
    return float((guesses == labels).float().mean())


def openmoji() -> tuple[Tensor, Tensor]:
    """Images uint8 [N,3,64,64] and classes [N] of the built-in data set."""
    from stylegan_ray.config import DataConfig
    from stylegan_ray.data import open_dataset

    data = open_dataset(DataConfig(resolution=INPUT_SIZE, cond=True))
    images = np.stack([data.read(index) for index in range(data.num_images)])
    labels = data.labels(np.arange(data.num_images)).argmax(axis=1)
    return torch.from_numpy(images), torch.from_numpy(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name(FILE))
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images, labels = openmoji()
    held_out = torch.arange(len(images)) % 10 == 0
    detector = train(images[~held_out], labels[~held_out], args.steps, args.batch_size, args.seed)
    state = {name: tensor.half().contiguous() for name, tensor in detector.state_dict().items()}
    content = save_safetensors(state, metadata={"trained_on": f"{len(images)} images of OpenMoji"})
    args.output.write_bytes(content)
    share = accuracy(load_tiny_detector(content), images[held_out], labels[held_out])
    print(f"{args.output}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    print(f"predicts the class of {share:.0%} of {int(held_out.sum())} held-out images")


if __name__ == "__main__":
    main()
