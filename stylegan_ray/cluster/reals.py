"""The stream of real pictures for one training worker: an endless line of minibatches, decoded ahead by Ray Data."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import ray
import ray.data
import torch
from ray.exceptions import OutOfMemoryError, RayError, WorkerCrashedError
from torch import Tensor

from stylegan_ray.cluster.decoding import (
    Chunk,
    ChunkDatasource,
    MicroBatchPlan,
    Source,
    arrays_of,
    attempt_of,
    first_position,
)
from stylegan_ray.cluster.ray_private import Execution, count_nothing
from stylegan_ray.cluster.resources import COLLECT_FIGURES
from stylegan_ray.config import RunConfig
from stylegan_ray.data.reals import RealsSource
from stylegan_ray.train.schedule import places_of_rank, walk

log = logging.getLogger(__name__)

MicroBatches = list[tuple[Tensor, Tensor]]
"""One rank's micro-batches of a minibatch: (uint8 images [N,C,H,W], float32 labels [N,L])."""

MAX_BYTES_PER_CHUNK = 32 << 20
"""Larger groups go minibatch by minibatch; JPEG of 256 px in blocks of 2, 8, 32 MiB: 1256, 1370, 1434 pictures/s."""
MAX_CHUNKS_PER_TASK = 64
MAX_BYTES_PER_TASK = 64 << 20
"""Decoded bytes of a task: what is decoded again, at most, when its process dies."""
MAX_RETRIES = 10
"""How often a task may lose its process, so that a picture that crashes the decoder ends the run after all."""
FIRST_SEGMENT_CHUNKS, MAX_SEGMENT_CHUNKS = 64, 4096
"""Segments grow: a short one is planned quickly, and each leaves some 70 kB in the process for good."""
MAX_SEGMENT_TASKS = 256
PREPARE_SEC = 3.0
"""How long before the end of a segment the next one is prepared."""


def stream_of_reals(
    cfg: RunConfig, source: RealsSource, cur_nimg: int, resolution_log2: float, rank: int, world_size: int
) -> RealsStream:
    """This rank's minibatches from a clock value on; decoding begins at once."""
    picture_bytes = math.prod(source.dataset.shape())
    groups = groups_of_rank(cfg, cur_nimg, resolution_log2, rank, world_size)
    chunks = (chunk for group in groups for chunk in handy(group, picture_bytes))
    ahead = cfg.cluster.read_ahead * cfg.schedule.minibatch_repeats
    return RealsStream(source, chunks, picture_bytes, ahead)


def groups_of_rank(
    cfg: RunConfig, cur_nimg: int, resolution_log2: float, rank: int, world_size: int
) -> Iterator[Chunk]:
    """What a rank reads from a clock value on: its part of each group of minibatches, endless."""
    for group in walk(cfg, cur_nimg, resolution_log2):
        schedule = group.schedule
        yield tuple(
            tuple(
                MicroBatchPlan(place.position, schedule.minibatch_gpu, schedule.level)
                for place in places_of_rank(nimg, schedule, rank, world_size)
            )
            for nimg in group.minibatch_nimgs()
        )


def handy(group: Chunk, picture_bytes: int) -> Sequence[Chunk]:
    """A group in one piece, or minibatch by minibatch where that much would take long to decode."""
    return [group] if decoded_bytes(group, picture_bytes) <= MAX_BYTES_PER_CHUNK else [(part,) for part in group]


def decoded_bytes(chunk: Chunk, picture_bytes: int) -> int:
    """Size of a chunk's pictures, of which each takes so many bytes at level 0."""
    return sum(plan.count * picture_bytes >> 2 * plan.level for minibatch in chunk for plan in minibatch)


class RealsStream(Iterator[MicroBatches]):
    """Minibatches of a line of chunks; close it, or use it as a context manager, to stop its tasks.

    The line is cut into segments, each one execution of Ray Data: an execution that never ends keeps statistics of
    every block, and a generator task that never ends starts from its beginning when its process dies. Tasks ask for no
    CPU, so they run beside workers that have taken all; one runs at a time, and the blocks ahead are bounded instead.
    """

    def __init__(
        self,
        source: Source,
        chunks: Iterator[Chunk],
        picture_bytes: int,
        minibatches_ahead: int = 16,
    ) -> None:
        self.chunks, self.picture_bytes, self.minibatches_ahead = iter(chunks), picture_bytes, minibatches_ahead
        self._segments: deque[Segment] = deque()
        self._segment_chunks = FIRST_SEGMENT_CHUNKS
        self._minibatches: Iterator[MicroBatches] = iter(())
        self._source = ray.put(source)
        self._begin_segment()

    def __next__(self) -> MicroBatches:
        """This rank's micro-batches of the next minibatch."""
        for micro_batches in self._minibatches:
            return micro_batches
        self._minibatches = iter(())  # lets go of the old block before it waits for the new one
        self._minibatches = self._next_chunk()
        return next(self._minibatches)

    def close(self) -> None:
        """Stops decoding; the stream ends here."""
        self.chunks, self._minibatches = iter(()), iter(())
        while self._segments:
            self._segments.pop().close()

    def __enter__(self) -> RealsStream:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()

    def _next_chunk(self) -> Iterator[MicroBatches]:
        if self._segments and not self._segments[0].chunks:
            self._segments.popleft().close()
        if not self._segments or (len(self._segments) == 1 and self._segments[0].ends_soon()):
            self._begin_segment()
        if not self._segments:
            raise StopIteration
        try:
            return self._segments[0].next_chunk()
        except RayError as error:
            start = first_position(self._segments[0].chunks[0])
            self.close()
            raise clear_error(error, start) from None

    def _begin_segment(self) -> None:
        tasks = self._next_tasks()
        if tasks:
            after = self._segments[-1] if self._segments else None
            chunks_ahead = math.ceil(self.minibatches_ahead / len(tasks[0][0]))
            self._segments.append(Segment(self._source, tasks, chunks_ahead, after))

    def _next_tasks(self) -> list[list[Chunk]]:
        """The next stretch of the line, cut into tasks."""
        first = next(self.chunks, None)
        if first is None:
            return []
        fitting = MAX_BYTES_PER_TASK // decoded_bytes(first, self.picture_bytes)
        per_task = min(max(fitting, 1), MAX_CHUNKS_PER_TASK)
        num_chunks = min(self._segment_chunks, per_task * MAX_SEGMENT_TASKS)
        self._segment_chunks = min(2 * self._segment_chunks, MAX_SEGMENT_CHUNKS)
        stretch = [first, *islice(self.chunks, num_chunks - 1)]
        return [stretch[i : i + per_task] for i in range(0, len(stretch), per_task)]


