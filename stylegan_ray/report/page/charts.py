"""The charts of the page of a run, as SVG with the values that its script shows under the pointer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from stylegan_ray.report.charts import (
    BLUE,
    GRAY,
    GREEN,
    LIGHT,
    ORANGE,
    PURPLE,
    RED,
    SAND,
    TEAL,
    new_figure,
    plain_axes,
    svg_of,
)
from stylegan_ray.report.page.read import RunData, number
from stylegan_ray.train.stats import TIMED_PARTS

SIZE, WIDE = (3.9, 2.2), (9.6, 3.0)
"""Inches: of a curve, and of a chart over the whole width."""
MOST_POINTS = 400
"""Of a curve; longer ones show means of neighbors."""
COLORS = (BLUE, ORANGE, GREEN, PURPLE, TEAL, RED, SAND)
Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Chart:
    """A chart with its title, and what the pointer shows."""

    title: str
    svg: str
    legend: Sequence[tuple[str, str]] = ()
    """Names and colors."""
    hover: Mapping[str, Any] | None = None
    """Place of the axes in the figure, in fractions, the range of x, and the points."""


def charts_of(data: RunData) -> list[Chart]:
    """The small charts: metrics, losses, penalties, and what else changes in this run."""
    found = [line_chart(name, {name: data.metric(name)}, markers=True) for name in data.metric_names]
    groups = {
        "Loss": {"G": "Loss/G/loss", "D": "Loss/D/loss"},
        "Scores of D": {"reals": "Loss/scores/real", "fakes": "Loss/scores/fake"},
        "Regularization": {"path length": "Loss/G/reg", "R1": "Loss/D/reg"},
        "Augmentation p": {"p": "Progress/augment_p"},
        "Signs of reals": {"mean sign": "Loss/signs/real"},
        "Path length": {"pl_mean": "Loss/pl_mean"},
        "Level of detail": {"lod": "Progress/lod"},
        "Seconds per kimg": {"sec/kimg": "Timing/sec_per_kimg"},
        "Memory in GiB": {"worker": "Resources/cpu_mem_gb", "GPU": "Resources/peak_gpu_mem_gb"},
        "Steps skipped": {"not finite": "nonfinite"},
    }
    for title, keys in groups.items():
        curves = {name: curve for name, key in keys.items() if (curve := data.curve(key))[0]}
        if title not in ("Loss", "Scores of D", "Seconds per kimg"):
            curves = {name: curve for name, curve in curves.items() if any(curve[1])}
        if curves:
            found.append(line_chart(title, curves))
    return found


def line_chart(title: str, curves: Curves, markers: bool = False) -> Chart:
    """Curves over kimg."""
    figure, place = new_figure(*SIZE), (0.125, 0.14, 0.855, 0.82)
    axes = figure.add_axes(place)
    points = {name: thinned(*curve) for name, curve in curves.items()}
    values = [value for _, ys in points.values() for value in ys]
    if min(values) > 0 and max(values) / min(values) > 30:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    legend = list(zip(points, COLORS, strict=False))
    for (_, color), (xs, ys) in zip(legend, points.values(), strict=True):
        alone = markers or len(xs) == 1
        axes.plot(xs, ys, color=color, linewidth=1.6, marker="o" if alone else None, markersize=4 if alone else 0)
    return Chart(title, svg_of(_finished(axes)), legend, hover_of(axes, place, points))


def share_chart(data: RunData) -> Chart | None:
    """Parts of the training time over kimg, stacked."""
    found = {part: data.curve(f"Timing/share/{part}") for part in TIMED_PARTS}
    found = {part: curve for part, curve in found.items() if len(curve[0]) == len(data.ticks) and any(curve[1])}
    if len(data.ticks) < 2 or not found:
        return None
    points = {part: thinned(*curve) for part, curve in found.items()}
    figure, place = new_figure(*WIDE), (0.06, 0.12, 0.925, 0.84)
    axes = figure.add_axes(place)
    xs = next(iter(points.values()))[0]
    percent = {part: [100 * value for value in ys] for part, (_, ys) in points.items()}
    axes.stackplot(xs, list(percent.values()), colors=COLORS[: len(points)], alpha=0.85, linewidth=0)
    axes.set_ylim(0, 100)
    legend = [(part.replace("_", " "), color) for part, color in zip(points, COLORS, strict=False)]
    hover = hover_of(axes, place, {part.replace("_", " "): (xs, ys) for part, ys in percent.items()}, "%")
    return Chart("Shares of the training time in %", svg_of(_finished(axes)), legend, hover)


def timeline(data: RunData) -> Chart | None:
    """kimg over the time on the wall, with starts, faults and rollbacks: a gap is time without training."""
    points = [(stamp, row["Progress/kimg"]) for row in data.ticks if (stamp := number(row, "Timing/timestamp"))]
    starts = [(row["time"], number(row, "start") / 1000) for row in data.faults if number(row, "start") is not None]  # type: ignore[operator]
    if not points and not starts:
        return None
    begin = min(stamp for stamp, _ in [*points, *starts])
    end = max(stamp for stamp, _ in [*points, *starts, *((row["time"], 0) for row in data.faults)])
    unit, name = (3600.0, "hours") if end - begin < 3 * 86400 else (86400.0, "days")
    if end - begin < 2 * 3600:
        unit, name = 60.0, "minutes"
    figure, place = new_figure(*WIDE), (0.06, 0.16, 0.925, 0.8)
    axes = figure.add_axes(place)
    for piece in pieces(points, starts):
        xs, ys = thinned([(stamp - begin) / unit for stamp, _ in piece], [kimg for _, kimg in piece])
        axes.plot(xs, ys, color=BLUE, linewidth=2, marker="o" if len(xs) == 1 else None, markersize=4)
    legend = [("training", BLUE)]
    marks = {"fault": ("a fault", RED), "rollback": ("a rollback", PURPLE), "start": ("workers start", GREEN)}
    for key, (text, color) in marks.items():
        times = [(row["time"] - begin) / unit for row in data.faults if row.get(key) is not None]
        for x in times[-200:]:
            axes.axvline(x, color=color, linewidth=1.4 if key != "start" else 0.8, alpha=0.75, zorder=0)
        if times:
            legend.append((text, color))
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(begin))
    axes.set_xlabel(f"{name} since {when}", color=GRAY, fontsize=8)
    axes.set_ylim(bottom=0)
    return Chart("kimg over time", svg_of(_finished(axes)), legend)


def pieces(
    points: Sequence[tuple[float, float]], starts: Sequence[tuple[float, float]]
) -> list[list[tuple[float, float]]]:
    """Points of a run in the order of their time, in one piece for each start of workers."""
    found: list[list[tuple[float, float]]] = []
    for stamp, kimg, is_start in sorted(
        [*((*point, False) for point in points), *((*start, True) for start in starts)]
    ):
        if is_start or not found:
            found.append([])
        found[-1].append((stamp, kimg))
    return found


def thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve of at most MOST_POINTS: means of neighbors, but for the last point."""
    if len(xs) <= MOST_POINTS:
        return list(xs), list(ys)
    bounds = np.linspace(0, len(xs) - 1, MOST_POINTS).astype(int)
    means = [np.add.reduceat(np.asarray(v, np.float64), bounds[:-1]) for v in (xs, ys)]
    sizes = np.diff(np.append(bounds[:-1], len(xs)))
    return [*(means[0] / sizes).tolist(), xs[-1]], [*(means[1] / sizes).tolist(), ys[-1]]


def hover_of(axes: Axes, place: Sequence[float], points: Curves, unit: str = "") -> dict[str, Any]:
    """What the page's script needs to show values under the pointer."""
    left, right = axes.get_xlim()
    shown = {name: [[_short(x) for x in xs], [_short(y) for y in ys]] for name, (xs, ys) in points.items()}
    return {"left": place[0], "right": place[0] + place[2], "from": left, "to": right, "unit": unit, "points": shown}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _finished(axes: Axes) -> Any:
    plain_axes(axes)
    axes.grid(axis="y", color=LIGHT)
    axes.set_axisbelow(True)
    return axes.figure
