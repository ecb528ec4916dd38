"""The stream of real images for one training worker: endless minibatches, decoded ahead by Ray Data."""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from ray.exceptions import RayError
from torch import Tensor

from stylegan_ray.cluster.channel import DecodingProcess
from stylegan_ray.cluster.decode_tasks import (
    Chunk,
    Decoded,
    DecodeDatasource,
    MicroBatchPlan,
    Pace,
    Source,
    Task,
    first_position,
    from_block,
)
from stylegan_ray.config import RunConfig
from stylegan_ray.credentials import logger_of
from stylegan_ray.data.reals import RealsSource
from stylegan_ray.train.schedule import places_of_rank, walk

log = logger_of(__name__)

MicroBatches = list[tuple[Tensor, Tensor]]
"""One rank's micro-batches of a minibatch: (uint8 images [N,C,H,W], float32 labels [N,L])."""

MAX_BYTES_PER_CHUNK = 32 << 20
"""Larger groups are decoded minibatch by minibatch; JPEG of 256 px in 2, 8, 32 MiB: 1256, 1370, 1434 images/s."""
MAX_CHUNKS_PER_TASK, MAX_BYTES_PER_TASK = 64, 64 << 20
"""What is decoded again, at most, when the process of a task dies."""
FIRST_CHUNKS, MAX_CHUNKS, MAX_TASKS = 64, 512, 256
"""Length of executions: a short one is planned quickly, each leaves 27 kB behind in Ray, and a process grows with the
longest one, so that lengths which double for an hour look like a leak."""
CLOSE_SEC = 5.0
"""How long close() waits for the tasks that run."""


def stream_of_reals(
    cfg: RunConfig, source: RealsSource, cur_nimg: int, resolution_log2: float, rank: int, world_size: int
) -> RealsStream:
    """This rank's minibatches from a clock value on; decoding begins at once."""
    image_bytes = math.prod(source.dataset.shape())
    groups = groups_of_rank(cfg, cur_nimg, resolution_log2, rank, world_size)
    chunks = (chunk for group in groups for chunk in split_if_large(group, image_bytes))
    return RealsStream(source, chunks, image_bytes, cfg.cluster.read_ahead * cfg.schedule.minibatch_repeats)


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


def split_if_large(group: Chunk, image_bytes: int) -> Sequence[Chunk]:
    """A group as one chunk, or as one per minibatch where it takes long to decode."""
    return [group] if decoded_bytes(group, image_bytes) <= MAX_BYTES_PER_CHUNK else [(part,) for part in group]


def decoded_bytes(chunk: Chunk, image_bytes: int) -> int:
    """Bytes of a chunk's images, of which each takes `image_bytes` at level 0."""
    return sum(plan.count * image_bytes >> 2 * plan.level for minibatch in chunk for plan in minibatch)


class RealsStream(Iterator[MicroBatches]):
    """Minibatches of an endless line of chunks; close() it, or use it as a context manager, to stop decoding.

    The line is cut into finite executions of Ray Data, since statistics of every block are kept while one runs; the
    next one begins when few chunks of the last one are left. Tasks run one after the other and reserve no CPU: they run
    beside workers that hold all CPUs. They wait for their turn (see Pace), so that at most `minibatches_ahead` are
    decoded ahead, or two chunks, if that is more.
    """

    def __init__(self, source: Source, chunks: Iterator[Chunk], image_bytes: int, minibatches_ahead: int = 16) -> None:
        first = next(chunks)
        self.chunks, self.image_bytes = itertools.chain([first], chunks), image_bytes
        self.pace = Pace(max(math.ceil(minibatches_ahead / len(first)), 2))
        self._num_chunks, self._execution_chunks = 0, FIRST_CHUNKS
        self._source = ray.put(source)
        self._executions: deque[Execution] = deque()
        self._minibatches: Iterator[MicroBatches] = iter(())
        self._begin_execution()

    def __next__(self) -> MicroBatches:
        """This rank's micro-batches of the next minibatch."""
        for micro_batches in self._minibatches:
            return micro_batches
        self._minibatches = iter(())  # releases the last block before waiting for the next one
        self._minibatches = self._next_chunk()
        return next(self._minibatches)

    def close(self) -> None:
        """Ends the stream; waits for the tasks that run, as long as they end soon."""
        running = list(self._executions)
        self._stop()
        for execution in running:
            execution.thread.join(CLOSE_SEC)

    def __enter__(self) -> RealsStream:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._stop()

    def decoders(self) -> list[DecodingProcess]:
        """The processes that decode now."""
        return self.pace.decoders()

    def _stop(self) -> None:
        self.chunks, self._minibatches = iter(()), iter(())
        self.pace.close()
        while self._executions:
            self._executions.pop().is_closed = True

    def _next_chunk(self) -> Iterator[MicroBatches]:
        if self._executions and not self._executions[0].chunks:
            self._executions.popleft()
        if not self._executions:
            raise StopIteration
        chunk = self._executions[0].chunks[0]
        try:
            decoded = self._executions[0].next_chunk()
        except Exception as error:
            self._stop()
            raise cause_of(error) from None
        self.pace.take()
        if len(self._executions) == 1 and len(self._executions[0].chunks) <= self.pace.chunks_ahead:
            self._begin_execution()
        return minibatches_of(chunk, decoded.images, decoded.labels)

    def _begin_execution(self) -> None:
        tasks = self._next_tasks()
        if tasks:
            self._executions.append(Execution(self._source, tasks, self.pace))

    def _next_tasks(self) -> list[Task]:
        """The next stretch of the line, cut into tasks."""
        first = next(self.chunks, None)
        if first is None:
            return []
        fitting = MAX_BYTES_PER_TASK // decoded_bytes(first, self.image_bytes)
        per_task = min(max(fitting, 1), MAX_CHUNKS_PER_TASK)
        chunks = [first, *islice(self.chunks, min(self._execution_chunks, per_task * MAX_TASKS) - 1)]
        self._execution_chunks = min(2 * self._execution_chunks, MAX_CHUNKS)
        begin, self._num_chunks = self._num_chunks, self._num_chunks + len(chunks)
        return [Task(begin + i, chunks[i : i + per_task]) for i in range(0, len(chunks), per_task)]


