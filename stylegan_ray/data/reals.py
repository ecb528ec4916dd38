"""Real images by sample position: order, reading, replacement of bad images, and flips."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np

from stylegan_ray.config import DataConfig, RunConfig
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.order import balanced_index, image_index
from stylegan_ray.rng import LabelSource, coins, stream_key


class RealsSource:
    """Micro-batches of real images, a function of (data, seed, stream_salt, position) alone.

    Several threads share the images of a micro-batch: Pillow decodes without holding the GIL.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        stream_salt: int = 0,
        mirror_augment: bool = False,
        shuffle: Literal["full", "blocks"] = "full",
        on_bad_image: Literal["error", "skip"] = "error",
        threads: int = 1,
        balance: bool = False,
    ) -> None:
        self.dataset, self.seed, self.stream_salt = dataset, seed, stream_salt
        self.mirror_augment, self.shuffle, self.on_bad_image = mirror_augment, shuffle, on_bad_image
        self.threads, self.balance = threads, balance

    @classmethod
    def of(cls, cfg: RunConfig, dataset: Dataset, stream_salt: int = 0) -> RealsSource:
        """The reals of a run."""
        data = cfg.data
        return cls(
            dataset, cfg.run.seed, stream_salt, data.mirror_augment, data.shuffle, data.on_bad_image,
            cfg.cluster.decode_tasks, data.balance,
        )  # fmt: skip

    def micro_batch(self, positions: np.ndarray, level: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N,C,H>>level,W>>level] and labels float32 [N,L] of the positions.

        Raises BadImage for an image that cannot be decoded (on_bad_image "error"), DataError when there is no other.
        """
        positions = np.asarray(positions, dtype=np.int64)
        indices, mirrored = self.indices(positions), self.mirrored(positions)
        images = np.empty((len(positions), *self.dataset.shape(level)), dtype=np.uint8)

        def fill(places: range) -> None:
            for i in places:
                indices[i], pixels = self._read(int(indices[i]), int(positions[i]), level)
                images[i] = pixels[:, :, ::-1] if mirrored[i] else pixels

        run_in_threads(fill, len(positions), self.threads)
        return images, self.dataset.labels(indices)

    def indices(self, positions: np.ndarray) -> np.ndarray:
        """The image index of each position."""
        if self.balance:
            return balanced_index(self.seed, self.stream_salt, positions, self.dataset.images_by_class)
        num_images, block_rows = self.dataset.num_images, self.dataset.block_rows
        return image_index(self.seed, self.stream_salt, positions, num_images, self.shuffle, block_rows)

    def mirrored(self, positions: np.ndarray) -> np.ndarray:
        """Whether the image at each position is flipped left to right."""
        if not self.mirror_augment:
            return np.zeros(len(positions), dtype=bool)
        return coins(stream_key(self.seed, self.stream_salt, "mirror"), positions)

    def _read(self, index: int, position: int, level: int) -> tuple[int, np.ndarray]:
        try:
            return index, self.dataset.read(index, level)
        except BadImage as bad:
            if self.on_bad_image == "error":
                raise BadImage(bad.name, bad.reason, position) from bad
            return self._next_good(index, position, level)

    def _next_good(self, index: int, position: int, level: int) -> tuple[int, np.ndarray]:
        """The first of the images after a bad one that can be decoded."""
        for instead in self._after(index, position):
            try:
                return instead, self.dataset.read(instead, level)
            except BadImage:
                continue
        what = f"no image of the class of {self.dataset.name(index)!r}" if self.balance else "no image"
        raise DataError(
            f"data.path={self.dataset.path}: {what} can be decoded; check it with `stylegan-ray prepare_data --check`"
        )

    def _after(self, index: int, position: int) -> Iterator[int]:
        """The other images in the order in which they may replace this one: those of its class, or of the pass.

        The beginning follows the end.
        """
        if self.balance:
            of_class = next(images for images in self.dataset.images_by_class if index in images)
            yield from map(int, np.roll(of_class, -1 - np.searchsorted(of_class, index))[:-1])
            return
        num_images = self.dataset.num_images
        data_pass, place = divmod(position, num_images)
        for step in range(1, num_images):
            instead = data_pass * num_images + (place + step) % num_images
            yield int(self.indices(np.array([instead]))[0])


class BalancedLabels:
    """A source of labels for generated images with one entry per class: all are drawn equally often."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.examples = np.array([images[0] for images in dataset.images_by_class])

    @property
    def num_images(self) -> int:
        return len(self.examples)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Labels float32 [n,L]."""
        return self.dataset.labels(self.examples[indices])


def label_source_of(cfg: DataConfig, dataset: Dataset) -> LabelSource:
    """Where labels of generated images are drawn from: those of random images, or with data.balance random classes."""
    return BalancedLabels(dataset) if cfg.balance else dataset


def run_in_threads(work: Callable[[range], None], number: int, threads: int) -> None:
    """Runs `work` on equal ranges of 0..number, one per thread; raises the error of the first range that has one."""
    length = max(-(-number // threads), 1)
    ranges = [range(begin, min(begin + length, number)) for begin in range(0, number, length)]
    run = map if threads == 1 else _pool(threads, os.getpid()).map
    for _ in run(work, ranges):  # waits, and raises errors
        pass


@lru_cache(maxsize=4)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads of this process; `pid` is in the key since threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")
