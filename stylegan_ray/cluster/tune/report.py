"""The report of a sweep: objective over kimg, importance of parameters, parallel coordinates, image grids."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from stylegan_ray.data.decode import open_image, read_header
from stylegan_ray.metrics.plot import apart
from stylegan_ray.report.charts import GRAY, LIGHT, plain_axes, svg_of
from stylegan_ray.storage import Storage

WIDTH = 12.0
"""Inches; the PNG has DPI pixels to each."""
DPI = 160
CHARTS, GRIDS = (3.9, 3.1), 0.55
"""Inches: height of curves and coordinates, and of the caption above the image grids."""
RANKS = LinearSegmentedColormap.from_list("ranks", ["#0b5bb5", "#9ebed6", "#d9661f"])
"""Blue is the best trial, orange the worst."""
FEWEST_FOR_IMPORTANCE = 4
MOST_BARS = 9
SEED = "run.seed"
STATES = {
    "finished": "finished", "stopped": "stopped early", "diverged": "diverged", "failed": "failed",
    "open": "unfinished",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """A parameter."""

    key: str
    fraction: Callable[[Any], float]
    """The position of a value in [0, 1]."""
    lowest: str
    highest: str
    is_ordered: bool

    @property
    def name(self) -> str:
        return self.key.partition(".")[2]


@dataclass(frozen=True)
class Curve:
    """A trial."""

    name: str
    state: str
    rows: Sequence[tuple[float, float]]
    """kimg and objective."""
    values: Mapping[str, Any]
    starts: Sequence[int] = ()
    """Rows that are the first after a copy of another trial's state."""


@dataclass(frozen=True)
class Report:
    """All that the report shows."""

    title: str
    subtitle: str
    higher_is_better: bool
    axes: Sequence[Axis]
    trials: Sequence[Curve]
    order: Sequence[int]
    """Indices into `trials` of those with a value, the best first."""
    grids: Sequence[tuple[str, bytes]] = ()
    """Captions and PNG files."""

    def color(self, index: int) -> str:
        """The color of a trial by its rank."""
        return to_hex(RANKS(self.order.index(index) / max(len(self.order) - 1, 1)))


def write_report(report: Report, folder: Storage, name: str) -> None:
    """Writes NAME.png and NAME.html."""
    figure = draw(report)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    folder.write(f"{name}.png", png.getvalue())
    folder.write(f"{name}.html", html_page(report, svg_of(figure)).encode())


def draw(report: Report) -> Figure:
    """The figure; nothing of matplotlib's global state is used or changed."""
    heights = [*CHARTS, *([GRIDS + _grid_height(report)] if report.grids else [])]
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.title}: {report.subtitle}\n{summary(report)}", x=0.01, ha="left", fontsize=12)
    rows = GridSpec(len(heights), 1, figure, height_ratios=heights, hspace=0.06)
    charts = rows[0].subgridspec(1, 2, width_ratios=[7, 3], wspace=0.05)
    draw_curves(figure.add_subplot(charts[0]), report)
    draw_importances(figure.add_subplot(charts[1]), report)
    draw_coordinates(figure.add_subplot(rows[1]), report)
    if report.grids:
        cells = rows[2].subgridspec(1, 2, wspace=0.02)
        for column, (caption, png) in enumerate(report.grids):
            axes = figure.add_subplot(cells[column])
            axes.imshow(np.asarray(open_image(png)), cmap="gray", interpolation="nearest", resample=False)
            axes.set_title(caption, loc="left", fontsize=10)
            axes.axis("off")
    return figure


def _grid_height(report: Report) -> float:
    """Inches of an image grid that is half as wide as the report."""
    sizes = [read_header(png).size for _, png in report.grids]
    return max(WIDTH / 2 * height / width for width, height in sizes)


def summary(report: Report) -> str:
    """How the trials ended, and the best of them, in one line."""
    counts = {state: sum(trial.state == state for trial in report.trials) for state in STATES}
    text = ", ".join(f"{num} {STATES[state]}" for state, num in counts.items() if num)
    if not report.order:
        return text
    best = report.trials[report.order[0]]
    return f"{text}; best: {best.name} with {best.rows[-1][1]:.4g} at {best.rows[-1][0]:g} kimg"


@dataclass(frozen=True)
class Setting:
    """Trials that differ in run.seed only, and their objective where all of them have one."""

    label: str
    kimg: Sequence[float]
    values: np.ndarray
    """[trials, kimg]"""

    @property
    def last(self) -> np.ndarray:
        """The objective of each trial at the last kimg that all have."""
        return self.values[:, -1]


def settings_of(report: Report) -> list[Setting]:
    """The settings whose seeds are swept, the best mean first; none where no setting has two trials with values."""
    keys = [axis.key for axis in report.axes if axis.key != SEED]
    groups: dict[tuple[str, ...], list[Curve]] = {}
    if len(keys) < len(report.axes):
        for index in sorted(report.order):
            trial = report.trials[index]
            groups.setdefault(tuple(_word(key, trial.values) for key in keys), []).append(trial)
    if all(len(trials) < 2 for trials in groups.values()):
        return []
    found = [_setting(", ".join(words), trials) for words, trials in groups.items()]
    sign = -1 if report.higher_is_better else 1
    return sorted((setting for setting in found if setting.kimg), key=lambda setting: sign * setting.last.mean())


