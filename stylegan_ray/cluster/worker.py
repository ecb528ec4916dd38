"""One training worker: build, resume, loop.

Nothing is reported to Ray Train: a report waits until the controller polls, and Ray keeps only checkpoints of its own
folder. Ticks and metrics travel by the channel, checkpoints are written to the run's folder, and the return value says
how the run ended.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from stylegan_ray import distributed
from stylegan_ray.cluster.async_metrics import MOST_SEC_TO_FINISH
from stylegan_ray.cluster.channel import GROUP, TICK, ChannelHandler, Sender
from stylegan_ray.cluster.faults import FaultLog, Terminated, is_echo, is_transient
from stylegan_ray.cluster.heartbeat import Heartbeat
from stylegan_ray.cluster.metrics import metrics_of_run
from stylegan_ray.cluster.out_of_memory import ADVICE, is_out_of_memory
from stylegan_ray.cluster.preflight import Clearance
from stylegan_ray.cluster.process_group import connected
from stylegan_ray.cluster.reals import stream_of_reals
from stylegan_ray.cluster.signals import LEAVE, LOG, SAVE, Signals, is_terminated
from stylegan_ray.config import RunConfig, validated
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.reals import RealsSource, label_source_of
from stylegan_ray.distributed import prepare_process
from stylegan_ray.jsonl import tick_rows
from stylegan_ray.machine.cgroups import oom_kills
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.run_folder import CHECKPOINTS, TICKS
from stylegan_ray.storage import Storage, one_line
from stylegan_ray.train.background_writer import BackgroundWriter
from stylegan_ray.train.loop import Diverged, MicroBatches, Pause, training_loop
from stylegan_ray.train.replica_check import check_replicas
from stylegan_ray.train.resume import Rollback, go_to_newest
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.stats import StopWatch
from stylegan_ray.train.stop_when import why_to_stop
from stylegan_ray.train.transfer import start_from

SEC_TO_LEAVE = 10.0
"""How long a worker that received SIGTERM waits for its storage."""
SEC_BEHIND_CAUSE = 1.0
"""How long the consequences of another worker's end wait, so that Ray Train sees the cause first."""

Observer = Callable[[Iterator[MicroBatches], RunConfig, int, float], Iterator[MicroBatches]]
"""Wraps this rank's minibatches, given the configuration, the images shown so far and log2 of the resolution."""


@dataclass(frozen=True)
class WorkerConfig:
    """What the driver passes to every worker."""

    cfg: dict[str, Any]
    dataset: Dataset
    run_address: str
    threads: int
    channel: Any
    clearance: Clearance
    resume_from: str | None = None
    observer: Observer | None = None
    in_process: bool = False
    """Whether this is the driver's own process."""


def train_worker(config: dict[str, Any]) -> tuple[str, str]:
    """Trains to the end or until asked to stop; returns how the run ended, as Outcome has it.

    Raises what another attempt may get over. Any other error is stored as the end of the run, so that a group that Ray
    Train starts after it returns at once.
    """
    worker: WorkerConfig = config["worker"]
    faults = FaultLog(Storage.at(worker.run_address))
    if end := faults.end():
        return end
    sender = Sender(worker.channel)
    cfg, device = validated(worker.cfg), ray.train.torch.get_device()
    try:
        watch = StopWatch(device)
        heart = Heartbeat(worker.channel, faults.run, cfg.cluster, watch)
        with logged_by(ChannelHandler(sender)), heart.beating(), connected(cfg.cluster.interface, device):
            with closing(Worker(cfg, worker, device, sender, faults, watch, heart)) as training:
                return training.run(), ""
    except Exception as error:
        if not is_transient(error):
            return end_with(error, faults)
        if is_echo(error) or (isinstance(error, Terminated) and not is_terminated()):
            time.sleep(SEC_BEHIND_CAUSE)
        raise


@contextmanager
def logged_by(handler: logging.Handler) -> Iterator[None]:
    """Inside, messages of this package go to the handler, too."""
    logger = logging.getLogger("stylegan_ray")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def end_with(error: Exception, faults: FaultLog) -> tuple[str, str]:
    """Stores an error as the end of the run, and returns it where no other worker waits for this one."""
    is_known = isinstance(error, (ValueError, FloatingPointError))
    state = "diverged" if isinstance(error, FloatingPointError) else "failed"
    text = f"{one_line(error)}. {ADVICE}" if is_out_of_memory(error) else error if is_known else traceback.format_exc()
    reason = f"worker {distributed.rank()} {state}: {text}"
    faults.add_end(state, reason)
    if distributed.world_size() > 1 and state == "failed":  # all ranks find alike that numbers diverge
        raise error
    return state, reason


