"""One training worker: build, resume, loop, report."""

from __future__ import annotations

import logging
import math
import time
import traceback
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode

from benchmarks.cluster.trace import traced
from stylegan_ray import distributed
from stylegan_ray.cluster.channel import FAIL, TICK, Line, LogToDriver
from stylegan_ray.cluster.faults import AskedToEnd, is_transient, lost_peer, verb_of
from stylegan_ray.cluster.metrics import metrics_of_run
from stylegan_ray.cluster.preflight import Clearance
from stylegan_ray.cluster.ray_private import TermSignal
from stylegan_ray.cluster.reals import stream_of_reals
from stylegan_ray.config import RunConfig, validated
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.pixel_cache import kept
from stylegan_ray.data.reals import RealsSource
from stylegan_ray.distributed import prepare_process
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.run_folder import CHECKPOINTS, STOP
from stylegan_ray.storage import Storage
from stylegan_ray.train.background_writer import BackgroundWriter
from stylegan_ray.train.loop import Diverged, Pause, training_loop
from stylegan_ray.train.replica_check import check_replicas
from stylegan_ray.train.resume import Rollback, go_to_newest, start_from
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.stats import StopWatch

GO_ON, ASK, SAVE, STOP_RUN, LEAVE = range(5)
SECONDS_BETWEEN_LOOKS = 2.0
"""How often rank 0 looks for the STOP file."""
SECONDS_BETWEEN_NOTICES = 5.0
"""How often all ranks together ask Ray whether a node of theirs will be taken away."""
MOST_SECONDS_TO_FINISH = 1800.0
"""How long the end of a run waits for its storage."""
SECONDS_TO_LEAVE = 10.0
"""How long a worker that was asked to end waits for its storage."""


@dataclass(frozen=True)
class Order:
    """What the driver hands to every worker."""

    cfg: dict[str, Any]
    dataset: Dataset
    run_address: str
    threads: int
    mailbox: Any
    clearance: Clearance
    resume_from: str | None = None
    trace: str | None = None
    """A folder to note in which pictures were trained on; see trace.py."""


def train_worker(config: dict[str, Any]) -> str:
    """Trains to the end or until asked to stop; returns "done" or "stopped"."""
    order: Order = config["order"]
    line = Line(order.mailbox)
    logging.getLogger("stylegan_ray").addHandler(LogToDriver(line))
    try:
        return Worker(order, line).run()
    except Exception as error:
        if not is_transient(error):
            said = str(error) if isinstance(error, (ValueError, FloatingPointError)) else traceback.format_exc()
            line.post_and_wait(FAIL, f"worker {distributed.rank()} {verb_of(error)}: {said}")
        elif lost_peer(error) or (isinstance(error, AskedToEnd) and not TermSignal.came.is_set()):
            time.sleep(1.0)  # so that what happened to the other worker is seen first, which says more
        raise


