"""Work on many pictures in tasks of Ray Data: parallel, with results in order and a bounded number of them waiting."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError

from stylegan_ray.cluster.ray_private import Execution

Work = Callable[[Any], Sequence[bytes]]
"""What is done with a plan, say with the numbers of some pictures; its result is a few pieces of bytes."""

TASKS_PER_SEGMENT = 512
MAX_RETRIES = 3
"""How often a task may lose its process."""


def in_order(work: Work, plans: Sequence[Any], max_tasks: int) -> Iterator[Sequence[Any]]:
    """work(plan) for every plan, in the order of the plans, by at most `max_tasks` tasks at a time.

    At most as many results again wait to be taken. The plans are cut into segments, each one execution of Ray Data,
    which keeps statistics of every task; the next segment starts when the one before has no task left to start.
    """
    shared = ray.put(work)
    segments = deque(plans[i : i + TASKS_PER_SEGMENT] for i in range(0, len(plans), TASKS_PER_SEGMENT))
    running: deque[Execution] = deque()
    try:
        while segments or running:
            if segments and not running:
                running.append(_begun(shared, segments[0], max_tasks))
            size, following = len(segments.popleft()), segments[0] if segments else None
            for i in range(size):
                if following and i == max(size - 2 * max_tasks, 0):
                    running.append(_begun(shared, following, max_tasks, after=running[0]))
                yield _pieces(running[0].next_block())
            running.popleft().close()
    except RayError as error:
        raise OSError(
            f"a task that reads pictures was lost; where processes die, memory may be short: {error}"
        ) from None
    finally:
        for execution in running:
            execution.close()


def _begun(shared: ray.ObjectRef, plans: Sequence[Any], max_tasks: int, after: Execution | None = None) -> Execution:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors reach the caller
    dataset = ray.data.read_datasource(PlanDatasource(shared, plans), override_num_blocks=len(plans), num_cpus=1)
    context = dataset.context
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # a row, which is the result of a plan, is a block
    context.execution_no_progress_timeout_s = -1
    context.enable_progress_bars = context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None
    context.issue_detectors_config.detectors = []
    return Execution(dataset, max_tasks=max_tasks, max_ready=max_tasks, max_retries=MAX_RETRIES, after=after)


class PlanDatasource(Datasource):
    """A task of Ray Data for every plan; the work stands in the object store once."""

    def __init__(self, work: ray.ObjectRef, plans: Sequence[Any]) -> None:
        self.work, self.plans = work, plans

    def get_name(self) -> str:
        return "Pictures"

    def estimate_inmemory_data_size(self) -> None:
        return None

    def get_read_tasks(self, parallelism: int, *_args: object, **_options: object) -> list[ReadTask]:
        """The tasks as planned, whatever the parallelism."""
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(done, self.work, plan), unknown) for plan in self.plans]


def done(work: ray.ObjectRef, plan: Any) -> Iterator[pa.Table]:
    """The result for a plan as a block of one row; or its error, to which Ray Data would add words of its own."""
    if work.hex() not in _WORK:
        _WORK.clear()
        _WORK[work.hex()] = ray.get(work)
    try:
        pieces, error = _WORK[work.hex()](plan), None
    except Exception as raised:
        pieces, error = [], pickle.dumps(raised)
    flat = pa.array(pieces, type=pa.large_binary())
    yield pa.table({"pieces": pa.ListArray.from_arrays([0, len(flat)], flat), "error": pa.array([error], pa.binary())})


_WORK: dict[str, Work] = {}
"""The work, unpickled once per process, which keeps its files open from task to task."""


def _pieces(block: pa.Table) -> list[Any]:
    """The pieces of a result, as views into the object store; raises what was raised in the task."""
    if error := block["error"][0].as_py():
        raise pickle.loads(error)
    return [memoryview(piece.as_buffer()) for piece in block["pieces"].combine_chunks().values]
