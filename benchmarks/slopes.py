"""How fast a quantity grows in a long run whose processes end and start anew: one line for each lifetime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP = 0.1
"""The share of a lifetime that is left out at its beginning."""
BLOCKS = 10
"""The rest of a lifetime is averaged over so many equal spans, since neighboring samples are not independent."""


@dataclass(frozen=True)
class Growth:
    """The common slope of several lifetimes."""

    level: float
    """The mean value after the first tenth of each lifetime."""
    per_hour: float
    """Units an hour."""
    error: float
    """Standard error of `per_hour`; infinite where there are too few samples to tell."""
    lifetimes: int
    """How many lifetimes were long enough to count."""
    hours: float
    """How long they were together, without the first tenths."""

    @property
    def percent_per_hour(self) -> float:
        return 100 * self.per_hour / self.level if self.level else 0.0

    @property
    def certain_percent_per_hour(self) -> float:
        """The slope less twice its standard error: growth that is not by chance."""
        return 100 * (self.per_hour - 2 * self.error) / self.level if self.level else 0.0


Lifetime = tuple[Sequence[float], Sequence[float]]
"""Times of the samples in hours, ascending, and their values."""


def growth(lifetimes: Iterable[Lifetime]) -> Growth | None:
    """The slope within lifetimes by least squares; None where no lifetime has a sample in each of its spans.

    Each lifetime has a level of its own, and all have one slope: a process that starts anew begins at another level,
    which neither hides a leak nor looks like one. Longer lifetimes weigh more, by the variance of their times.
    """
    spans = [found for times, values in lifetimes if (found := _spans(times, values)) is not None]
    if not spans:
        return None
    times = np.concatenate([span[0] - span[0].mean() for span in spans])
    values = np.concatenate([span[1] - span[1].mean() for span in spans])
    slope = float(times @ values / (times @ times))
    freedom = len(times) - len(spans) - 1
    rest = values - slope * times
    error = float(np.sqrt(rest @ rest / freedom / (times @ times))) if freedom > 0 else float("inf")
    hours = sum(float(span[0][-1] - span[0][0]) * BLOCKS / (BLOCKS - 1) for span in spans)
    return Growth(float(np.concatenate([span[1] for span in spans]).mean()), slope, error, len(spans), hours)


def growth_across(lifetimes: Iterable[Lifetime]) -> float:
    """Percent an hour by which the levels of lifetimes grow from one to the next; 0 with fewer than three."""
    spans = [found for times, values in lifetimes if (found := _spans(times, values)) is not None]
    if len(spans) < 3:
        return 0.0
    times, levels = (np.array([span[i].mean() for span in spans]) for i in (0, 1))
    if not np.ptp(times) or not levels.mean():
        return 0.0
    return float(100 * np.polyfit(times - times.mean(), levels, 1)[0] / levels.mean())


def _spans(times: Sequence[float], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean times and mean values of the spans of a lifetime after its first tenth."""
    hours, y = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    kept = hours >= hours[0] + WARM_UP * (hours[-1] - hours[0])
    hours, y = hours[kept], y[kept]
    edges = np.linspace(hours[0], hours[-1], BLOCKS + 1)
    span = np.clip(np.searchsorted(edges, hours, side="right") - 1, 0, BLOCKS - 1)
    counts = np.bincount(span, minlength=BLOCKS)
    if len(hours) <= BLOCKS or not counts.all():
        return None
    return np.bincount(span, hours) / counts, np.bincount(span, y) / counts
