"""Metrics beside the training: one Ray task at a time on a device that no worker uses, started by rank 0.

Not as Ray Train's validation: that wants a checkpoint reported for each, takes them in turn however many queue up, and
keeps the result to itself, while our checkpoints go to the storage behind the training's back. Here a request is a
file in the run's folder, so that it outlives every process, and rank 0 alone writes rows, as it does all others.
"""

from __future__ import annotations

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
from stylegan_ray.cluster.channel import Line
from stylegan_ray.cluster.metrics import NoMetrics, Notes
from stylegan_ray.cluster.pending import Request, pending
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
from stylegan_ray.storage import Storage, one_line
from stylegan_ray.train.loop import Pause
from stylegan_ray.train.metrics import is_due, metric_specs, plan_of, provenance_of, tick_to_catch_up
from stylegan_ray.train.state import TrainState

Result = TypeVar("Result")
MAX_RETRIES = 3
LOOK_SEC = 0.25
MOST_SECONDS_TO_FINISH = 1800.0
"""How long the end of a run waits for its last metrics."""


@dataclass(frozen=True)
class Errand:
    """What every task of a run needs; stands in the object store once."""

    run_address: str
    dataset: Dataset
    specs: Sequence[MetricSpec]
    weights: Mapping[str, Weights]
    missing: Mapping[str, str]
    device: str
    features: str
    """Where features of real pictures are kept."""


class Beside(NoMetrics):
    """One task in flight; of the requests that wait the newest makes the others needless."""

    def __init__(self, cfg: RunConfig, dataset: Dataset, run_address: str, device: torch.device, line: Line) -> None:
        self.cfg, self.line, self.notes = cfg, line, Notes(line)
        self.specs = metric_specs(cfg)
        self.running: tuple[Request, ray.ObjectRef] | None = None
        self.written: deque[Request] = deque()
        """Requests whose files are in the storage; added by the background writer's thread."""
        self.waiting: Request | None = None
        self.looked_at = 0.0
        if distributed.rank() == 0:
            self.run = Storage.at(run_address)
            weights, missing = weights_of(self.specs, cfg.metrics.detector)
            self.errand = ray.put(
                Errand(run_address, dataset, self.specs, weights, missing, device.type, user_folder())
            )
            gpus = int(device.type == "cuda")
            # Without a strategy a task of a training worker might have to fit into the worker's own resources.
            self.measure = ray.remote(
                num_cpus=1 - gpus, num_gpus=gpus, max_retries=MAX_RETRIES, scheduling_strategy="DEFAULT"
            )(measured)

    def begin(self, state: TrainState, snapshots: Snapshots | None) -> None:
        if snapshots is None:
            return
        self._give_up()
        found = {request.tick: request for request in pending(self.run)}
        for tick, request in found.items():
            if tick < state.tick and not snapshots.has_metrics(tick):
                self.written.append(request)
            else:  # done, or the run comes there again
                self._forget(request, snapshots)
        tick = tick_to_catch_up(state, self.cfg)
        if (
            tick is not None
            and tick not in {request.tick for request in self.written}
            and not snapshots.has_metrics(tick)
        ):
            self._ask(state, tick, snapshots)

    def at_pause(self, pause: Pause, state: TrainState, snapshots: Snapshots | None) -> None:
        if snapshots is None:
            return
        if pause.stats is not None and is_due(self.cfg, pause.stats["Progress/tick"], pause.done):
            self._ask(state, pause.stats["Progress/tick"], snapshots)
        if pause.done:
            self._finish(snapshots)

    def look(self, snapshots: Snapshots | None) -> None:
        if snapshots is not None and time.monotonic() - self.looked_at >= LOOK_SEC:
            self.looked_at = time.monotonic()
            self._collect(snapshots)
            self._start(snapshots)

    def news(self) -> Mapping[str, float]:
        return self.notes.take()

    def _ask(self, state: TrainState, tick: int, snapshots: Snapshots) -> None:
        """Puts a request on its way to the storage; it counts when it has arrived there."""
        plan = plan_of(state, self.cfg)
        told = provenance_of(state, self.cfg, tick) | {"placement": "async"}
        request = Request(told, {"mirror": plan.mirror, "lod": plan.lod, "drange": plan.drange})
        snapshots.save_network(request.network)
        snapshots.writer.submit(request.note, partial(self._written, request))

    def _written(self, request: Request) -> None:
        request.write_note(self.run)
        self.written.append(request)

    def _start(self, snapshots: Snapshots) -> None:
        """Starts the task of the newest request, when none is running."""
        while self.written:
            if self.waiting is not None:
                newer = self.written[0]
                self.line.say(
                    f"metrics at {self.waiting.kimg:g} kimg are left out: those at {newer.kimg:g} kimg are newer"
                )
                self._forget(self.waiting, snapshots)
            self.waiting = self.written.popleft()
        if self.waiting is not None and self.running is None:
            request, self.waiting = self.waiting, None
            self.running = request, self.measure.remote([self.errand], request)

    def _collect(self, snapshots: Snapshots) -> None:
        """Notes the rows of the task that was running, if it has ended."""
        if self.running is None:
            return
        request, task = self.running
        ready, _ = ray.wait([task], timeout=0)
        if ready:
            self.running = None
            self.notes.add(self._rows(request, task), snapshots, partial(self._keep, request, snapshots))
            self._forget(request, snapshots)

    def _rows(self, request: Request, task: ray.ObjectRef) -> list[Row]:
        try:
            return ray.get(task)
        except RayTaskError as error:
            reason = f"the task failed: {type(error.cause).__name__}: {one_line(error.cause)}"
        except RayError as error:
            reason = f"the task was lost {MAX_RETRIES + 1} times: {one_line(error)}"
        self.line.say(f"fault: metrics at {request.kimg:g} kimg: {reason}")
        return [unavailable_row(spec, reason, request.provenance) for spec in self.specs]

    def _keep(self, request: Request, snapshots: Snapshots, name: str) -> None:
        snapshots.writer.submit(name, lambda: self.run.write(name, self.run.read(request.network)))

    def _forget(self, request: Request, snapshots: Snapshots) -> None:
        """Deletes a request, after the rows that it gave have reached the storage."""

        def delete() -> None:
            snapshots.sinks.sync()
            request.delete(self.run)

        snapshots.writer.submit(f"the end of {request.note}", delete)

    def _give_up(self) -> None:
        """Lets go of everything; what is in the storage will be found again."""
        if self.running is not None:
            ray.cancel(self.running[1], force=True)
        self.running = self.waiting = None
        self.written.clear()

    def _finish(self, snapshots: Snapshots) -> None:
        """Waits for the task in flight and for the newest request."""
        deadline = time.monotonic() + MOST_SECONDS_TO_FINISH
        while time.monotonic() < deadline:
            whole = snapshots.writer.flush(LOOK_SEC)
            self._collect(snapshots)
            self._start(snapshots)
            if self.running is not None:
                ray.wait([self.running[1]], timeout=LOOK_SEC)
            elif whole:
                return
        self.line.say("fault: the last metrics were not taken in time; take them with: stylegan-ray evaluate RUN")