class Worker:
    """One rank of the training."""

    def __init__(
        self,
        cfg: RunConfig,
        worker: WorkerConfig,
        device: torch.device,
        sender: Sender,
        faults: FaultLog,
        watch: StopWatch,
        heart: Heartbeat,
    ) -> None:
        self.cfg, self.worker, self.device, self.sender, self.faults = cfg, worker, device, sender, faults
        self.watch, self.heart = watch, heart
        prepare_process(cfg, worker.threads)
        self.storage = Storage.at(worker.run_address)
        self.is_first = distributed.rank() == 0
        keep = cfg.cluster.keep_checkpoints
        self.writer = BackgroundWriter(self.storage, keep, sender.message) if self.is_first else None

    def run(self) -> str:
        """Trains until done or asked to stop, going back to a checkpoint where the numbers require it."""
        cfg, worker, dataset = self.cfg, self.worker, self.worker.dataset
        worker.clearance.check_here(dataset)
        if self.is_first:
            self.sender.recover_messages()
        state = TrainState.create(cfg, dataset.resolution, dataset.num_channels, dataset.label_size, self.device)
        state.data_fingerprint = dataset.fingerprint
        self.heart.state = state
        self._announce(state, self._resume(state))
        snapshots = Snapshots(cfg, dataset, state, self.writer) if self.writer else None
        self.metrics = metrics_of_run(
            cfg, dataset, worker.run_address, self.device, self.sender, worker.clearance.placement
        )
        self.rollback = Rollback(state, cfg, self.storage.folder(CHECKPOINTS))
        while True:
            try:
                return self._train(state, snapshots)
            except Diverged as error:
                self._flush()
                message = self.rollback.go_back(error, self.sender.message)
                if self.is_first:
                    self.sender.message(message)
                    self.faults.add_rollback(message, state.cur_nimg)

    def close(self) -> None:
        """Ends the writing to the run's folder: where the process goes on, the next worker in it writes there."""
        if self.writer:
            self.writer.close()

    def _resume(self, state: TrainState) -> str:
        """Restores the newest checkpoint of the run, or copies the networks of another run; returns what it did."""
        name = go_to_newest(state, self.storage.folder(CHECKPOINTS), self.sender.message)
        if name is not None:
            return f"continuing at {state.cur_nimg / 1000:g} kimg from {name}"
        if self.worker.resume_from is not None:
            copied = start_from(state, self.cfg, self.worker.resume_from)
            where = f"starting at {state.cur_nimg / 1000:g} kimg with the networks of {self.worker.resume_from}"
            return "\n".join([*copied, where])
        return "starting a new run"

    def _announce(self, state: TrainState, description: str) -> None:
        """Rank 0 says that the group starts, and passes on the placement group that it lives in."""
        kills = distributed.to_rank0((ray.util.get_node_ip_address(), oom_kills()))
        if not self.is_first or kills is None:
            return
        self.sender.post(GROUP, None if self.worker.in_process else ray.util.get_current_placement_group())
        rows = tick_rows(self.storage, TICKS)
        reached_kimg = rows[-1]["Progress/kimg"] if rows else 0.0
        text = f"{description}; {describe_group(self.device, self.worker.threads)}"
        counts = {node: count for node, count in kills if count is not None}
        start = self.faults.add_start(state.cur_nimg, distributed.world_size(), text, reached_kimg, counts)
        self.sender.message(start)
        if end := self.faults.end():
            raise ValueError(end[1])

    def _train(self, state: TrainState, snapshots: Snapshots | None) -> str:
        """Trains from the state on."""
        signals = Signals(self.cfg, self.storage, self.sender, self.device)
        with closing(signals), self._reals(state) as reals:
            self.heart.decoders = reals.decoders
            if snapshots is not None:
                snapshots.begin()
            self.metrics.begin(state, snapshots)
            # The last command was ended before it had saved or known its end, or it had a larger total.
            if state.cur_nimg >= self.cfg.train.total_nimg or self._stops_early(snapshots):
                return self._finish(state, snapshots)
            distributed.freeze_objects()
            for pause in training_loop(
                state, self.cfg, self._observed(reals, state), label_source_of(self.cfg.data, self.worker.dataset),
                lambda: self._interrupted(signals, snapshots), self.watch,
            ):  # fmt: skip
                if pause.ends_tick_of(self.cfg.train.replica_check_ticks):
                    check_replicas(state, ray.util.get_node_ip_address())
                if pause.stats is not None and self._stops_early(snapshots):  # by metrics that came beside the training
                    pause = replace(pause, done=True)
                self._record(pause, snapshots)
                leaves = signals.reason == LEAVE
                if not leaves and (pause.done or not signals.ends):  # when stopping, defer metrics to the next start
                    self.metrics.at_pause(pause, state, snapshots)
                    if pause.stats is not None and not pause.done and self._stops_early(snapshots):
                        self._finish_networks(pause.stats["Progress/tick"], snapshots)
                        pause = replace(pause, done=True)
                is_stored = self._save(pause, signals, snapshots)
                if leaves and not (pause.done and is_stored and not self.cfg.metrics.names):
                    raise Terminated(describe_leaving(state, is_stored))
                if pause.done or signals.ends:
                    break
        self._log_messages(snapshots)
        if snapshots is not None:
            snapshots.sinks.close()
        return "done" if pause.done else "stopped"

    def _stops_early(self, snapshots: Snapshots | None) -> bool:
        """Whether train.stop_when ends the run here. A collective call."""
        if self.cfg.train.stop_when is None:
            return False
        reason = why_to_stop(self.cfg, snapshots.metric_rows) if snapshots is not None else None
        if reason is not None:
            self.sender.message(reason)
        return distributed.from_rank0(reason) is not None

    def _finish(self, state: TrainState, snapshots: Snapshots | None) -> str:
        """Ends a run where it continues."""
        self._finish_networks(state.tick - 1 if state.cur_nimg == state.tick_start_nimg else None, snapshots)
        self.metrics.at_pause(Pause(None, True), state, snapshots)  # waits for those that are computed beside
        self._log_messages(snapshots)
        if snapshots is not None:
            snapshots.save_checkpoint()
        self._wait_for_storage()
        if snapshots is not None:
            snapshots.sinks.close()
        return "done"

    def _finish_networks(self, tick: int | None, snapshots: Snapshots | None) -> None:
        if snapshots is not None:
            snapshots.finish(tick)

    def _reals(self, state: TrainState) -> Any:
        """The stream of this rank's minibatches."""
        cfg, source = self.cfg, RealsSource.of(self.cfg, self.worker.dataset, state.stream_salt)
        log2 = math.log2(max(self.worker.dataset.resolution))
        return stream_of_reals(cfg, source, state.cur_nimg, log2, distributed.rank(), distributed.world_size())

    def _observed(self, reals: Iterator[MicroBatches], state: TrainState) -> Iterator[MicroBatches]:
        observer, log2 = self.worker.observer, math.log2(max(self.worker.dataset.resolution))
        return observer(reals, self.cfg, state.cur_nimg, log2) if observer else reals

    def _interrupted(self, signals: Signals, snapshots: Snapshots | None) -> bool:
        self.metrics.poll(snapshots)
        pauses = signals.interrupted()
        if signals.reason == LOG:
            self._log_messages(snapshots)
        return pauses

    def _log_messages(self, snapshots: Snapshots | None) -> None:
        """Brings the messages of all ranks to log.txt. A collective call."""
        by_rank = distributed.to_rank0(self.sender.take_messages())
        if snapshots is not None and by_rank is not None:
            messages = [text for of_rank in by_rank for text in of_rank]
            for text in messages:
                snapshots.sinks.message(text)
            self.sender.note_logged(messages)

    def _record(self, pause: Pause, snapshots: Snapshots | None) -> None:
        self._log_messages(snapshots)
        if snapshots is not None:
            snapshots.at_pause(pause)
            if pause.stats is not None:
                self.sender.post(TICK, pause.stats)

    def _save(self, pause: Pause, signals: Signals, snapshots: Snapshots | None) -> bool:
        """Writes a checkpoint in the background if one is due; at the end all ranks wait until it is stored.

        False: a worker has to leave before that.
        """
        ends = pause.done or signals.ends
        with self.watch("checkpoint"):
            is_due = ends or signals.reason == SAVE or pause.ends_tick_of(self.cfg.train.checkpoint_ticks)
            if snapshots is not None and is_due:
                snapshots.save_checkpoint()
                signals.saved_at = time.monotonic()
            self.rollback.note_checkpoint(self.writer is not None and self.writer.newest_checkpoint is not None)
            if ends and signals.reason == LEAVE:
                return self._flush(SEC_TO_LEAVE)
            if ends:
                self._wait_for_storage()
        return True

    def _flush(self, most_sec: float = MOST_SEC_TO_FINISH) -> bool:
        """Waits until rank 0 has written all files, or for some seconds; whether it has. A collective call."""
        return distributed.until_rank0(lambda sec: self.writer is None or self.writer.flush(sec), most_sec)

    def _wait_for_storage(self) -> None:
        """Waits until rank 0 has written all files. A collective call, and all ranks raise OSError alike."""
        if not self._flush():
            raise OSError(f"the storage has not taken the last files for {MOST_SEC_TO_FINISH / 60:.0f} min")


def describe_group(device: torch.device, threads: int) -> str:
    """Number of workers, device and backend, for the log."""
    num = distributed.world_size()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads each"
    backend = dist.get_backend() if dist.is_initialized() else "no group"
    return f"{num} worker{'s' if num > 1 else ''} on {where} ({backend})"


def describe_leaving(state: TrainState, is_stored: bool) -> str:
    """What a worker says that leaves, itself or with another one that does."""
    who = "received SIGTERM and ended" if is_terminated() else "ended with it"
    when = "after a checkpoint" if is_stored else f"{SEC_TO_LEAVE:g} s after a checkpoint that is not stored,"
    return f"{who} {when} at {state.cur_nimg / 1000:g} kimg"