class Execution:
    """A finite execution of Ray Data: its tasks decode chunks, and a thread of this process receives them."""

    def __init__(self, source: ray.ObjectRef, tasks: Sequence[Task], pace: Pace) -> None:
        self.chunks = deque(chunk for task in tasks for chunk in task.chunks)
        """What has not been handed over yet."""
        self.is_closed = False
        self._blocks: queue.SimpleQueue[Decoded | Exception] = queue.SimpleQueue()
        self._attempt = 1
        self.thread = threading.Thread(target=self._receive, args=(source, tasks, pace), daemon=True, name="reals")
        self.thread.start()

    def next_chunk(self) -> Decoded:
        """The next chunk; waits until it is decoded, and raises what ended the execution."""
        decoded = self._blocks.get()
        if isinstance(decoded, Exception):
            raise decoded
        position = first_position(self.chunks.popleft())
        assert decoded.start == position, f"the stream is at {decoded.start} instead of {position}"
        if decoded.attempt > self._attempt:
            log.warning("fault: a decoding process died; its task runs again, from sample position %d on", position)
        self._attempt = decoded.attempt
        return decoded

    def _receive(self, source: ray.ObjectRef, tasks: Sequence[Task], pace: Pace) -> None:
        try:
            for bundle in dataset_of(source, tasks, pace).iter_internal_ref_bundles():
                refs: Any = bundle.block_refs
                for block in ray.get(refs):
                    if not self.is_closed:
                        self._blocks.put(from_block(block))
            raise RuntimeError("Ray Data ended the stream of real images before its last block; was Ray shut down?")
        except Exception as error:
            self._blocks.put(error)  # after the last chunk, nobody reads it


def dataset_of(source: ray.ObjectRef, tasks: Sequence[Task], pace: Pace) -> ray.data.Dataset:
    """A data set of Ray Data that decodes chunks on this node, one block each, in order and quietly."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors reach the caller; a pause is no reason to warn
    dataset = ray.data.read_datasource(
        DecodeDatasource(source, tasks, pace),
        override_num_blocks=len(tasks),
        concurrency=1,
        num_cpus=0,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
        # A node that is about to be taken away runs no new tasks, while its workers go on.
        fallback_strategy=[{"label_selector": {}}],
    )
    context = dataset.context
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # a row, which is a chunk, becomes a block as soon as it is yielded
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None
    context.issue_detectors_config.detectors = []
    return dataset


def minibatches_of(chunk: Chunk, images: np.ndarray, labels: np.ndarray) -> Iterator[MicroBatches]:
    """A chunk's arrays as tensors of their own, minibatch by minibatch."""
    begin = 0
    for minibatch in chunk:
        micro_batches = []
        for plan in minibatch:
            here = slice(begin, begin := begin + plan.count)
            micro_batches.append((torch.from_numpy(images[here].copy()), torch.from_numpy(labels[here].copy())))
        yield micro_batches


def cause_of(error: Exception) -> Exception:
    """What was raised in a task, without the tracebacks of its processes; the error itself where that is Ray's own."""
    cause: BaseException | None = error
    while isinstance(cause, RayError):
        cause = getattr(cause, "cause", None) or cause.__cause__
    return cause if isinstance(cause, Exception) else error
