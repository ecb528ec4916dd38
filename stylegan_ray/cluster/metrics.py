"""Metrics of a training worker: all workers of the group compute them inline, or a task beside the training does."""

from __future__ import annotations

import torch

from stylegan_ray import distributed
from stylegan_ray.cluster.async_metrics import AsyncMetrics, pending_requests
from stylegan_ray.cluster.channel import Sender
from stylegan_ray.cluster.metric_results import MetricResults, RunMetrics
from stylegan_ray.config import RunConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.storage import Storage
from stylegan_ray.train.loop import Pause
from stylegan_ray.train.metrics import GroupMetrics, is_due, tick_to_catch_up
from stylegan_ray.train.state import TrainState


class InlineMetrics(RunMetrics):
    """The training waits while all workers compute them; rank 0 stores the rows before the checkpoint of the tick."""

    def __init__(self, cfg: RunConfig, dataset: Dataset, device: torch.device, sender: Sender) -> None:
        self.cfg, self.sender, self.results = cfg, sender, MetricResults(sender)
        self.group = GroupMetrics(cfg, dataset, device)

    def begin(self, state: TrainState, snapshots: Snapshots | None) -> None:
        if snapshots is not None:
            self._drop_requests(snapshots.writer.run)
        tick = tick_to_catch_up(state, self.cfg)
        lacks = snapshots is not None and tick is not None and not snapshots.has_metrics(tick, state.cur_nimg)
        if tick is not None and distributed.from_rank0(lacks):
            self._compute(state, tick, snapshots)

    def at_pause(self, pause: Pause, state: TrainState, snapshots: Snapshots | None) -> None:
        if pause.stats is not None and is_due(self.cfg, pause.stats["Progress/tick"], pause.done):
            self._compute(state, pause.stats["Progress/tick"], snapshots)

    def _drop_requests(self, run: Storage) -> None:
        """Deletes requests from a start of the run that had a device for them."""
        for request in pending_requests(run):
            self.sender.message(f"metrics at {request.kimg:g} kimg are dropped: the device for them is gone")
            request.delete(run)

    def _compute(self, state: TrainState, tick: int, snapshots: Snapshots | None) -> None:
        rows = self.group.rows(state, tick)
        if snapshots is not None:
            self.results.add(rows, snapshots)


def metrics_of_run(
    cfg: RunConfig, dataset: Dataset, run_address: str, device: torch.device, sender: Sender, placement: str
) -> RunMetrics:
    """The metrics of a run, as the preflight has placed them: `inline` or `async`."""
    if not cfg.metrics.names:
        return RunMetrics()
    if cfg.metrics.all_images and cfg.data.subset is not None:
        dataset = open_dataset(cfg.data.model_copy(update={"subset": None}), cfg.run.seed)
    if placement == "inline":
        return InlineMetrics(cfg, dataset, device, sender)
    return AsyncMetrics(cfg, dataset, run_address, device, sender)
