"""A trace of every image that was trained on: it proves that none was skipped or shown twice.

`python -m benchmarks.cluster.trace FOLDER ...` is the train command with an observer of what it trains on. Each
worker process writes a file of its own into the folder: a first line with rank, world size and the clock value at which
it begins, then a line per minibatch with its clock value and a checksum of this rank's images and labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylegan_ray import distributed
from stylegan_ray.config import RunConfig
from stylegan_ray.train.loop import MicroBatches
from stylegan_ray.train.schedule import walk


@dataclass(frozen=True)
class Trace:
    """An observer of a run (see cluster.worker.Observer) that writes to a folder."""

    folder: str

    def __call__(
        self, minibatches: Iterator[MicroBatches], cfg: RunConfig, cur_nimg: int, resolution_log2: float
    ) -> Iterator[MicroBatches]:
        """The minibatches as they are; a row is written for each when the loop takes it."""
        rank = distributed.rank()
        path = Path(self.folder, f"{time.time_ns()}-{rank}-{os.getpid()}.jsonl")
        with path.open("ab", buffering=0) as file:
            write(file, {"begin": cur_nimg, "rank": rank, "world_size": distributed.world_size()})
            for group in walk(cfg, cur_nimg, resolution_log2):
                for nimg in group.minibatch_nimgs():
                    micro_batches, size = next(minibatches), group.schedule.minibatch_size
                    write(file, {"nimg": nimg, "num": size, "sha256": checksum(micro_batches), "time": time.time()})
                    yield micro_batches


def write(file: Any, row: dict[str, Any]) -> None:
    file.write(f"{json.dumps(row)}\n".encode())


def checksum(micro_batches: MicroBatches) -> str:
    """The SHA-256 of images and labels, in order."""
    digest = hashlib.sha256()
    for images, labels in micro_batches:
        digest.update(images.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()


def main(folder: str, words: Sequence[str]) -> int:
    """The train command, traced."""
    from benchmarks.cluster import trace  # by its own name, under which workers find it
    from stylegan_ray.cli import run
    from stylegan_ray.cluster import launch
    from stylegan_ray.options import train_options

    def train(words: Sequence[str]) -> int:
        options = train_options(words)
        return launch.train(options.cfg, options.resume_from, observer=trace.Trace(folder))

    return run(train, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
