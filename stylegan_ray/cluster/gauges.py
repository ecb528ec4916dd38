"""Gauges of a run at the Prometheus endpoint of its driver's Ray node; grafana/stylegan_ray.json draws them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray.util.metrics import Gauge

from stylegan_ray.cluster.supervise import View
from stylegan_ray.jsonl import rows_so_far
from stylegan_ray.run_folder import FAULTS, newest_saved_at
from stylegan_ray.storage import Storage

OF_TICKS = {
    "stylegan_kimg": ("Progress/kimg", "Thousands of real images shown to D."),
    "stylegan_sec_per_kimg": ("Timing/sec_per_kimg", "Seconds per thousand images."),
    "stylegan_data_wait_share": ("Timing/share/data", "Share of the time in which the training waits for images."),
    "stylegan_loss_g": ("Loss/G/loss", "Loss of G, the mean over the last tick."),
    "stylegan_loss_d": ("Loss/D/loss", "Loss of D, the mean over the last tick."),
    "stylegan_augment_p": ("Progress/augment_p", "Probability of each augmentation."),
}
"""Name, key of stats.jsonl and description. Ray puts ray_ before each name and writes it in lower case."""
METRIC, AGE, RESTARTS = "stylegan_metric", "stylegan_checkpoint_age_sec", "stylegan_restarts"
OF_METRICS = "Metrics/"
"""How the keys of metrics begin."""
AGAIN_SEC = 5.0
"""How often all gauges are set: Ray drops what has not been set for two of its reports, which are 10 s apart."""


class Gauges:
    """A view that sets the gauges of a run and passes everything on to another view."""

    def __init__(self, view: View, run: Storage, name: str) -> None:
        self.view, self.folder = view, run
        self.tags = {"run_name": name}
        self.of_ticks = {key: self._gauge(gauge, text) for gauge, (key, text) in OF_TICKS.items()}
        self.of_metrics = Gauge(METRIC, "Newest value of a metric.", ("run_name", "metric"))
        self.age = self._gauge(AGE, "Seconds since the newest complete checkpoint was written.")
        self.restarts = self._gauge(RESTARTS, "Restarts of the workers over the life of the run.")
        self.newest: dict[str, float] = {}
        self._again_at = 0.0

    def tick(self, row: Mapping[str, Any]) -> None:
        self.newest |= {key: row[key] for key in self.of_ticks if row.get(key) is not None}
        self._set()
        self.view.tick(row)

    def metric(self, values: Mapping[str, Any]) -> None:
        self.newest |= {key: value for key, value in values.items() if key.startswith(OF_METRICS) and value is not None}
        self._set()
        self.view.metric(values)

    def message(self, text: str) -> None:
        self.view.message(text)

    def refresh(self) -> None:
        now = time.monotonic()
        if now >= self._again_at:
            self._again_at = now + AGAIN_SEC
            self._set()
            with suppress(OSError):  # storage that fails for a while
                self._look()
        self.view.refresh()

    def _set(self) -> None:
        for key, value in self.newest.items():
            if key.startswith(OF_METRICS):
                self.of_metrics.set(value, self.tags | {"metric": key.removeprefix(OF_METRICS)})
            else:
                self.of_ticks[key].set(value, self.tags)

    def _look(self) -> None:
        if (saved_at := newest_saved_at(self.folder)) is not None:
            self.age.set(max(time.time() - saved_at, 0.0), self.tags)
        self.restarts.set(num_restarts(self.folder), self.tags)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("run_name",))


def num_restarts(run: Storage) -> int:
    """How often workers of a run started again, without the first start of each command."""
    starts, is_first = 0, True
    for row in rows_so_far(run, FAULTS):
        if "command" in row:
            is_first = True
        elif "start" in row:
            starts, is_first = starts + (not is_first), False
    return starts