def measured(errand: Sequence[ray.ObjectRef], request: Request) -> list[Row]:
    """The task: rows of the networks of a request."""
    found: Any = ray.get(errand[0])
    take = partial(rows_of, found, request)
    return behind_others(take) if found.device == "cpu" else take()


def rows_of(found: Errand, request: Request) -> list[Row]:
    """Takes the metrics of a request."""
    if found.device == "cpu":
        torch.set_num_threads(1)
    networks = networks_from_bytes(Storage.at(found.run_address).read(request.network))
    plan = replace(Plan(()), **{**request.plan, "drange": tuple(request.plan["drange"])})
    detectors = {name: weights.build() for name, weights in found.weights.items()}
    return evaluate(
        networks.G_ema, found.dataset, [spec.name for spec in found.specs], plan,
        available=(detectors, found.missing), cache=RealsCache(Storage.at(found.features)), device=found.device,
        provenance=request.provenance,
    )  # fmt: skip


def behind_others(work: Callable[[], Result]) -> Result:
    """Does work in a thread of the lowest rank that Linux knows, SCHED_IDLE: whatever else wakes up goes before it.

    A core that runs such a thread alone counts as idle, so Ray's own processes wake up there and not on the core that
    trains. By priority alone (nice) they did not, and took some 12 % of the training. A thread of its own, because
    a process that has stepped back can't step forward again for the tasks after this one.
    """
    with ThreadPoolExecutor(1, initializer=step_back) as pool:
        return pool.submit(work).result()


def step_back() -> None:
    """Gives this thread the lowest rank, where the system has one."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