class Worker:
    """One rank's part in the training."""

    def __init__(self, order: Order, line: Line) -> None:
        self.cfg, self.order, self.line = validated(order.cfg), order, line
        self.device = ray.train.torch.get_device()
        prepare_process(self.cfg, order.threads)
        self.storage = Storage.at(order.run_address)
        self.is_first = distributed.rank() == 0
        keep = self.cfg.cluster.keep_checkpoints
        self.writer = BackgroundWriter(self.storage, keep, line.say) if self.is_first else None
        self.watch = StopWatch(self.device)

    def run(self) -> str:
        """Trains, going back where the numbers say so, until done or asked to stop."""
        cfg, dataset = self.cfg, self.order.dataset
        self.order.clearance.check_here(dataset)
        state = TrainState.create(cfg, dataset.resolution, dataset.num_channels, dataset.label_size, self.device)
        state.data_fingerprint = dataset.fingerprint
        came_from = self._resume(state)
        if self.is_first:
            num = distributed.world_size()
            self.line.begins(state.cur_nimg, f"{came_from}; {describe_group(self.device, self.order.threads)}", num)
        if state.cur_nimg >= cfg.train.total_kimg * 1000:
            return "done"
        snapshots = Snapshots(cfg, dataset, state, self.writer) if self.writer else None
        self.metrics = metrics_of_run(
            cfg, dataset, self.order.run_address, self.device, self.line, self.order.clearance.placement
        )
        rollback = Rollback(state, cfg, self.storage.folder(CHECKPOINTS))
        while True:
            try:
                return self._train(state, snapshots)
            except Diverged as trouble:
                if self.writer:
                    self.writer.flush(MOST_SECONDS_TO_FINISH)
                said = rollback.go_back(trouble, self.line.say)
                if self.is_first:
                    self.line.say(said)

    def _resume(self, state: TrainState) -> str:
        """Puts the state where the run stood, or where another run's networks stand; says where that is."""
        name = go_to_newest(state, self.storage.folder(CHECKPOINTS), self.line.say)
        if name is not None:
            return f"continuing at {state.cur_nimg / 1000:g} kimg from {name}"
        if self.order.resume_from is not None:
            copied = start_from(state, self.cfg, self.order.resume_from)
            where = f"starting at {state.cur_nimg / 1000:g} kimg with the networks of {self.order.resume_from}"
            return "\n".join([*copied, where])
        return "starting a new run"

    def _train(self, state: TrainState, snapshots: Snapshots | None) -> str:
        """Trains from where the state stands."""
        cfg, data = self.cfg, self.cfg.data
        dataset, rank, world_size = self.order.dataset, distributed.rank(), distributed.world_size()
        decoded_once = kept(dataset, cfg.cluster.keep_decoded_gb)
        source = RealsSource(
            decoded_once, cfg.run.seed, state.stream_salt, data.mirror_augment, data.shuffle, data.on_bad_image,
            threads=cfg.cluster.decode_tasks,
        )  # fmt: skip
        signals, log2 = Signals(cfg, self.storage, self.line, self.device), math.log2(max(dataset.resolution))

        def interrupted() -> bool:
            self.metrics.look(snapshots)
            return signals.interrupted()

        with stream_of_reals(cfg, source, state.cur_nimg, log2, rank, world_size) as reals:
            if snapshots is not None:
                snapshots.begin()
            self.metrics.begin(state, snapshots)
            minibatches = traced(reals, self.order.trace, cfg, state, log2)
            for pause in training_loop(state, cfg, minibatches, dataset, interrupted, self.watch):
                if replicas_are_due(pause, cfg):
                    check_replicas(state, ray.util.get_node_ip_address())
                if snapshots is not None:
                    self._record(pause, snapshots)
                if pause.done or signals.reason < STOP_RUN:  # who is in a hurry takes them when the run goes on
                    self.metrics.at_pause(pause, state, snapshots)
                self._save_and_report(pause, state, signals, snapshots)
                if signals.reason == LEAVE:
                    raise AskedToEnd(self._words_on_leaving(state))
                if signals.reason == STOP_RUN and not pause.done:
                    break
        if snapshots is not None:
            for text in self.line.log(wait=True):
                snapshots.sinks.message(text)
            snapshots.sinks.close()
        return "done" if pause.done else "stopped"

    def _record(self, pause: Pause, snapshots: Snapshots) -> None:
        for text in self.line.log():
            snapshots.sinks.message(text)
        snapshots.at_pause(pause)
        if pause.stats is not None:
            self.line.post(TICK, pause.stats)

    def _save_and_report(self, pause: Pause, state: TrainState, signals: Signals, snapshots: Snapshots | None) -> None:
        """Every rank calls this at every pause: reports to Ray Train, and sends a checkpoint on its way if one is due.

        Ray hears of the last checkpoint only: the note that it keeps in the run's folder grows with every checkpoint,
        and it ends the training when the storage does not take it.
        """
        ends = pause.done or signals.reason >= STOP_RUN
        metrics, checkpoint = pause.stats or {"Progress/kimg": state.cur_nimg / 1000}, None
        metrics = {**metrics, **self.metrics.news()}
        with self.watch("checkpoint"):
            if snapshots is not None and (ends or signals.reason == SAVE or self._is_due(pause)):
                snapshots.save_checkpoint()
                signals.saved_at = time.monotonic()
            if ends and self.writer:
                whole = self.writer.flush(SECONDS_TO_LEAVE if signals.reason == LEAVE else MOST_SECONDS_TO_FINISH)
                if not whole and signals.reason != LEAVE:
                    raise OSError(f"the storage has not taken the last files for {MOST_SECONDS_TO_FINISH / 60:.0f} min")
                path = self.storage.path(f"{CHECKPOINTS}/{self.writer.newest_checkpoint}")
                checkpoint = Checkpoint(path, self.storage.filesystem) if self.writer.newest_checkpoint else None
            ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)

    def _is_due(self, pause: Pause) -> bool:
        every = self.cfg.train.checkpoint_ticks
        return every is not None and pause.stats is not None and pause.stats["Progress/tick"] % every == 0

    def _words_on_leaving(self, state: TrainState) -> str:
        mine = "was asked to end (SIGTERM)" if TermSignal.came.is_set() else "follows"
        return f"{mine} after a checkpoint at {state.cur_nimg / 1000:g} kimg"


