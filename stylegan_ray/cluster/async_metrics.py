"""Metrics beside the training: one Ray task at a time, on a device that no worker uses, started by rank 0.

Ray Train's own validation wants a checkpoint reported for each, validates all that queue up, and keeps the result to
itself, while our checkpoints reach the storage in the background. Here a request is a file in the run's folder, so that
it outlives every process, and rank 0 writes the rows, as it does all others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from stylegan_ray import distributed
from stylegan_ray.cluster.channel import Sender
from stylegan_ray.cluster.metric_results import MetricResults, RunMetrics
from stylegan_ray.config import RunConfig
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.interop.native import networks_from_bytes
from stylegan_ray.metrics.blocks import Plan
from stylegan_ray.metrics.compute import evaluate, weights_of
from stylegan_ray.metrics.detectors import Weights
from stylegan_ray.metrics.names import MetricSpec
from stylegan_ray.metrics.reals_cache import RealsCache, user_folder
from stylegan_ray.metrics.rows import Row, unavailable_row
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.run_folder import PENDING_METRICS
from stylegan_ray.storage import Storage, one_line
from stylegan_ray.train.loop import Pause
from stylegan_ray.train.metrics import is_due, metric_specs, plan_of, provenance_of, tick_to_catch_up
from stylegan_ray.train.state import TrainState

Result = TypeVar("Result")
MAX_RETRIES = 3
POLL_SEC = 0.25
MOST_SEC_TO_FINISH = 1800.0
"""How long the end of a run waits for its last metrics, and for its storage."""


@dataclass(frozen=True)
class Request:
    """A network that waits for its metrics; stored in the run's folder."""

    provenance: Mapping[str, Any]
    plan: Mapping[str, Any]
    """Fields of the plan that depend on the training state."""
    name: str
    """Of its files, without their endings."""

    @classmethod
    def of(cls, provenance: Mapping[str, Any], plan: Mapping[str, Any]) -> Request:
        """A new request."""
        request = cls(provenance, plan, "")
        return replace(request, name="{:06d}-{:09d}".format(*request.place))

    @property
    def tick(self) -> int:
        return self.provenance["Progress/tick"]

    @property
    def kimg(self) -> float:
        return self.provenance["kimg"]

    @property
    def place(self) -> tuple[int, int]:
        """Tick and cur_nimg: the start and the end of the first group are both of tick 0."""
        return self.tick, round(self.kimg * 1000)

    @property
    def network(self) -> str:
        """Name of the file with the networks."""
        return f"{PENDING_METRICS}/{self.name}.safetensors"

    @property
    def note(self) -> str:
        """Name of the file with provenance and plan; the request is complete when it exists."""
        return f"{PENDING_METRICS}/{self.name}.json"

    def write_note(self, run: Storage) -> None:
        """Completes the request, after its networks have been written."""
        run.write(self.note, json.dumps([self.provenance, self.plan]).encode())

    def delete(self, run: Storage) -> None:
        """Deletes its files."""
        run.delete(self.note)
        run.delete(self.network)


def pending_requests(run: Storage) -> list[Request]:
    """The complete requests in a run's folder, oldest first."""
    names = [name.removesuffix(".json") for name in run.names(PENDING_METRICS) if name.endswith(".json")]
    return [Request(*json.loads(run.read(f"{PENDING_METRICS}/{name}.json")), name=name) for name in names]


@dataclass(frozen=True)
class TaskInputs:
    """What every task of a run needs; put into the object store once."""

    run_address: str
    dataset: Dataset
    specs: Sequence[MetricSpec]
    weights: Mapping[str, Weights]
    missing: Mapping[str, str]
    device: str
    features: str
    """Folder with cached features of real images."""