def _word(key: str, values: Mapping[str, Any]) -> str:
    """The value of a key; a hyphen where the trial does not set it."""
    if key not in values:
        return "-"
    return "null" if values[key] is None else str(values[key])


def _setting(label: str, trials: Sequence[Curve]) -> Setting:
    rows = [dict(trial.rows) for trial in trials]
    kimg = sorted(set.intersection(*map(set, rows)))
    return Setting(label, kimg, np.array([[row[at] for at in kimg] for row in rows]))


def draw_curves(axes: Axes, report: Report) -> None:
    """The objective over kimg: the mean and range of each setting whose seeds are swept, else a line per trial."""
    values = [value for trial in report.trials for _, value in trial.rows]
    if values and min(values) > 0 and max(values) / min(values) > 10:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    settings = settings_of(report)
    ends = _draw_settings(axes, settings) if settings else _draw_trials(axes, report)
    _label_ends(axes, ends)
    what = ": mean and range over seeds" if settings else ""
    axes.set_title(f"{report.title} over thousands of images{what}", loc="left", fontsize=10)
    axes.set_xlabel("kimg", color=GRAY)
    plain_axes(axes)
    axes.grid(axis="y", color=LIGHT)


class End(NamedTuple):
    """The right end of a line, and what is written there."""

    kimg: float
    value: float
    text: str
    color: str


def _draw_trials(axes: Axes, report: Report) -> list[End]:
    """One line per trial; a copy of another trial's state begins a new piece. Returns the ends, the best first."""
    ends = []
    for index in reversed(report.order):  # the best is drawn last, on top
        trial, color, is_best = report.trials[index], report.color(index), index == report.order[0]
        bounds = [0, *trial.starts, len(trial.rows)]
        for first, last in pairwise(bounds):
            axes.plot(*zip(*trial.rows[first:last], strict=True), color=color, linewidth=2.4 if is_best else 1.2)
        axes.plot(*trial.rows[-1], "o", color=color, markersize=6 if is_best else 4)
        kimg, value = trial.rows[-1]
        ends.append(End(kimg, value, f"{trial.name.removeprefix('trial ')}: {value:.4g}", color))
    return ends[::-1]


