"""The decoding side of the stream of reals: what a task of Ray Data does; it runs without torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask


@dataclass(frozen=True)
class MicroBatchPlan:
    """The pictures of `count` consecutive sample positions, at a level of their pyramid (0 full size)."""

    start: int
    count: int
    level: int = 0


MinibatchPlan = tuple[MicroBatchPlan, ...]
"""One rank's micro-batches of a minibatch."""

Chunk = tuple[MinibatchPlan, ...]
"""One rank's part of some minibatches, all of one level: what is decoded and handed over in one piece."""


class Source(Protocol):
    """Where pictures come from; see data.reals.RealsSource."""

    def micro_batch(self, positions: np.ndarray, level: int = 0) -> tuple[np.ndarray, np.ndarray]: ...


def first_position(chunk: Chunk) -> int:
    """The sample position that a chunk begins with."""
    return chunk[0][0].start


def positions_of(chunk: Chunk) -> np.ndarray:
    """All sample positions of a chunk, in the order of its micro-batches."""
    plans = [plan for minibatch in chunk for plan in minibatch]
    return np.concatenate([np.arange(plan.start, plan.start + plan.count) for plan in plans])


def block_of(source: Source, chunk: Chunk) -> pa.Table:
    """A chunk's pictures and labels as one row, so that Ray Data never cuts or joins them."""
    images, labels = source.micro_batch(positions_of(chunk), chunk[0][0].level)
    shapes = pa.array([[*images.shape, labels.shape[1]]])
    return pa.table(
        {"start": [first_position(chunk)], "shapes": shapes, "images": _cell(images), "labels": _cell(labels)}
    )


ATTEMPT = "attempt"
"""The column of a block that tells how often its task had been started anew because its process died."""


def task_attempt() -> int:
    """That number for the task that runs here."""
    # Private to Ray, and not in _ray_private.py, which brings torch with it.
    worker = ray._private.worker.global_worker  # type: ignore[attr-defined]
    return worker.core_worker.get_current_task_attempt_number()


def attempt_of(block: pa.Table) -> int:
    """How often the task that made a block had been started anew."""
    return block[ATTEMPT][0].as_py()


def arrays_of(block: pa.Table) -> tuple[int, np.ndarray, np.ndarray]:
    """First position, pictures uint8 [N,C,H,W] and labels float32 [N,L] of a block; views into the object store."""
    *shape, label_size = block["shapes"][0].as_py()
    images = np.frombuffer(block["images"][0].as_buffer(), np.uint8).reshape(shape)
    labels = np.frombuffer(block["labels"][0].as_buffer(), np.float32).reshape(shape[0], label_size)
    return block["start"][0].as_py(), images, labels


def _cell(array: np.ndarray) -> pa.Array:
    offsets = np.array([0, array.nbytes], dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(array))]
    return pa.Array.from_buffers(pa.large_binary(), 1, buffers)


class ChunkDatasource(Datasource):
    """Chunks of a source, several a task; the source stands in the object store once."""

    def __init__(self, source: ray.ObjectRef, tasks: Sequence[Sequence[Chunk]]) -> None:
        self.source, self.tasks = source, tasks

    def get_name(self) -> str:
        return "Reals"

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, parallelism: int, *_args: object, **_options: object) -> list[ReadTask]:
        """The tasks as planned, whatever the parallelism."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(decode, self.source, chunks), unknown) for chunks in self.tasks]


def decode(source: ray.ObjectRef, chunks: Sequence[Chunk]) -> Iterator[pa.Table]:
    """The blocks of some chunks, one after the other."""
    free_logging()
    opened, attempt = _opened(source), task_attempt()
    for chunk in chunks:
        yield block_of(opened, chunk).append_column(ATTEMPT, [[attempt]])


def free_logging() -> None:
    """Lets go of the lock of Python's logging, if a task that was stopped has left it with this thread.

    Ray stops a task by an interrupt, which before Python 3.13 may come just where logging would release its lock. The
    thread that has it notices nothing, but others, which decode here and log as Pillow does, would wait for ever.
    """
    lock: Any = logging._lock  # type: ignore[attr-defined]
    while lock._is_owned():
        lock.release()


@lru_cache(maxsize=4)
def _opened(source: ray.ObjectRef) -> Source:
    """The source, unpickled once per process, which keeps its files open from task to task."""
    return ray.get(source)
