"""What the page of a run shows, read from the run's folder; what is missing or damaged there is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from stylegan_ray.config import RunConfig
from stylegan_ray.credentials import logger_of
from stylegan_ray.jsonl import (
    LARGEST_VALUE,
    dated_metric_rows,
    is_clock,
    is_number,
    rows_so_far,
    tick_rows,
)
from stylegan_ray.metrics.names import MOST_CURVES, best_index
from stylegan_ray.run_folder import (
    FAULTS,
    METRICS,
    REALS,
    TICKS,
    dated_images_of,
    how_ended,
    newest_nimg,
    read_config,
    read_run_file,
)
from stylegan_ray.storage import Storage

Result = TypeVar("Result")
Row = dict[str, Any]


log = logger_of(__name__)

CLOCKS = ("time", "start", "nimg", "Timing/timestamp", "Timing/total_sec")


@dataclass(frozen=True)
class RunData:
    """The content of a run's folder."""

    folder: Storage
    cfg: RunConfig
    run_file: Row
    """The content of run.json."""
    ticks: Sequence[Row]
    metrics: Sequence[Row]
    """Rows with a value."""
    faults: Sequence[Row]
    """Commands, starts, faults, rollbacks and the end, with their time."""
    images: dict[str, int] = field(default_factory=dict)
    """cur_nimg of each grid of generated images, oldest first."""
    reals: str | None = None
    nimg: int = 0
    """cur_nimg of the newest complete checkpoint."""
    ended: str | None = None

    @classmethod
    def read(cls, run: Storage) -> RunData:
        """Raises ConfigError where the configuration cannot be read."""
        metrics = _or(partial(dated_metric_rows, run, METRICS), [])
        shown = list(dict.fromkeys(row["metric"] for row in metrics))
        if len(shown) > MOST_CURVES:
            log.warning("%s: the page shows %d of %d metrics", run.root, MOST_CURVES, len(shown))
        return cls(
            run,
            read_config(run),
            _or(partial(read_run_file, run), {}),
            _or(partial(tick_rows, run, TICKS), []),
            [row for row in metrics if row.get("value") is not None and row["metric"] in shown[:MOST_CURVES]],
            [row for row in _or(partial(rows_so_far, run, FAULTS), []) if number(row, "time") is not None],
            _or(partial(dated_images_of, run), {}),
            f"{REALS}.png" if run.exists(f"{REALS}.png") else None,
            newest_nimg(run) or 0,
            how_ended(run),
        )

    @property
    def name(self) -> str:
        return str(self.run_file.get("name") or self.cfg.run.name or "run")

    @property
    def kimg(self) -> float:
        """How far the run has come."""
        newest = number(self.ticks[-1], "Progress/kimg") if self.ticks else 0.0
        return max(newest or 0.0, self.nimg / 1000)

    @property
    def data(self) -> Row:
        found = self.run_file.get("data")
        return found if isinstance(found, dict) else {}

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """kimg and value of a key of the ticks."""
        pairs = [(row["Progress/kimg"], value) for row in self.ticks if (value := number(row, key)) is not None]
        return [kimg for kimg, _ in pairs], [value for _, value in pairs]

    def metric(self, name: str) -> tuple[list[float], list[float]]:
        """kimg and value of a metric."""
        rows = [row for row in self.metrics if row.get("metric") == name]
        return [row["kimg"] for row in rows], [row["value"] for row in rows]

    @property
    def metric_names(self) -> list[str]:
        """Metrics with at least one value, in the order of their first."""
        return list(dict.fromkeys(name for row in self.metrics if isinstance(name := row.get("metric"), str)))

    def best(self, name: str) -> tuple[float, float]:
        """kimg and value of the best value of a metric."""
        kimg, values = self.metric(name)
        best = best_index(name, values)
        return kimg[best], values[best]


def number(row: Row, key: str) -> float | None:
    """A number in a row, of times and clocks one that a date or an axis can show; None for anything else."""
    value = row.get(key)
    if not is_number(value) or (not is_clock(value) if key in CLOCKS else abs(value) >= LARGEST_VALUE):
        return None
    return float(value)


def _or(read: Callable[[], Result], otherwise: Result) -> Result:
    with suppress(OSError, ValueError):
        return read()
    return otherwise
