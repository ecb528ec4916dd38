"""Curves of metrics over training: a PNG file and an HTML page for the rows of several runs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from stylegan_ray.credentials import logger_of
from stylegan_ray.metrics.names import MOST_CURVES, best_index, is_higher_better
from stylegan_ray.metrics.rows import MUST_AGREE, Row, full_name, unlike_keys, values_of_one_kind
from stylegan_ray.storage import Storage

log = logger_of(__name__)

COLORS = ("#0b6bcb", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#5f6b7a", "#b08900", "#0c8599")
DASHES = ("-", "--", ":", "-.")
"""Styles of lines: the next one where all colors are taken."""
PANEL_WIDTH, PANEL_HEIGHT, LEGEND_ROW = 4.8, 2.9, 0.25
"""Inches."""
DPI = 160
NEAR_ENDS, LINE = 0.12, 0.07
"""Ends of curves so near, in widths of a panel, have their values above each other; a line's share of the height."""
LOG_RATIO = 5
"""Ratio of the largest to the smallest value from which the axis of values is logarithmic."""
TIME_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
STYLE: dict[Any, Any] = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.titlesize": 11, "axes.labelcolor": "#444444", "axes.labelsize": 9.5,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6", "xtick.color": "#666666",
    "ytick.color": "#666666", "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.frameon": False,
    "font.family": "sans-serif", "svg.fonttype": "none", "svg.hashsalt": "metrics", "text.parse_math": False,
}  # fmt: skip

Runs = Mapping[str, Sequence[Row]]
"""Rows by the name of their run."""


@dataclass(frozen=True)
class Axis:
    """What a panel shows horizontally."""

    label: str
    read: Callable[[Row], float | None]
    """The row's place on the axis, None where the row has none."""


def write_plots(runs: Runs, folder: Storage, name: str = "metrics") -> list[str]:
    """Writes NAME.png and NAME.html with every metric over kimg and over time; returns their paths."""
    if (num := len(_all_metrics(runs))) > MOST_CURVES:
        log.warning("%s.png shows %d of %d metrics", name, MOST_CURVES, num)
    with matplotlib.rc_context(STYLE):
        figure = draw(runs)
        png, svg = (_saved(figure, kind) for kind in ("png", "svg"))
    folder.write(f"{name}.png", png)
    folder.write(f"{name}.html", page(runs, svg.decode()).encode())
    return [folder.path(f"{name}.png"), folder.path(f"{name}.html")]


def draw(runs: Runs) -> Figure:
    """A row of panels for each metric: over kimg, and over time where rows have it.

    Raises ValueError when no row has a value and a place on an axis.
    """
    axes = [axis for axis in (Axis("kimg", _kimg), _time_axis(runs)) if _has_rows(runs, axis)]
    metrics = [metric for metric in _metrics(runs) if any(_curves(metric, runs, axis) for axis in axes)]
    if not metrics:
        raise ValueError(f"nothing to plot: no row of {', '.join(runs) or 'any run'} has a value and its kimg")
    height = PANEL_HEIGHT * len(metrics) + LEGEND_ROW * len(runs)
    figure = Figure(figsize=(PANEL_WIDTH * len(axes), height), layout="constrained")
    panels = figure.subplots(len(metrics), len(axes), squeeze=False)
    for metric, row in zip(metrics, panels, strict=True):
        for axis, panel in zip(axes, row, strict=True):
            _draw_panel(panel, metric, runs, axis)
    handles = [panels[0, 0].plot([], [], **_style(i), marker="o", markersize=4)[0] for i in range(len(runs))]
    figure.legend(handles, list(runs), loc="outside lower left", fontsize=9)
    return figure


def page(runs: Runs, svg: str) -> str:
    """A page with the curves, the first, best and last values, and reasons not to compare them."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in [*disagreements(runs), *_unavailable(runs)])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Metrics</title><style>"
        "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:62rem;color:#222}"
        "svg{max-width:100%;height:auto}"
        "table{border-collapse:collapse}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
        "td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}li{color:#8a4b00}"
        f"</style></head><body><h1>Metrics</h1>\n{svg}\n{_table(runs)}\n<ul>{notes}</ul></body></html>\n"
    )


def disagreements(runs: Runs) -> list[str]:
    """Keys that should agree but differ between curves of one metric, and rows that are not drawn for that reason."""
    notes = []
    for metric in _metrics(runs):
        drawn = {run: _drawn(rows, metric) for run, rows in runs.items()}
        for key in MUST_AGREE:
            found = {json.dumps(value) for rows in drawn.values() for row in rows for value in _values_of_key(row, key)}
            if len(found) > 1:
                notes.append(f"{metric}: {key} differs between rows ({', '.join(sorted(found))}); do not compare them")
        for run, rows in runs.items():
            unlike = [unlike_keys(drawn[run][0], row) for row in rows if _has_value(row, metric)]
            if any(unlike):
                keys = ", ".join(dict.fromkeys(chain(*unlike)))
                notes.append(f"{metric} of {run}: rows with another {keys} than the first one's are not drawn")
    return notes


def _values_of_key(row: Row, key: str) -> list[Any]:
    """The value of a row, or those of several runs where the row is their mean and they differ."""
    value = row.get(key)
    return value if isinstance(value, list) else [value]


def _drawn(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows of a metric that are points of its curve."""
    return values_of_one_kind(row for row in rows if full_name(row) == metric)


