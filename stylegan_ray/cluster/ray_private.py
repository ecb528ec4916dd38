"""Every private import of Ray, made for and tried with its 2.60 line."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import ray
from ray._private.internal_api import node_stats
from ray.data import Dataset
from ray.data._internal import stats
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.logical.operators import Read

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces.physical_operator import PhysicalOperator

PACE_KEY = "stylegan_ray.pace"
WAIT_SEC = 1.0
"""How long the executor sleeps at most before it looks up; the consumer wakes it earlier."""
WAIT_FOR_TURN_SEC = 0.1


class Execution:
    """One running execution of a data set of Ray Data: one block a task output, handed out in order.

    Ray Data bounds its read-ahead in bytes, looks for work in a loop that spins while its consumer is slow, and asks
    the cluster for CPUs. Here at most `max_ready` blocks wait for the consumer and at most `max_tasks` tasks run, each
    stopped in the middle with one block in hand; the executor's thread sleeps until the consumer takes a block.
    """

    def __init__(
        self, dataset: Dataset, max_tasks: int, max_ready: int, max_retries: int, after: Execution | None = None
    ) -> None:
        self.max_tasks, self.max_ready = max_tasks, max_ready
        self.key, self.closed, self.taken = uuid.uuid4().hex, False, threading.Condition()
        self._after = after
        _prepare(dataset, self.key, max_retries)
        _EXECUTIONS[self.key] = self
        self._executor = dataset._create_executor()
        self._bundles = dataset._build_bundle_iterator(self._executor)
        self._executor.set_external_consumer_bytes(0)  # or it takes over one block a turn, however many wait

    def next_block(self) -> Any:
        """The next block, out of the object store without a copy; raises what a task raised."""
        bundle: Any = next(self._bundles, None)
        if bundle is None:
            raise RuntimeError("Ray Data ended the stream of real pictures before its last block; was Ray shut down?")
        with self.taken:
            self.taken.notify_all()
        (entry,) = bundle.blocks
        return ray.get(entry.ref)

    def close(self) -> None:
        """Stops the executor and its tasks."""
        with self.taken:
            self.closed = True
            self.taken.notify_all()
        self._executor.shutdown(force=False)  # forced, a task counts as crashed and is tried again
        _EXECUTIONS.pop(self.key, None)
        self._after = None

    @property
    def is_done(self) -> bool:
        """Whether every block has been produced; some may not have been taken yet."""
        return not self._executor.is_alive()

    def wait_for_turn(self) -> None:
        """Returns when the execution before this one has no task left, so that its process is free for ours."""
        while self._after is not None and not self._after.is_done and not self.closed:
            with self.taken:
                self.taken.wait(WAIT_FOR_TURN_SEC)
        self._after = None

    def wait_while_full(self, num_ready: Any) -> bool:
        """Sleeps while the consumer has enough; whether it still has."""
        with self.taken:
            if num_ready() >= self.max_ready and not self.closed:
                self.taken.wait(WAIT_SEC)
        return num_ready() >= self.max_ready


_EXECUTIONS: dict[str, Execution] = {}
"""Executions of this process by key: a policy is made by Ray Data and knows only its data set's context."""


class PacePolicy(BackpressurePolicy):
    """Tells Ray Data's executor when to start a task and when to take over a block; asked in its thread, every turn."""

    def __init__(self, data_context: Any, topology: Any, resource_manager: Any) -> None:
        super().__init__(data_context, topology, resource_manager)
        self._pace = _EXECUTIONS[data_context.get_config(PACE_KEY)]

    def can_add_input(self, op: PhysicalOperator) -> bool:
        """Whether one more task may start: bounded in number, and by blocks that arrived before their turn."""
        running = op.num_active_tasks()
        blocks = running + self._topology[op].total_enqueued_output_blocks()
        return running < self._pace.max_tasks and blocks < self._pace.max_tasks + self._pace.max_ready

    def max_task_output_bytes_to_read(self, op: PhysicalOperator) -> int | None:
        """0 while enough blocks wait for the consumer, else no limit."""
        if not op.input_dependencies:
            return None
        self._pace.wait_for_turn()
        queue = self._topology[op].output_queue
        return 0 if self._pace.wait_while_full(lambda: queue.num_blocks) else None


def _prepare(dataset: Dataset, key: str, max_retries: int) -> None:
    context, read = dataset.context, dataset._logical_plan.dag
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [PacePolicy])
    context.set_config(PACE_KEY, key)
    context._max_num_blocks_in_streaming_gen_buffer = 1
    assert isinstance(read, Read) and read.ray_remote_args is not None
    read.ray_remote_args["max_retries"] = max_retries  # Ray Data's own number is infinite


def object_store_bytes() -> int:
    """Bytes in the object stores of all nodes."""
    addresses = [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"]]
    told = [node_stats(host, port, include_memory_info=False) for host, port in addresses]
    return sum(node.store_stats.object_store_bytes_used for node in told)


class _NoCounts:
    """Stands where Ray Data keeps the actor that counts its blocks for a dashboard; anything may be told to it."""

    def __getattr__(self, name: str) -> _NoCounts:
        return self

    def remote(self, *_figures: Any) -> None:
        """Forgets them."""


def count_nothing() -> None:
    """Keeps Ray Data in this process from starting an actor for its figures."""
    stats.get_or_create_stats_actor = _NoCounts
