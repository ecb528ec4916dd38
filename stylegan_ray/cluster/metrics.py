"""Metrics of a training worker: taken when they are due, noted by rank 0, told to whoever drives the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from stylegan_ray import distributed
from stylegan_ray.cluster.channel import METRIC, Line
from stylegan_ray.cluster.pending import pending
from stylegan_ray.config import RunConfig
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.metrics.rows import Row
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.storage import Storage
from stylegan_ray.train.loop import Pause
from stylegan_ray.train.metrics import GroupMetrics, is_due, scalars, tick_to_catch_up, told
from stylegan_ray.train.state import TrainState


class NoMetrics:
    """Metrics of a run that takes none; every rank has one and calls it at the same places."""

    def begin(self, state: TrainState, snapshots: Snapshots | None) -> None:
        """Before the training begins or goes on: takes what is due there and missing."""

    def at_pause(self, pause: Pause, state: TrainState, snapshots: Snapshots | None) -> None:
        """Between two groups of minibatches: takes what is due."""

    def look(self, snapshots: Snapshots | None) -> None:
        """Between two groups, whenever: takes notice of what has come in."""

    def news(self) -> Mapping[str, float]:
        """Values since the last call, as Metrics/<name>; rank 0 has them."""
        return {}


class Inline(NoMetrics):
    """The training waits while all workers of the group take them; rank 0 notes them before the tick's checkpoint."""

    def __init__(self, cfg: RunConfig, dataset: Dataset, device: torch.device, line: Line) -> None:
        self.cfg, self.notes = cfg, Notes(line)
        self.group = GroupMetrics(cfg, dataset, device)

    def begin(self, state: TrainState, snapshots: Snapshots | None) -> None:
        if snapshots is not None:
            self._leave_out(snapshots.writer.run)
        tick = tick_to_catch_up(state, self.cfg)
        if tick is not None and distributed.from_rank0(snapshots is not None and not snapshots.has_metrics(tick)):
            self._take(state, tick, snapshots)

    def at_pause(self, pause: Pause, state: TrainState, snapshots: Snapshots | None) -> None:
        if pause.stats is not None and is_due(self.cfg, pause.stats["Progress/tick"], pause.done):
            self._take(state, pause.stats["Progress/tick"], snapshots)

    def news(self) -> Mapping[str, float]:
        return self.notes.take()

    def _leave_out(self, run: Storage) -> None:
        """Deletes requests from a time when metrics were taken beside the training."""
        for request in pending(run):
            self.notes.line.say(f"metrics at {request.kimg:g} kimg are left out: they waited for a device that is gone")
            request.delete(run)

    def _take(self, state: TrainState, tick: int, snapshots: Snapshots | None) -> None:
        rows = self.group.rows(state, tick)
        if snapshots is not None:
            self.notes.add(rows, snapshots)


class Notes:
    """Where rank 0 brings rows: to the run's files, to the driver, and to the next report to Ray Train."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._news: dict[str, float] = {}
        self._said: set[str] = set()

    def add(self, rows: Sequence[Row], snapshots: Snapshots, keep: Callable[[str], None] | None = None) -> None:
        """Notes the rows that one network gave; see Snapshots.add_metrics."""
        snapshots.add_metrics(rows, keep)
        values = scalars(rows)
        if values:
            self.line.say(told(rows))
            place = {"Progress/tick": rows[0]["Progress/tick"], "Progress/kimg": rows[0]["kimg"]}
            self.line.post(METRIC, {**place, **values})
        for text in (f"{row['metric']} is unavailable: {row['unavailable']}" for row in rows if "unavailable" in row):
            if text not in self._said:  # once, not every time it is due
                self._said.add(text)
                self.line.say(text)
        self._news |= values

    def take(self) -> Mapping[str, float]:
        """Values that came since the last call."""
        news, self._news = self._news, {}
        return news


def metrics_of_run(
    cfg: RunConfig, dataset: Dataset, run_address: str, device: torch.device, line: Line, placement: str
) -> NoMetrics:
    """How a run takes its metrics."""
    if not cfg.metrics.names:
        return NoMetrics()
    if placement == "inline":
        return Inline(cfg, dataset, device, line)
    from stylegan_ray.cluster.async_metrics import Beside

    return Beside(cfg, dataset, run_address, device, line)
