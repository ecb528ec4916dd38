"""Trains a run: cluster, TorchTrainer, what is tried again, closing message."""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import ray
from ray.train import FailureConfig, LoggingConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer

from stylegan_ray.cluster.faults import FaultCallback, FaultLog
from stylegan_ray.cluster.gauges import Gauges
from stylegan_ray.cluster.origin import command_line, data_entry
from stylegan_ray.cluster.preflight import checked_nodes
from stylegan_ray.cluster.process_group import WorkerSetup
from stylegan_ray.cluster.resources import Share, joined, share_of_cluster
from stylegan_ray.cluster.run import Run, has_ended, prepare, write_end, write_start
from stylegan_ray.cluster.signals import stop_on_signals
from stylegan_ray.cluster.supervise import Outcome, Supervisor, View
from stylegan_ray.cluster.worker import Observer, WorkerConfig, train_worker
from stylegan_ray.config import RunConfig
from stylegan_ray.credentials import clean, without_credentials
from stylegan_ray.lease import Claim, Lease, held
from stylegan_ray.report.console import ConsoleView, closing_message
from stylegan_ray.report.page import try_to_write_page
from stylegan_ray.report.trackers import About, Deliveries
from stylegan_ray.run_folder import (
    ray_folder,
)
from stylegan_ray.storage import join_address, one_line

RAY_DEFAULTS = {
    # How often Ray Train polls its workers: how soon it notices their end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # A worker that does not answer for so long counts as dead.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "20",
}
RAY_DEFAULTS_FOR_GPUS = {
    # Where NCCL tells that its operations do not get on, the workers restart. Not tried: no GPU was there.
    "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": "1",
    "RAY_TRAIN_NCCL_RAS_ACTION": "fail",
}
NEWEST_TRIED_RAY = (2, 60)
RUN_CLAIM = "run"
"""What train and tune claim in a folder: all but what evaluate writes there."""
SEC_BETWEEN_RESIZES = 20.0
"""How often an elastic group looks for new nodes at most."""


def train(cfg: RunConfig, resume_from: str | None = None, observer: Observer | None = None) -> int:
    """Trains a run, or continues it; returns the exit status. `observer` wraps the minibatches of each worker."""
    use_ray_defaults()
    run = prepare(cfg, resume_from)
    run.observer = observer
    view, before = ConsoleView(run.cfg.train.total_kimg), run.newest_checkpoint
    if run.is_finished:
        view.message(f"Run {run.address} is finished at {run.cur_nimg / 1000:g} kimg; {way_on(run)} continues it.")
        view.message(closing_message(run.address, run.cfg, "done", command_line(), run.cur_nimg / 1000))
        with run_lease(run.address, "train", view.message):  # removes one that was left, too
            deliveries_of(run, view.message).finish("done")
        return 0
    warn_of_new_ray(ray.__version__, view.message)
    with run_lease(run.address, "train", view.message), joined(run.cfg, view.message):
        share = share_of_cluster(run.cfg, view.message)
        with checked_nodes(run.cfg, run.dataset, run.address, share, view.message) as run.clearance:
            view.message("\n".join(filter(None, [
                f"Run {run.address}", run.dataset.describe_labels(), run.first_words, f"Starting {share.format()}",
            ])))  # fmt: skip
            with stop_on_signals(view.message) as stop_requested:
                outcome = train_run(run, share, view, stop_requested)
            view.close()
            if outcome.reason or outcome.state in ("diverged", "failed"):
                why = outcome.reason or f"the run {outcome.state}; Ray's logs may say why"
                print(f"error: {without_credentials(why)}", file=sys.stderr, flush=True)
                return 1
            has_saved = run.newest_checkpoint != before
            state = "done" if outcome.state == "done" else "stopped" if has_saved else "unchanged"
            view.message(closing_message(run.address, run.cfg, state, command_line()))
            return 130 if stop_requested() and state != "done" else 0


def run_lease(address: str, command: str, say: Callable[[str], None]) -> AbstractContextManager[Lease]:
    """Inside, this command alone writes the run or sweep at an address."""
    way_out = f"wait for its end, end it with stylegan-ray stop {shlex.quote(address)}, or give another --run.name"
    return held(address, command, [Claim(RUN_CLAIM)], way_out, say, "run.storage")


