"""What both kinds of metrics of a run share: when a worker calls them, and where their rows go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stylegan_ray.cluster.channel import METRIC, Sender
from stylegan_ray.metrics.rows import Row
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.train.loop import Pause
from stylegan_ray.train.metrics import format_rows, scalars
from stylegan_ray.train.state import TrainState


class RunMetrics:
    """No metrics. Every rank has one and makes the same calls; only that of rank 0 gets a `snapshots`."""

    def begin(self, state: TrainState, snapshots: Snapshots | None) -> None:
        """Before the training begins or continues: computes what is due there and missing."""

    def at_pause(self, pause: Pause, state: TrainState, snapshots: Snapshots | None) -> None:
        """Between two groups of minibatches: computes what is due."""

    def poll(self, snapshots: Snapshots | None) -> None:
        """Between two groups, at any time: stores results that are ready."""


class MetricResults:
    """Where rank 0 brings rows: into the run's files, and to the driver."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self._unavailable: set[str] = set()

    def add(self, rows: Sequence[Row], snapshots: Snapshots, keep: Callable[[str], None] | None = None) -> None:
        """Stores the rows of one network; see Snapshots.add_metrics."""
        snapshots.add_metrics(rows, keep)
        values = scalars(rows)
        if values:
            self.sender.message(format_rows(rows))
            place = {"Progress/tick": rows[0]["Progress/tick"], "Progress/kimg": rows[0]["kimg"]}
            self.sender.post(METRIC, {**place, **values})
        for text in (f"{row['metric']} is unavailable: {row['unavailable']}" for row in rows if "unavailable" in row):
            if text not in self._unavailable:  # once, not every time it is due
                self._unavailable.add(text)
                self.sender.message(text)