class Segment:
    """A stretch of the line while Ray Data decodes it; its tasks wait until the segment before has none left."""

    def __init__(
        self,
        source: ray.ObjectRef,
        tasks: Sequence[Sequence[Chunk]],
        chunks_ahead: int,
        after: Segment | None = None,
    ) -> None:
        self.chunks = deque(chunk for task in tasks for chunk in task)
        self.margin = chunks_ahead + 2
        self.num_taken, self.taken_since = 0, math.inf
        self.attempt = 0
        """How often the task of the last block had been started anew."""
        self.execution = Execution(
            dataset_of(source, tasks),
            max_tasks=1,
            max_ready=max(chunks_ahead - 1, 1),
            max_retries=MAX_RETRIES,
            after=after.execution if after else None,
        )

    def next_chunk(self) -> Iterator[MicroBatches]:
        """The minibatches of the next chunk; waits until it is decoded."""
        block = self.execution.next_block()
        start, images, labels = arrays_of(block)
        if (attempt := attempt_of(block)) > self.attempt:
            log.warning("fault: a decoding process died; its task runs again, from sample position %d on", start)
        self.attempt = attempt
        chunk = self.chunks.popleft()
        assert start == first_position(chunk), f"the stream stands at {start} instead of {first_position(chunk)}"
        self.taken_since = min(self.taken_since, time.monotonic())
        self.num_taken += 1
        return minibatches_of(chunk, images, labels)

    def ends_soon(self) -> bool:
        """Whether it is time to prepare the next segment, at the pace of the consumer so far."""
        sec_per_chunk = (time.monotonic() - self.taken_since) / max(self.num_taken, 1)
        return len(self.chunks) <= self.margin or len(self.chunks) * sec_per_chunk < PREPARE_SEC

    def close(self) -> None:
        self.execution.close()


def minibatches_of(chunk: Chunk, images: np.ndarray, labels: np.ndarray) -> Iterator[MicroBatches]:
    """A chunk's arrays as tensors of their own, minibatch by minibatch."""
    begin = 0
    for minibatch in chunk:
        micro_batches = []
        for plan in minibatch:
            here = slice(begin, begin := begin + plan.count)
            micro_batches.append((torch.from_numpy(images[here].copy()), torch.from_numpy(labels[here].copy())))
        yield micro_batches


def dataset_of(source: ray.ObjectRef, tasks: Sequence[Sequence[Chunk]]) -> ray.data.Dataset:
    """A data set of Ray Data that decodes the tasks on this node, one block a chunk, in order and quietly."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors reach the caller; a pause is no reason to warn
    if os.environ.get(COLLECT_FIGURES) == "0":
        count_nothing()
    dataset = ray.data.read_datasource(
        ChunkDatasource(source, tasks),
        override_num_blocks=len(tasks),
        num_cpus=0,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
        # A node that has had notice that it will be taken away runs no new tasks; its workers go on until it goes.
        fallback_strategy=[{"label_selector": {}}],
    )
    context = dataset.context
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # a row, which is a chunk, becomes a block as soon as it is there
    context.execution_no_progress_timeout_s = -1  # a training may pause for as long as it likes
    context.enable_progress_bars = context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None
    context.issue_detectors_config.detectors = []
    return dataset


def clear_error(error: RayError, position: int) -> Exception:
    """What went wrong in a task that decodes from a sample position on, without the tasks' own traces."""
    cause: BaseException | None = error
    while isinstance(cause, RayError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    if isinstance(cause, Exception):
        return cause
    if not isinstance(error, (WorkerCrashedError, OutOfMemoryError)):
        return error  # a node on its way out, which says nothing about the pictures
    return RuntimeError(
        f"real pictures could not be decoded from sample position {position} on: {error}; where processes die, a "
        f"picture may crash the decoder or memory be short (a smaller cluster.read_ahead needs less)"
    )