def _draw_settings(axes: Axes, settings: Sequence[Setting]) -> list[End]:
    """A line for the mean of each setting and a band from its lowest to its highest trial; returns the ends."""
    ends = []
    for rank, setting in enumerate(settings):
        color = to_hex(RANKS(rank / max(len(settings) - 1, 1)))
        mean, low, high = setting.values.mean(axis=0), setting.values.min(axis=0), setting.values.max(axis=0)
        if len(setting.values) > 1:
            axes.fill_between(setting.kimg, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(setting.kimg, mean, color=color, linewidth=1.8)
        seeds = f" ({low[-1]:.4g} to {high[-1]:.4g})" if len(setting.values) > 1 else ""
        ends.append(End(setting.kimg[-1], mean[-1], f"{setting.label}: {mean[-1]:.4g}{seeds}", color))
    return ends


def _label_ends(axes: Axes, ends: Sequence[End]) -> None:
    """The texts of the lines that reach the right edge, moved apart where they would overlap; the first one is bold."""
    if not ends:
        return
    axes.margins(x=0.02, y=0.08)
    axes.autoscale_view()
    axes.set_xlim(left=0)
    longest = max(end.kimg for end in ends)
    to_fraction = axes.transScale + axes.transLimits
    shown = [end for end in ends if end.kimg >= 0.97 * longest]
    spots = sorted((float(to_fraction.transform((end.kimg, end.value))[1]), end) for end in shown)
    placed: list[float] = []
    for fraction, end in spots:
        placed.append(apart(fraction, placed, 0.05))
        axes.annotate(
            end.text, (1.01, placed[-1]), xycoords="axes fraction", va="center", fontsize=8, color=end.color,
            fontweight="bold" if end is ends[0] else "normal",
        )  # fmt: skip


def draw_importances(axes: Axes, report: Report) -> None:
    """Bars of how much each parameter explains alone."""
    found = importances(report)[:MOST_BARS]
    axes.set_title("rank explained by one parameter", loc="left", fontsize=10)
    plain_axes(axes)
    if not found:
        axes.axis("off")
        axes.text(0, 0.9, f"shown from {FEWEST_FOR_IMPORTANCE} trials on", color=GRAY, transform=axes.transAxes)
        return
    names = [key.partition(".")[2] for key, _ in found]
    bars = axes.barh(range(len(found)), [100 * share for _, share in found], height=0.6, color=to_hex(RANKS(0.0)))
    axes.bar_label(bars, fmt="%.0f%%", padding=3, fontsize=8, color=GRAY)
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(max(len(found), 5) - 0.4, -0.6)
    axes.set_xlim(0, 110)
    axes.set_xticks([])
    axes.set_xlabel("of the rank's variance, by a parabola, adjusted;\nfew trials tell little", fontsize=8, color=GRAY)


def importances(report: Report) -> list[tuple[str, float]]:
    """How much of the objective's rank each parameter explains alone, in [0, 1], the largest first.

    The share of variance of a parabola in the parameter (of one mean per member where members have no order), less
    what chance would give (adjusted R squared), at the largest kimg that all trials reached.
    """
    reached = [trial for trial in report.trials if trial.rows and trial.state in ("finished", "stopped", "open")]
    if len(reached) < FEWEST_FOR_IMPORTANCE:
        return []
    common = min(max(kimg for kimg, _ in trial.rows) for trial in reached)
    scores = [[value for kimg, value in trial.rows if kimg <= common][-1] for trial in reached]
    ranks = np.argsort(np.argsort(scores)).astype(np.float64)
    found = []
    for axis in report.axes:
        have = [i for i, trial in enumerate(reached) if axis.key in trial.values]
        fractions = np.array([axis.fraction(reached[i].values[axis.key]) for i in have])
        found.append((axis.key, _explained(fractions, ranks[have], axis.is_ordered)))
    return sorted(found, key=lambda pair: -pair[1])


def _explained(fractions: np.ndarray, ranks: np.ndarray, is_ordered: bool) -> float:
    """Adjusted R squared, at least 0, of ranks over positions."""
    members = np.unique(fractions)
    if len(members) < 2 or np.ptp(ranks) == 0:
        return 0.0
    if is_ordered:
        columns = np.stack([np.ones_like(fractions), fractions, fractions**2], axis=1)[:, : min(len(members), 3)]
    else:
        columns = (fractions[:, None] == members[None, :]).astype(np.float64)
    free = len(ranks) - columns.shape[1]
    if free < 1:
        return 0.0
    fit = columns @ np.linalg.lstsq(columns, ranks, rcond=None)[0]
    residual, total = np.square(ranks - fit).sum() / free, np.square(ranks - ranks.mean()).sum() / (len(ranks) - 1)
    return float(max(1 - residual / total, 0.0))


def draw_coordinates(axes: Axes, report: Report) -> None:
    """Parallel coordinates: the values of each trial, and its objective on the last axis, the better the higher."""
    axes.set_title("values of each trial and its objective (up is better)", loc="left", fontsize=10, pad=34)
    axes.axis("off")
    scored = [report.trials[index].rows[-1][1] for index in report.order]
    if not scored:
        return
    worst, best = (min(scored), max(scored)) if report.higher_is_better else (max(scored), min(scored))
    last = len(report.axes)
    labels = [(axis.name, axis.lowest, axis.highest) for axis in report.axes]
    for x, (name, low, high) in enumerate([*labels, (report.title, f"{worst:.4g}", f"{best:.4g}")]):
        axes.plot([x, x], [0, 1], color="#bbbbbb", linewidth=1)
        y = 1.14 + 0.1 * (x % 2)  # two rows, so that long names of neighbors do not overlap
        axes.text(x, y, name, ha="center", fontsize=9, fontweight="bold", color="#333333")
        axes.text(x, 1.04, high, ha="center", fontsize=8, color=GRAY)
        axes.text(x, -0.04, low, ha="center", va="top", fontsize=8, color=GRAY)
    for index in reversed(report.order):
        trial, is_best = report.trials[index], index == report.order[0]
        points = [
            (float(x), axis.fraction(trial.values[axis.key]))
            for x, axis in enumerate(report.axes)
            if axis.key in trial.values
        ]
        points.append((float(last), (trial.rows[-1][1] - worst) / (best - worst) if best != worst else 0.5))
        style: dict[str, Any] = (
            {"linewidth": 2.6, "markersize": 6} if is_best else {"linewidth": 1.2, "markersize": 3.5}
        )
        axes.plot(*zip(*points, strict=True), "-o", color=report.color(index), clip_on=False, **style)
    axes.set_xlim(-0.3, last + 0.3)
    axes.set_ylim(-0.12, 1.3)


def html_page(report: Report, svg: str) -> str:
    """The page: the figure, and a table of all trials, the best first."""
    keys = [axis.key for axis in report.axes]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in ("trial", "state", "kimg", report.title, *keys))
    others = [i for i in range(len(report.trials)) if i not in report.order]
    rows = "".join(_table_row(report.trials[i], keys) for i in [*report.order, *others])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{escape(report.title)}</title><style>"
        "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:72rem;color:#222}"
        "svg{max-width:100%;height:auto}table{border-collapse:collapse}"
        "td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
        "td:first-child,th:first-child{text-align:left}"
        f"</style></head><body>\n{svg}\n<table><tr>{head}</tr>{rows}</table>\n</body></html>\n"
    )


def _table_row(trial: Curve, keys: Sequence[str]) -> str:
    kimg, value = (f"{number:.5g}" for number in trial.rows[-1]) if trial.rows else ("", "")
    cells = (trial.name, trial.state, kimg, value, *(trial.values.get(key, "") for key in keys))
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
