"""A note of every picture that was trained on, so that a test can prove that none was skipped or shown twice.

Each worker process writes a file of its own into the folder: a first line with rank, world size and the clock value
at which it begins, then a line per minibatch with its clock value and a checksum of this rank's pictures and labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stylegan_ray import distributed
from stylegan_ray.config import RunConfig
from stylegan_ray.train.loop import MicroBatches
from stylegan_ray.train.schedule import walk
from stylegan_ray.train.state import TrainState


def traced(
    minibatches: Iterator[MicroBatches], folder: str | None, cfg: RunConfig, state: TrainState, resolution_log2: float
) -> Iterator[MicroBatches]:
    """The minibatches as they are, each noted when the loop takes it."""
    if folder is None:
        return minibatches
    rank, world_size = distributed.rank(), distributed.world_size()
    path = Path(folder, f"{time.time_ns()}-{rank}-{os.getpid()}.jsonl")
    return _noted(minibatches, path, cfg, state.cur_nimg, resolution_log2, rank, world_size)


def _noted(
    minibatches: Iterator[MicroBatches],
    path: Path,
    cfg: RunConfig,
    begin: int,
    resolution_log2: float,
    rank: int,
    world_size: int,
) -> Iterator[MicroBatches]:
    with path.open("ab", buffering=0) as file:
        write(file, {"begin": begin, "rank": rank, "world_size": world_size})
        for group in walk(cfg, begin, resolution_log2):
            for nimg in group.minibatch_nimgs():
                micro_batches, size = next(minibatches), group.schedule.minibatch_size
                write(file, {"nimg": nimg, "num": size, "sha256": checksum(micro_batches), "time": time.time()})
                yield micro_batches


def write(file: Any, row: dict[str, Any]) -> None:
    file.write(f"{json.dumps(row)}\n".encode())


def checksum(micro_batches: MicroBatches) -> str:
    """Of pictures and labels, in order."""
    digest = hashlib.sha256()
    for images, labels in micro_batches:
        digest.update(images.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