def replicas_are_due(pause: Pause, cfg: RunConfig) -> bool:
    """Whether all ranks compare their states at this pause."""
    every = cfg.train.replica_check_ticks
    return every is not None and pause.stats is not None and pause.stats["Progress/tick"] % every == 0


def describe_group(device: torch.device, threads: int) -> str:
    """Who computes, for the log."""
    num = distributed.world_size()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads each"
    backend = dist.get_backend() if dist.is_initialized() else "no group"
    return f"{num} worker{'s' if num > 1 else ''} on {where} ({backend})"


class Signals:
    """Asks between groups whether to save, stop or leave; all ranks get the most urgent answer of any."""

    def __init__(self, cfg: RunConfig, run: Storage, line: Line, device: torch.device) -> None:
        self.run, self.line, self.device = run, line, device
        self.save_sec = (cfg.train.checkpoint_minutes or math.inf) * 60
        self.saved_at = self.looked_at = self.asked_at = time.monotonic()
        self.notice: Any = None
        self.save_by = math.inf
        self.reason = GO_ON

    def interrupted(self) -> bool:
        """Whether the loop should pause now."""
        mine = LEAVE if TermSignal.came.is_set() else self._look() if distributed.rank() == 0 else GO_ON
        self.reason = distributed.largest_over_ranks(mine, self.device)
        if self.reason == ASK:
            self.reason = self._ask()
        return self.reason != GO_ON

    def _look(self) -> int:
        now = time.monotonic()
        self.line.look()
        if self.line.is_stopping:
            return STOP_RUN
        if now - self.looked_at >= SECONDS_BETWEEN_LOOKS:
            self.looked_at = now
            if self._stop_file_is_there():
                return STOP_RUN
        if now - self.saved_at >= self.save_sec:
            return SAVE
        if now >= self.save_by:
            self.save_by = math.inf
            return SAVE
        if now - self.asked_at >= SECONDS_BETWEEN_NOTICES:
            self.asked_at = now
            return ASK
        return GO_ON

    def _stop_file_is_there(self) -> bool:
        try:
            return self.run.exists(STOP)
        except OSError:
            return False  # a storage that fails is no wish to stop

    def _ask(self) -> int:
        """Asks Ray for notices that nodes will be taken away; each means a checkpoint now and one shortly before."""
        notice = ray.train.get_preemption_info()
        if notice is None or notice == self.notice:
            return GO_ON
        self.notice = notice
        left_sec = notice.deadline_ms / 1000 - time.time() if notice.deadline_ms else None
        if distributed.rank() == 0:
            ranks = ", ".join(map(str, notice.preempted_ranks))
            when = f"in {max(left_sec, 0):.0f} s" if left_sec is not None else "soon"
            self.line.say(f"fault: the node of worker {ranks} will be taken away {when}; saving a checkpoint first")
            if left_sec is not None and left_sec > 2 * SECONDS_BEFORE_DEADLINE:
                self.save_by = time.monotonic() + left_sec - SECONDS_BEFORE_DEADLINE
        return SAVE


SECONDS_BEFORE_DEADLINE = 15.0
"""When the second checkpoint after a notice is taken."""
