"""Every private import of Ray, made for and tried with its 2.60 line."""

from __future__ import annotations

import asyncio
import signal
import threading
import uuid
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import ray
from ray._private import worker
from ray._private.internal_api import node_stats
from ray._private.node import Node
from ray._raylet import PlacementGroupID
from ray.data import Dataset
from ray.data._internal import stats
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.logical.operators import Read
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.train.torch import TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup, remove_placement_group

if TYPE_CHECKING:
    from ray.data._internal.execution.interfaces.physical_operator import PhysicalOperator

TorchBackend = _TorchBackend
"""What connects the workers of a TorchTrainer."""
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


def no_log_monitor() -> AbstractContextManager[Any]:
    """Inside, ray.init starts no process that reads the logs of all others to print them: log_to_driver is off."""
    return patch.object(Node, "start_log_monitor")


def mute_raylets() -> None:
    """Keeps what nodes say about their processes out of this driver's terminal; it stays in Ray's logs.

    A node warns when many processes start at once, as they do where several runs begin; ray.init has no switch for it.
    """
    worker._worker_logs_enabled = False


class Trainer(TorchTrainer):
    """A TorchTrainer with fewer processes: each imports Ray, some torch, too, and takes 1 % of a core while it idles.

    fit() is called in an actor. The controller stands in the thread that calls it, not in an actor of its own, and is
    gone when the actor is, as a controller is gone when its owner is. No actor manages data sets: it is given none.
    None watches the controller to free its placement group, either: the next attempt does, see `free_workers`.
    """

    def _create_default_callbacks(self) -> list[Any]:
        needless = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if type(callback) not in needless]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        controller = Controller(**parts)
        asyncio.run(controller.run())
        return controller.get_result()


class NotedWorkers(WorkerGroup):
    """Workers whose placement group is known under their run's name, so that it can be freed without them."""

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Any:
        handle = super()._create_placement_group(scaling_config, worker_group_context)
        run = self._train_run_context.get_run_config().name
        _internal_kv_put(key_of_workers(run), handle.placement_group.id.binary())
        return handle


class Controller(TrainController):
    """Ray Train's controller with such workers."""

    worker_group_cls = NotedWorkers


def key_of_workers(run: str | None) -> str:
    """Where this job notes the placement group of a run."""
    return f"stylegan_ray/{ray.get_runtime_context().get_job_id()}/{run}"


def free_workers(run: str | None) -> None:
    """Frees what the workers of a run have reserved, if whoever led them died and could not.

    Ray frees the group of a dead actor only when its whole job has ended.
    """
    key = key_of_workers(run)
    group = _internal_kv_get(key)
    if group is not None:
        remove_placement_group(PlacementGroup(PlacementGroupID(group)))
        _internal_kv_del(key)


class TermSignal(WorkerCallback):
    """Turns the SIGTERM of a training worker into a wish that its loop hears between two groups of minibatches."""

    came = threading.Event()

    def after_init_train_context(self) -> None:
        """Called in the main thread of each worker, the only one that may set a handler."""
        signal.signal(signal.SIGTERM, lambda _number, _frame: TermSignal.came.set())