def _draw_panel(panel: Axes, metric: str, runs: Runs, axis: Axis) -> None:
    """The metric's curve of every run; the last value is written beside its point."""
    curves = _curves(metric, runs, axis)
    values = [row["value"] for rows in curves.values() for row in rows.values()]
    ends: list[tuple[float, float, str]] = []
    is_log = min(values, default=0) > 0 and max(values) / min(values) > LOG_RATIO
    for number, run in enumerate(runs):
        if run not in curves:
            continue
        xs, ys = list(curves[run]), [row["value"] for row in curves[run].values()]
        spreads = [row["spread"] if row.get("spread") and row.get("repeats") else 0 for row in curves[run].values()]
        panel.plot(xs, ys, **_style(number), marker="o", markersize=3.5, linewidth=1.8, label=run)
        low, high = ([row.get(end, row["value"]) for row in curves[run].values()] for end in ("lowest", "highest"))
        if low != high:
            panel.fill_between(xs, low, high, color=_color(number), alpha=0.15, linewidth=0)
        if any(spreads):
            panel.errorbar(xs, ys, spreads, fmt="none", ecolor=_color(number), elinewidth=1.2, capsize=2.5)
        ends.append((xs[-1], ys[-1], _color(number)))
    panel.set_title(metric)
    panel.set_xlabel(axis.label)
    panel.set_ylabel(f"{_label(metric)}, log scale" if is_log else _label(metric))
    panel.set_xlim(left=min(0, *panel.get_xlim()) if any(x < 0 for rows in curves.values() for x in rows) else 0)
    if is_log:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
    elif values and 0 <= min(values) < 0.5 * max(values):
        panel.set_ylim(bottom=0)  # shows zero where it is near
    _label_ends(panel, ends)


def _label_ends(panel: Axes, ends: Sequence[tuple[float, float, str]]) -> None:
    """The value of each end (x, y, color) beside it, moved up where another one is near."""
    to_fraction = panel.transScale + panel.transLimits
    places = [tuple(map(float, to_fraction.transform((x, y)))) for x, y, _ in ends]
    order = sorted(range(len(ends)), key=lambda i: places[i][1])
    placed: list[tuple[float, float]] = []
    for i in order:
        x, y = places[i]
        y = apart(y, [other for near, other in placed if abs(near - x) < NEAR_ENDS], LINE)
        placed.append((x, y))
        panel.annotate(
            f"{ends[i][1]:.4g}", (x, y), (6, 0), xycoords="axes fraction", textcoords="offset points", va="center",
            fontsize=8.5, color=ends[i][2], annotation_clip=False,
        )  # fmt: skip


def apart(place: float, before: Iterable[float], least: float) -> float:
    """A place, moved up to be `least` above the highest of those before."""
    return max([place, *(other + least for other in before)])


def _label(metric: str) -> str:
    """The axis label of a metric's values."""
    return f"{'higher' if is_higher_better(metric) else 'lower'} is better"


def _time_axis(runs: Runs) -> Axis:
    """Time since the start of training in the largest unit of which there are at least two."""
    seconds = [row["total_sec"] for rows in runs.values() for row in rows if row.get("total_sec") is not None]
    label, unit = next((a, u) for a, u in TIME_UNITS if max(seconds, default=0) >= 2 * u or u == 1)

    def read(row: Row) -> float | None:
        return None if row.get("total_sec") is None else row["total_sec"] / unit

    return Axis(f"training time, {label}", read)


def _kimg(row: Row) -> float | None:
    return row.get("kimg")


def _has_rows(runs: Runs, axis: Axis) -> bool:
    return any(_curves(metric, runs, axis) for metric in _metrics(runs))


def _curves(metric: str, runs: Runs, axis: Axis) -> dict[str, dict[float, Row]]:
    """For every run that has the metric: rows by their place on the axis, in rising order."""
    curves = {}
    for run, rows in runs.items():
        # A summary over repeats follows them, so it replaces all rows of its place.
        points = {x: row for row in _drawn(rows, metric) if (x := axis.read(row)) is not None}
        if points:
            curves[run] = dict(sorted(points.items()))
    return curves


def _metrics(runs: Runs) -> list[str]:
    """The metrics that are drawn, the first ones that rows have."""
    return _all_metrics(runs)[:MOST_CURVES]


def _all_metrics(runs: Runs) -> list[str]:
    return list(dict.fromkeys(full_name(row) for rows in runs.values() for row in rows if row.get("value") is not None))


def _has_value(row: Row, metric: str) -> bool:
    return full_name(row) == metric and row.get("value") is not None


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    content = buffer.getvalue()
    return content[content.index(b"<svg") :] if kind == "svg" else content  # an element of HTML has no XML header


def _table(runs: Runs) -> str:
    head = "".join(f"<th>{word}</th>" for word in ("metric", "run", "first", "best", "at kimg", "last", "detector"))
    body = []
    for metric in _metrics(runs):
        for run, rows in runs.items():
            own = _drawn(rows, metric)
            if own:
                cells = (metric, run, *_numbers(metric, own), own[-1].get("detector") or "")
                body.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _numbers(metric: str, rows: Sequence[Row]) -> tuple[str, str, str, str]:
    """First and best value, kimg of the best one, and last value."""
    best = rows[best_index(metric, [row["value"] for row in rows])]
    return f"{rows[0]['value']:.4g}", f"{best['value']:.4g}", f"{best.get('kimg')}", f"{rows[-1]['value']:.4g}"


def _unavailable(runs: Runs) -> Iterable[str]:
    notes = (
        f"{row['metric']}: {row['unavailable']}" for rows in runs.values() for row in rows if row.get("unavailable")
    )
    return dict.fromkeys(notes)


def _style(number: int) -> dict[str, Any]:
    """Color and style of the line of a run; those of the first 32 differ."""
    return {"color": _color(number), "linestyle": DASHES[number // len(COLORS) % len(DASHES)]}


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]
