"""The decode side of the stream of reals: what a task of Ray Data runs, in a process that never imports torch."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask


@dataclass(frozen=True)
class MicroBatchPlan:
    """The images of `count` consecutive sample positions at a level of their pyramid (0: full size)."""

    start: int
    count: int
    level: int = 0


MinibatchPlan = tuple[MicroBatchPlan, ...]
"""One rank's micro-batches of a minibatch."""

Chunk = tuple[MinibatchPlan, ...]
"""One rank's part of some minibatches, all at one level: decoded and handed over as one block."""


MAX_RETRIES = 10
"""How often a task may lose its process; an image that crashes the decoder ends the run after that."""


class Source(Protocol):
    """Where images come from; see data.reals.RealsSource."""

    def micro_batch(self, positions: np.ndarray, level: int = 0) -> tuple[np.ndarray, np.ndarray]: ...


def first_position(chunk: Chunk) -> int:
    """The sample position that a chunk begins with."""
    return chunk[0][0].start


def positions_of(chunk: Chunk) -> np.ndarray:
    """All sample positions of a chunk, in the order of its micro-batches."""
    plans = [plan for minibatch in chunk for plan in minibatch]
    return np.concatenate([np.arange(plan.start, plan.start + plan.count) for plan in plans])


class Decoded(NamedTuple):
    """The content of a block."""

    start: int
    """The first sample position."""
    attempt: int
    """1, or more where the task's process died and Ray started it anew."""
    images: np.ndarray
    """uint8 [N,C,H,W]."""
    labels: np.ndarray
    """float32 [N,L]."""


def to_block(decoded: Decoded) -> pa.Table:
    """A block of one row, so that Ray Data never splits or joins what a chunk holds."""
    shapes = pa.array([[*decoded.images.shape, decoded.labels.shape[1]]])
    cells = {"images": _cell(decoded.images), "labels": _cell(decoded.labels)}
    return pa.table({"start": [decoded.start], "attempt": [decoded.attempt], "shapes": shapes, **cells})


def from_block(block: pa.Table) -> Decoded:
    """The content of a block; its arrays are views into the object store."""
    *shape, label_size = block["shapes"][0].as_py()
    images = np.frombuffer(block["images"][0].as_buffer(), np.uint8).reshape(shape)
    labels = np.frombuffer(block["labels"][0].as_buffer(), np.float32).reshape(shape[0], label_size)
    return Decoded(block["start"][0].as_py(), block["attempt"][0].as_py(), images, labels)


def _cell(array: np.ndarray) -> pa.Array:
    offsets = np.array([0, array.nbytes], dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(array))]
    return pa.Array.from_buffers(pa.large_binary(), 1, buffers)


class DecodeDatasource(Datasource):
    """Chunks of a source, decoded by one task; the source is stored once, in the object store."""

    def __init__(self, source: ray.ObjectRef, chunks: Sequence[Chunk]) -> None:
        self.source, self.chunks = source, chunks
        self.starts = Path(tempfile.gettempdir(), f"stylegan_ray-decode-{uuid.uuid4().hex}")

    def get_name(self) -> str:
        return "Reals"

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, parallelism: int, *_args: object, **_options: object) -> list[ReadTask]:
        """The one task, whatever the parallelism."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(decode, self.source, self.chunks, self.starts, MAX_RETRIES), unknown)]


def decode(source: ray.ObjectRef, chunks: Sequence[Chunk], starts: Path, max_retries: int) -> Iterator[pa.Table]:
    """Yields a block for each chunk.

    Ray starts a read task anew whenever its process dies, without limit, and does not tell it. So each start appends a
    byte to a file of this node, which is deleted when the task ends otherwise.
    """
    with starts.open("ab") as file:
        file.write(b".")
    attempt = starts.stat().st_size
    try:
        if attempt > 1 + max_retries:
            raise RuntimeError(
                f"real images could not be decoded from sample position {first_position(chunks[0])} on: {attempt - 1} "
                f"processes died there; an image may crash the decoder (data.path), or memory may be short (a smaller "
                f"cluster.read_ahead needs less)"
            )
        opened = _opened(source)
        for chunk in chunks:
            images, labels = opened.micro_batch(positions_of(chunk), chunk[0][0].level)
            yield to_block(Decoded(first_position(chunk), attempt, images, labels))
    finally:
        starts.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _opened(source: ray.ObjectRef) -> Source:
    """The source, unpickled once per process: its files stay open from task to task."""
    return ray.get(source)
