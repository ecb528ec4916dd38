"""Every private import of Ray, made for and tried with its 2.60 line."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import ray
from ray._private import worker
from ray._private.node import Node
from ray._raylet import PlacementGroupID
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.train.torch import TorchTrainer
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup, remove_placement_group

TorchBackend = _TorchBackend
"""What connects the workers of a TorchTrainer."""


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