def train_run(run: Run, share: Share, view: View, stop_requested: Callable[[], bool] = lambda: False) -> Outcome:
    """Trains a run that the preflight has cleared, in this process's Ray; returns how it ended.

    Works in a driver and in an actor, in any thread. `stop_requested` is called twice a second; when it returns true,
    or when a STOP file appears in the run's folder, the run saves its state and stops.
    """
    was_lost = run.cur_nimg > 0 and not has_ended(run.storage)
    write_start(run, share)
    faults = FaultLog(run.storage)
    faults.add_command(run.command or command_line())
    if was_lost:
        faults.add_fault("the driver or the whole cluster was lost")
    most_failures = run.cfg.cluster.max_failures if run.in_process else -1  # Ray Train counts those of its workers
    view = Gauges(view, run.storage, run.cfg.run.name or "")
    supervisor = Supervisor(run.storage, faults, view, stop_requested, run.cfg.cluster, most_failures)
    deliveries = deliveries_of(run, view.message)
    deliveries.start()
    outcome = Outcome("failed", "interrupted")
    try:
        outcome = supervisor.outcome_of(partial(fit_once, run, share, supervisor.channel, faults))
    finally:
        write_end(run, f"failed: {one_line(outcome.reason)}" if outcome.reason else outcome.state)
    if run.group is None:  # a sweep has its own report
        try_to_write_page(run.storage, view.message)
    deliveries.end(outcome.state)
    return outcome


def way_on(run: Run) -> str:
    """What continues a finished run."""
    if run.cur_nimg < run.cfg.train.total_nimg:
        return f"another train.stop_when than {run.cfg.train.stop_when}"
    return "a larger train.total_kimg"


def deliveries_of(run: Run, say: Callable[[str], None]) -> Deliveries:
    """What brings the run to the trackers of its configuration."""
    about = About(run.cfg, run.command or command_line(), clean(data_entry(run.dataset)), run.group)
    return Deliveries(run.cfg, run.storage, about, say)


def fit_once(run: Run, share: Share, channel: Any, faults: FaultLog) -> Outcome:
    """Calls Ray Train once; returns what rank 0 returned, or raises what Ray Train gave up with."""
    folder = ray_folder(uuid.uuid4().hex[:8])
    try:
        result: Any = trainer_of(run, share, channel, faults, join_address(run.address, folder)).fit()
    finally:
        with suppress(OSError):
            run.storage.delete_folder(folder)
    return Outcome(*result.return_value)


def trainer_of(run: Run, share: Share, channel: Any, faults: FaultLog, ray_folder: str) -> TorchTrainer:
    """Workers, failure policy and a folder for Ray Train's own files, of which a run that continues needs none."""
    cfg = run.cfg
    assert run.clearance is not None
    if share.gpus:
        use_defaults(RAY_DEFAULTS_FOR_GPUS)
    worker = WorkerConfig(
        cfg.model_dump(mode="json"), run.dataset, run.address, share.threads, channel, run.clearance,
        run.source.address if run.source else None, run.observer, run.in_process,
    )  # fmt: skip
    return TorchTrainer(
        train_worker,
        train_loop_config={"worker": worker},
        torch_config=WorkerSetup(),
        scaling_config=ScalingConfig(
            num_workers=0 if run.in_process else share.num_workers,
            use_gpu=bool(share.gpus),
            resources_per_worker={"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})},
            elastic_resize_monitor_interval_s=SEC_BETWEEN_RESIZES,
        ),
        run_config=RayRunConfig(
            name=cfg.run.name,
            storage_path=ray_folder,
            # Not relax_collectives_on_preemption: from the notice on, Ray's barrier leaves out workers that train on
            # until their node goes, and the group stood still until the deadline (Ray 2.60, a notice of 120 s).
            failure_config=FailureConfig(max_failures=cfg.cluster.max_failures),
            callbacks=[FaultCallback(faults, lambda: channel.end_group.remote())],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def warn_of_new_ray(version: str, say: Callable[[str], None]) -> None:
    """Says when Ray is newer than the newest version that this package has been tried with."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) > NEWEST_TRIED_RAY:
        tried = ".".join(map(str, NEWEST_TRIED_RAY))
        say(f"warning: Ray {version} is newer than {tried}, the newest that was tried; pip install 'ray=={tried}.*'")


def use_ray_defaults() -> None:
    """Sets the variables that Ray Train reads, where nobody has set them."""
    use_defaults(RAY_DEFAULTS)


def use_defaults(defaults: Mapping[str, str]) -> None:
    """Sets variables that nobody has set."""
    os.environ.update({key: value for key, value in defaults.items() if key not in os.environ})
