"""One training worker: build, resume, loop, report."""

from __future__ import annotations

import logging
import math
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import Checkpoint, CheckpointUploadMode

from stylegan_ray import distributed
from stylegan_ray.cluster.mailbox import BEGIN, FAIL, SAY, TICK, Line, LogToDriver
from stylegan_ray.cluster.reals import stream_of_reals
from stylegan_ray.config import RunConfig, validated
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.reals import RealsSource
from stylegan_ray.runs import STOP
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import (
    FOLDER,
    Snapshot,
    checkpoint_name,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from stylegan_ray.train.loop import Pause, training_loop
from stylegan_ray.train.process import prepare_process
from stylegan_ray.train.recorder import Recorder
from stylegan_ray.train.resume import start_from
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.stats import StopWatch

GO_ON, SAVE, STOP_RUN = 0, 1, 2
SECONDS_BETWEEN_LOOKS = 1.0
"""How often rank 0 looks for the STOP file."""


@dataclass(frozen=True)
class Order:
    """What the driver hands to every worker."""

    cfg: dict[str, Any]
    dataset: Dataset
    run_address: str
    threads: int
    mailbox: Any
    resume_from: str | None = None


def train_worker(config: dict[str, Any]) -> str:
    """Trains to the end or until asked to stop; returns "done" or "stopped"."""
    order: Order = config["order"]
    line = Line(order.mailbox)
    logging.getLogger("stylegan_ray").addHandler(LogToDriver(line))
    try:
        return _train(order, line)
    except Exception as error:
        kind = SAY if is_transient(error) else FAIL
        said = str(error) if isinstance(error, (ValueError, FloatingPointError)) else traceback.format_exc()
        line.post_and_wait(kind, f"worker {distributed.rank()} failed: {said}")
        raise


def is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed: lost peers, nodes or storage, but not errors of data, numbers or code."""
    if isinstance(error, (RayError, OSError, dist.DistError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection", "socket"))


def _train(order: Order, line: Line) -> str:
    cfg = validated(order.cfg)
    device = ray.train.torch.get_device()
    prepare_process(cfg, order.threads)
    run, dataset = Storage.at(order.run_address), order.dataset
    state = TrainState.create(cfg, dataset.resolution, dataset.num_channels, dataset.label_size, device)
    state.data_fingerprint = dataset.fingerprint
    came_from = resume(state, cfg, run, order.resume_from)
    is_first = distributed.rank() == 0
    if is_first:
        line.post(BEGIN, state.cur_nimg)
        line.post(SAY, f"{came_from}; {describe_group(device, order.threads)}")
    recorder = Recorder(run, cfg, dataset, state) if is_first else None
    watch = StopWatch(device)
    saver, signals = Saver(cfg, run, watch), Signals(cfg, run, line, device)
    source = RealsSource(
        dataset, cfg.run.seed, state.stream_salt, cfg.data.mirror_augment, cfg.data.shuffle, cfg.data.on_bad_image
    )
    if state.cur_nimg >= cfg.train.total_kimg * 1000:
        return "done"
    log2 = math.log2(max(dataset.resolution))
    rank, world_size = distributed.rank(), distributed.world_size()
    with stream_of_reals(cfg, source, state.cur_nimg, log2, rank, world_size) as reals:
        if recorder is not None:
            recorder.begin()
        for pause in training_loop(state, cfg, reals, dataset, signals.interrupted, watch):
            if recorder is not None:
                recorder.at_pause(pause)
                if pause.stats is not None:
                    line.post(TICK, pause.stats)
            if saver.at_pause(pause, state, signals.reason, recorder):
                signals.saved_at = time.monotonic()
            if signals.reason == STOP_RUN and not pause.done:
                break
    if recorder is not None:
        recorder.files.close()
    return "done" if pause.done else "stopped"


def describe_group(device: torch.device, threads: int) -> str:
    """Who computes, for the log."""
    num = distributed.world_size()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads each"
    backend = dist.get_backend() if dist.is_initialized() else "no group"
    return f"{num} worker{'s' if num > 1 else ''} on {where} ({backend})"


def resume(state: TrainState, cfg: RunConfig, run: Storage, resume_from: str | None) -> str:
    """Puts the state where the run stood, or where another run's networks stand; says where that is."""
    checkpoints = run.folder(FOLDER)
    newest = newest_checkpoint(checkpoints) if distributed.rank() == 0 else None
    name = distributed.from_rank0(newest.name if newest else None)
    if name is not None:
        snapshot = newest or read_checkpoint(checkpoints.folder(name))
        snapshot.restore(state)
        return f"continuing at {state.cur_nimg / 1000:g} kimg from {name}"
    if resume_from is not None:
        copied = start_from(state, cfg, resume_from)
        return "\n".join([*copied, f"starting at {state.cur_nimg / 1000:g} kimg with the networks of {resume_from}"])
    return "starting a new run"


class Signals:
    """Asks between groups whether to save or stop; all ranks get rank 0's answer."""

    def __init__(self, cfg: RunConfig, run: Storage, line: Line, device: torch.device) -> None:
        self.run, self.line, self.device = run, line, device
        self.save_sec = (cfg.train.checkpoint_minutes or math.inf) * 60
        self.saved_at = self.looked_at = time.monotonic()
        self.reason = GO_ON

    def interrupted(self) -> bool:
        """Whether the loop should pause now."""
        mine = self._look() if distributed.rank() == 0 else GO_ON
        self.reason = distributed.largest_over_ranks(mine, self.device)
        return self.reason != GO_ON

    def _look(self) -> int:
        now = time.monotonic()
        if now - self.looked_at >= SECONDS_BETWEEN_LOOKS:
            self.looked_at = now
            if self.line.is_stopping() or self.run.exists(STOP):
                return STOP_RUN
        return SAVE if now - self.saved_at >= self.save_sec else GO_ON


class Saver:
    """Reports every pause to Ray Train, with a checkpoint when one is due; uploads run beside the training."""

    def __init__(self, cfg: RunConfig, run: Storage, watch: StopWatch) -> None:
        self.cfg, self.run, self.watch = cfg, run, watch

    def at_pause(self, pause: Pause, state: TrainState, reason: int, recorder: Recorder | None) -> bool:
        """Every rank calls this at every pause; rank 0 brings the checkpoint and hears whether one was due."""
        with self.watch("checkpoint"):
            metrics = pause.stats or {"Progress/kimg": state.cur_nimg / 1000}
            if recorder is None or not self._is_due(pause, reason):
                ray.train.report(metrics, checkpoint_dir_name=self._folder(state))
                return False
            recorder.files.sync()
            snapshot = Snapshot.of(state, self.cfg)
            ray.train.report(
                metrics,
                checkpoint=Checkpoint.from_directory(tempfile.mkdtemp(prefix="stylegan_ray-")),
                checkpoint_dir_name=self._folder(state),
                checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
                checkpoint_upload_fn=partial(upload, snapshot, self.run),
            )
            return True

    def _is_due(self, pause: Pause, reason: int) -> bool:
        if pause.done or reason != GO_ON:
            return True
        every = self.cfg.train.checkpoint_ticks
        return every is not None and pause.stats is not None and pause.stats["Progress/tick"] % every == 0

    def _folder(self, state: TrainState) -> str:
        return f"{FOLDER}/{checkpoint_name(state.cur_nimg)}"


def upload(snapshot: Snapshot, run: Storage, _local: Checkpoint, _name: str) -> Checkpoint:
    """Writes a snapshot into the run's folder; Ray Train calls it in a thread of its own."""
    name = write_checkpoint(snapshot, run.folder(FOLDER))
    return Checkpoint(run.path(f"{FOLDER}/{name}"), run.filesystem)