class AsyncMetrics(RunMetrics):
    """At most one task runs; of the requests that wait for it the newest replaces the others."""

    def __init__(
        self, cfg: RunConfig, dataset: Dataset, run_address: str, device: torch.device, sender: Sender
    ) -> None:
        self.cfg, self.sender, self.results = cfg, sender, MetricResults(sender)
        self.specs = metric_specs(cfg)
        self.running: tuple[Request, ray.ObjectRef] | None = None
        self.written: deque[Request] = deque()
        """Requests whose files are in the storage; the background writer's thread adds them."""
        self.waiting: Request | None = None
        self.polled_at = 0.0
        if distributed.rank() == 0:
            self.run = Storage.at(run_address)
            weights, missing = weights_of(self.specs, cfg.metrics.detector)
            self.inputs = ray.put(
                TaskInputs(run_address, dataset, self.specs, weights, missing, device.type, user_folder())
            )
            gpus = int(device.type == "cuda")
            # Without a strategy a task of a training worker might have to fit into the worker's own resources.
            self.task = ray.remote(
                num_cpus=1 - gpus, num_gpus=gpus, max_retries=MAX_RETRIES, scheduling_strategy="DEFAULT"
            )(metric_task)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being computed or waits."""
        return self.running is None and self.waiting is None and not self.written

    def begin(self, state: TrainState, snapshots: Snapshots | None) -> None:
        if snapshots is None:
            return
        self.cancel()
        for request in pending_requests(self.run):
            if request.tick < state.tick and not snapshots.has_metrics(*request.place):
                self.written.append(request)
            else:  # done, or the run will reach that tick again
                self._delete(request, snapshots)
        tick = tick_to_catch_up(state, self.cfg)
        requested = {request.place for request in self.written}
        if tick is None or (tick, state.cur_nimg) in requested or snapshots.has_metrics(tick, state.cur_nimg):
            return
        self._request(state, tick, snapshots)

    def at_pause(self, pause: Pause, state: TrainState, snapshots: Snapshots | None) -> None:
        if snapshots and pause.stats is not None and is_due(self.cfg, pause.stats["Progress/tick"], pause.done):
            self._request(state, pause.stats["Progress/tick"], snapshots)
        if pause.done and not distributed.until_rank0(partial(self._finish, snapshots), MOST_SEC_TO_FINISH):
            self._give_up()

    def poll(self, snapshots: Snapshots | None) -> None:
        if snapshots is not None and time.monotonic() - self.polled_at >= POLL_SEC:
            self.polled_at = time.monotonic()
            self._collect(snapshots)
            self._start(snapshots)

    def cancel(self) -> None:
        """Forgets all requests; those in the storage are found again by `begin`."""
        if self.running is not None:
            ray.cancel(self.running[1], force=True)
        self.running = self.waiting = None
        self.written.clear()

    def _request(self, state: TrainState, tick: int, snapshots: Snapshots) -> None:
        """Writes a request in the background; it counts when it is stored."""
        plan = plan_of(state, self.cfg)
        provenance = provenance_of(state, self.cfg, tick) | {"placement": "async"}
        request = Request.of(provenance, {"mirror": plan.mirror, "lod": plan.lod, "drange": plan.drange})
        snapshots.save_network(request.network)
        snapshots.writer.submit(request.note, partial(self._complete, request))

    def _complete(self, request: Request) -> None:
        request.write_note(self.run)
        self.written.append(request)

    def _start(self, snapshots: Snapshots) -> None:
        """Starts the task of the newest request, unless one is running."""
        while self.written:
            if self.waiting is not None:
                newer = self.written[0]
                self.sender.message(
                    f"metrics at {self.waiting.kimg:g} kimg are dropped: those at {newer.kimg:g} kimg are newer"
                )
                self._delete(self.waiting, snapshots)
            self.waiting = self.written.popleft()
        if self.waiting is not None and self.running is None:
            request, self.waiting = self.waiting, None
            self.running = request, self.task.remote([self.inputs], request)

    def _collect(self, snapshots: Snapshots) -> None:
        """Stores the rows of the task that was running, if it has ended."""
        if self.running is None:
            return
        request, task = self.running
        ready, _ = ray.wait([task], timeout=0)
        if ready:
            self.running = None
            self.results.add(self._rows(request, task), snapshots, partial(self._keep, request, snapshots))
            self._delete(request, snapshots)

    def _rows(self, request: Request, task: ray.ObjectRef) -> list[Row]:
        try:
            return ray.get(task)
        except RayTaskError as error:
            reason = f"the task failed: {type(error.cause).__name__}: {one_line(error.cause)}"
        except RayError as error:
            reason = f"the task was lost {MAX_RETRIES + 1} times: {one_line(error)}"
        self.sender.message(f"fault: metrics at {request.kimg:g} kimg: {reason}")
        return [unavailable_row(spec, reason, request.provenance) for spec in self.specs]

    def _keep(self, request: Request, snapshots: Snapshots, name: str) -> None:
        snapshots.writer.submit(name, lambda: self.run.copy(request.network, name))

    def _delete(self, request: Request, snapshots: Snapshots) -> None:
        """Deletes a request after its rows have reached the storage."""

        def delete() -> None:
            snapshots.sinks.sync()
            request.delete(self.run)

        snapshots.writer.submit(f"delete {request.note}", delete)

    def _finish(self, snapshots: Snapshots | None, sec: float) -> bool:
        """Waits some seconds for the running task and for the newest request; whether all are done. For rank 0."""
        assert snapshots is not None, "rank 0 has them"
        deadline = time.monotonic() + sec
        while time.monotonic() < deadline:
            is_written = snapshots.writer.flush(POLL_SEC)
            self._collect(snapshots)
            self._start(snapshots)
            if self.running is not None:
                ray.wait([self.running[1]], timeout=POLL_SEC)
            elif is_written:
                return True
        return False

    def _give_up(self) -> None:
        if distributed.rank() == 0:
            self.sender.message(
                "fault: the last metrics were not computed in time; compute them with: stylegan-ray evaluate RUN"
            )


def metric_task(inputs: Sequence[ray.ObjectRef], request: Request) -> list[Row]:
    """The task: rows of the network of a request."""
    found: Any = ray.get(inputs[0])
    compute = partial(compute_rows, found, request)
    try:
        return at_idle_priority(compute) if found.device == "cpu" else compute()
    finally:
        distributed.return_freed_memory()


def compute_rows(inputs: TaskInputs, request: Request) -> list[Row]:
    """Computes the metrics of a request."""
    if inputs.device == "cpu":
        torch.set_num_threads(1)
    networks = networks_from_bytes(Storage.at(inputs.run_address).read(request.network))
    plan = replace(Plan(()), **{**request.plan, "drange": tuple(request.plan["drange"])})
    detectors = {name: weights.build() for name, weights in inputs.weights.items()}
    return evaluate(
        networks.G_ema, inputs.dataset, [spec.name for spec in inputs.specs], plan,
        available=(detectors, inputs.missing), cache=RealsCache(Storage.at(inputs.features)), device=inputs.device,
        provenance=request.provenance,
    )  # fmt: skip


def at_idle_priority(work: Callable[[], Result]) -> Result:
    """Runs work in a thread of Linux's lowest scheduling policy, SCHED_IDLE: whatever else wakes up runs first.

    A core that runs such a thread alone counts as idle, so Ray's own processes wake up there and not on the core that
    trains. With a low priority alone (nice) they did not, and took some 12 % of the training. It is a thread of its own
    because a process that has lowered itself cannot rise again for the tasks after this one.
    """
    with ThreadPoolExecutor(1, initializer=lower_priority) as pool:
        return pool.submit(work).result()


def lower_priority() -> None:
    """Gives this thread the lowest scheduling policy, where the system has one."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
