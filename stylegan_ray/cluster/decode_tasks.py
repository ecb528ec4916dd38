"""The decode side of the stream of reals: what a task of Ray Data runs, in a process that never imports torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from stylegan_ray.cluster.channel import DecodingProcess
from stylegan_ray.interrupts import hear_sigint
from stylegan_ray.lease import start_of
from stylegan_ray.scratch import delete_folder, new_folder


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


POLL_SEC = 0.02
"""How often a task that waits for its turn looks."""


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
    """1, or more where the task's process died and Ray restarted it."""
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


class Task(NamedTuple):
    """Consecutive chunks of a stream, decoded by one task."""

    number: int
    """How many chunks of the stream come before."""
    chunks: Sequence[Chunk]


class Pace:
    """What a stream and its tasks tell each other, by files on their node that grow by a byte per event.

    Ray Data bounds read-ahead by bytes and its executor spins while blocks wait for a slow consumer, so tasks wait
    instead. Ray restarts a read task whenever its process dies, without limit and without telling it, so tasks count
    their starts. On another node, where tasks run while this one is being taken away, they do neither.
    """

    def __init__(self, chunks_ahead: int) -> None:
        self.chunks_ahead, self.node_id = chunks_ahead, ray.get_runtime_context().get_node_id()
        self.folder = new_folder()
        self._append("taken", 0)

    def take(self) -> None:
        """The consumer takes the next chunk."""
        self._append("taken")

    def close(self) -> None:
        """Ends the stream: tasks stop before their next chunk."""
        delete_folder(self.folder)

    def wait_for_turn(self, number: int) -> bool:
        """Waits until a chunk may be decoded, by its number in the stream; False: the stream is closed."""
        while self._is_here():
            try:
                if number < (self.folder / "taken").stat().st_size + self.chunks_ahead:
                    return True
            except FileNotFoundError:
                return False
            time.sleep(POLL_SEC)
        return True

    def count_start(self, task: Task) -> int:
        """How often a task has started, this time included."""
        with suppress(FileNotFoundError):
            if self._is_here():
                return self._append(f"started-{task.number}")
        return 1

    def note_position(self, task: Task, position: int) -> None:
        """The task decodes from a sample position on: where its process dies, if it does."""
        if self._is_here():
            with suppress(FileNotFoundError):
                decoder = DecodingProcess(os.getpid(), start_of(os.getpid()), position)
                (self.folder / f"position-{task.number}").write_text(json.dumps(decoder))

    def last_position(self, task: Task) -> int:
        """Where the process of a task has died."""
        decoder = _read_decoder(self.folder / f"position-{task.number}")
        return decoder.position if decoder else first_position(task.chunks[0])

    def decoders(self) -> list[DecodingProcess]:
        """The processes that decode."""
        return [decoder for path in sorted(self.folder.glob("position-*")) if (decoder := _read_decoder(path))]

    def end_task(self, task: Task) -> None:
        """The task is done."""
        for name in ("started", "position"):
            (self.folder / f"{name}-{task.number}").unlink(missing_ok=True)

    def _append(self, name: str, count: int = 1) -> int:
        with (self.folder / name).open("ab") as file:
            file.write(b"." * count)
            return file.tell()

    def _is_here(self) -> bool:
        return ray.get_runtime_context().get_node_id() == self.node_id


def _read_decoder(path: Path) -> DecodingProcess | None:
    try:
        return DecodingProcess(*json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):  # no task has come so far, or it writes just now
        return None


class DecodeDatasource(Datasource):
    """Chunks of a source, several per task; the source is stored once, in the object store."""

    def __init__(self, source: ray.ObjectRef, tasks: Sequence[Task], pace: Pace) -> None:
        self.source, self.tasks, self.pace = source, tasks, pace

    def get_name(self) -> str:
        return "Reals"

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, parallelism: int, *_args: object, **_options: object) -> list[ReadTask]:
        """The tasks as planned, whatever the parallelism."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(decode, self.source, task, self.pace, MAX_RETRIES), unknown) for task in self.tasks]


def decode(source: ray.ObjectRef, task: Task, pace: Pace, max_retries: int) -> Iterator[pa.Table]:
    """Yields a block for each chunk, when its turn comes."""
    hear_sigint()
    attempt, opened = pace.count_start(task), _opened(source)
    # A restarted task has to yield its blocks again: an error in place of one that has arrived is lost.
    ends_at = pace.last_position(task) if attempt > 1 + max_retries else None
    for number, chunk in enumerate(task.chunks, task.number):
        if not pace.wait_for_turn(number):
            return
        position = first_position(chunk)
        if position == ends_at:
            raise RuntimeError(
                f"real images could not be decoded from sample position {position} on: {attempt - 1} processes died; "
                f"an image there may crash the decoder (data.path), or memory may be short (a smaller "
                f"cluster.read_ahead needs less)"
            )
        pace.note_position(task, position)
        images, labels = opened.micro_batch(positions_of(chunk), chunk[0][0].level)
        yield to_block(Decoded(position, attempt, images, labels))
    pace.end_task(task)


@lru_cache(maxsize=4)
def _opened(source: ray.ObjectRef) -> Source:
    """The source, unpickled once per process: its files stay open from task to task."""
    return ray.get(source)
