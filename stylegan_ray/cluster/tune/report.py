"""The report of a sweep: the objective over kimg, parallel coordinates, importance, pictures of best and worst."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from stylegan_ray.metrics.drawing import Box, Dot, Line, Picture, Point, Shape, Text, to_png, to_svg
from stylegan_ray.metrics.plot import log_ticks, nice_ticks
from stylegan_ray.storage import Storage

WIDTH = 1120
CURVES = (64.0, 96.0, 600.0, 250.0)
"""Left, top, width and height of the axes of the curves."""
BARS = (900.0, 96.0, 170.0, 250.0)
COORDINATES = (90.0, 470.0, 940.0, 200.0)
PICTURES_TOP = 750.0
GOOD, MIDDLE, BAD = (11, 91, 181), (158, 190, 214), (217, 102, 31)
GREY, INK = "#888888", "#111111"
FEWEST_FOR_IMPORTANCE = 4


@dataclass(frozen=True)
class Axis:
    """A parameter."""

    key: str
    place: Callable[[Any], float]
    """Where a value stands between 0 and 1."""
    least: str
    most: str
    is_ordered: bool


@dataclass(frozen=True)
class Shown:
    """A trial."""

    name: str
    state: str
    rows: Sequence[tuple[float, float]]
    """kimg and objective."""
    values: Mapping[str, Any]
    copies: Sequence[tuple[float, str]] = ()
    """Where it went on from another trial's state: kimg there, and whose."""


@dataclass(frozen=True)
class Report:
    """All that the report tells."""

    title: str
    subtitle: str
    higher_is_better: bool
    axes: Sequence[Axis]
    trials: Sequence[Shown]
    order: Sequence[int]
    """Places in `trials` of those with a value, the best first."""
    pictures: Sequence[tuple[str, bytes]] = ()
    """Captions and PNG files."""


def write_report(report: Report, folder: Storage, name: str) -> None:
    """Writes NAME.png and NAME.html."""
    shapes, height = drawing(report)
    folder.write(f"{name}.png", to_png(shapes, WIDTH, height))
    folder.write(f"{name}.html", page(report, to_svg(shapes, WIDTH, height)).encode())


def drawing(report: Report) -> tuple[list[Shape], int]:
    """Shapes and height of the picture."""
    pictures, height = _pictures(report)
    shapes: list[Shape] = [Box((0, 0), (WIDTH, height), "#ffffff")]
    shapes.append(Text((28, 36), f"{report.title}: {report.subtitle}", 19, INK, bold=True))
    shapes.append(Text((28, 58), _verdict(report), 13, "#555555"))
    shapes += _curves(report) + _bars(report) + _coordinates(report) + pictures
    return shapes, height


def importances(report: Report) -> list[tuple[str, float]]:
    """How much of the objective's rank each parameter explains alone, the most first; 0 is nothing, 1 all.

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
        places = np.array([axis.place(reached[i].values[axis.key]) for i in have])
        found.append((axis.key, _explained(places, ranks[have], axis.is_ordered)))
    return sorted(found, key=lambda pair: -pair[1])


def _explained(places: np.ndarray, ranks: np.ndarray, is_ordered: bool) -> float:
    """Adjusted R squared [0, 1] of ranks over places."""
    members = np.unique(places)
    if len(members) < 2 or np.ptp(ranks) == 0:
        return 0.0
    if is_ordered:
        columns = np.stack([np.ones_like(places), places, places**2], axis=1)[:, : min(len(members), 3)]
    else:
        columns = (places[:, None] == members[None, :]).astype(np.float64)
    free = len(ranks) - columns.shape[1]
    if free < 1:
        return 0.0
    fit = columns @ np.linalg.lstsq(columns, ranks, rcond=None)[0]
    left, whole = np.square(ranks - fit).sum() / free, np.square(ranks - ranks.mean()).sum() / (len(ranks) - 1)
    return float(max(1 - left / whole, 0.0))


def page(report: Report, svg: str) -> str:
    """The page: the picture and a table of all trials, the best first."""
    keys = [axis.key for axis in report.axes]
    head = "".join(f"<th>{escape(word)}</th>" for word in ("trial", "state", "kimg", report.title, *keys))
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


def _table_row(trial: Shown, keys: Sequence[str]) -> str:
    kimg, value = (f"{number:.5g}" for number in trial.rows[-1]) if trial.rows else ("", "")
    cells = (trial.name, trial.state, kimg, value, *(trial.values.get(key, "") for key in keys))
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _verdict(report: Report) -> str:
    counts = {state: sum(trial.state == state for trial in report.trials) for state in _STATES}
    said = ", ".join(f"{num} {_STATES[state]}" for state, num in counts.items() if num)
    if not report.order:
        return said
    best = report.trials[report.order[0]]
    return f"{said}. The best is {best.name} with {best.rows[-1][1]:.4g} at {best.rows[-1][0]:g} kimg."


_STATES = {
    "finished": "went the whole way", "stopped": "stopped early", "diverged": "diverged", "failed": "failed",
    "open": "unfinished",
}  # fmt: skip


def _colours(report: Report) -> dict[int, str]:
    """A colour for each trial by its rank: blue is good, orange bad, grey has no value."""
    last = max(len(report.order) - 1, 1)
    return {place: _blend(rank / last) for rank, place in enumerate(report.order)}


def _blend(share: float) -> str:
    low, high, along = (GOOD, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, BAD, 2 * share - 1)
    return "#" + "".join(f"{round(a + (b - a) * along):02x}" for a, b in zip(low, high, strict=True))


def _curves(report: Report) -> list[Shape]:
    left, top, width, height = CURVES
    rows = [row for trial in report.trials for row in trial.rows]
    if not rows:
        return []
    values = [value for _, value in rows]
    is_log = min(values) > 0 and max(values) / min(values) > 10
    margin = 0.06 * (max(values) - min(values)) or 1.0
    low, high = (min(values) / 1.15, max(values) * 1.15) if is_log else (min(values) - margin, max(values) + margin)
    longest = max(kimg for kimg, _ in rows) or 1.0

    def place(kimg: float, value: float) -> Point:
        up = math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)
        return left + width * kimg / longest, top + height * (1 - up)

    shapes: list[Shape] = []
    for tick in log_ticks(low, high) if is_log else nice_ticks(low, high):
        y = place(0, tick)[1]
        shapes += [
            Line([(left, y), (left + width, y)], "#e6e6e6"),
            Text((left - 8, y + 4), f"{tick:g}", 11, GREY, "end"),
        ]
    for tick in nice_ticks(0, longest):
        x = place(tick, low)[0]
        shapes += [Line([(x, top + height), (x, top + height + 4)], GREY)]
        shapes += [Text((x, top + height + 18), f"{tick:g}", 11, GREY, "middle")]
    shapes += [
        Line([(left, top + height), (left + width, top + height)], GREY),
        Text((left, top - 10), f"{report.title}{' (log scale)' if is_log else ''}", 13, INK, bold=True),
        Text((left + width / 2, top + height + 36), "thousands of images", 12, GREY, "middle"),
    ]
    for place_in_order in _worst_first(report):
        shapes += _curve(report, place_in_order, place)
    return shapes + _labels(report, place)


def _worst_first(report: Report) -> list[int]:
    """Places of trials in the order of drawing: the best comes last, on top."""
    return list(reversed(report.order))


def _curve(report: Report, index: int, place: Callable[[float, float], Point]) -> list[Shape]:
    trial, colour, is_best = report.trials[index], _colours(report)[index], index == report.order[0]
    parts: list[list[Point]] = [[]]
    for before, row in zip([(-1.0, 0.0), *trial.rows], trial.rows, strict=False):
        if row[0] <= before[0]:
            parts.append([])  # it went back to another trial's state
        parts[-1].append(place(*row))
    shapes: list[Shape] = [Line(part, colour, 2.6 if is_best else 1.4) for part in parts if len(part) > 1]
    end = place(*trial.rows[-1])
    title = f"{trial.name}, {trial.state}: {trial.rows[-1][1]:.4g} at {trial.rows[-1][0]:g} kimg"
    shapes.append(Dot(end, 4.2 if is_best else 3.0, colour, title))
    return shapes


def _labels(report: Report, place: Callable[[float, float], Point]) -> list[Shape]:
    """Numbers of the trials that went furthest, beside their ends, moved apart where they would meet."""
    longest = max(trial.rows[-1][0] for trial in report.trials if trial.rows)
    ends = [index for index in report.order if report.trials[index].rows[-1][0] >= 0.97 * longest]
    spots = sorted((place(*report.trials[index].rows[-1])[1], index) for index in ends)
    shapes: list[Shape] = []
    colours, lowest = _colours(report), -math.inf
    for y, index in spots:
        lowest = max(y, lowest + 12)
        trial = report.trials[index]
        words = f"{trial.name.removeprefix('trial ')}:  {trial.rows[-1][1]:.4g}"
        x = CURVES[0] + CURVES[2] + 10
        shapes.append(Text((x, lowest + 4), words, 11, colours[index], bold=index == report.order[0]))
    return shapes


def _bars(report: Report) -> list[Shape]:
    left, top, width, _ = BARS
    shapes: list[Shape] = [Text((left - 120, top - 10), "explained by one parameter alone", 13, INK, bold=True)]
    found = importances(report)
    if not found:
        few = f"fewer than {FEWEST_FOR_IMPORTANCE} trials tell nothing"
        return [*shapes, Text((left - 120, top + 20), few, 12, GREY)]
    for number, (key, share) in enumerate(found[:9]):
        y = top + 14 + 26 * number
        shapes += [
            Text((left - 8, y + 11), key.partition(".")[2], 12, "#333333", "end"),
            Box((left, y), (max(width * share, 1.5), 14), _blend(0.0) if share > 0 else "#cccccc"),
            Text((left + width * share + 6, y + 11), f"{100 * share:.0f}%", 11, GREY),
        ]
    note = top + 30 + 26 * min(len(found), 9)
    shapes += [
        Text((left - 120, note + 8), "of the rank's variance, by a parabola, adjusted;", 11, GREY),
        Text((left - 120, note + 23), "few trials tell little", 11, GREY),
    ]
    return shapes


def _coordinates(report: Report) -> list[Shape]:
    left, top, width, height = COORDINATES
    scored = [report.trials[index].rows[-1][1] for index in report.order]
    if not scored:
        return []
    columns = len(report.axes)
    across = [left + width * number / columns for number in range(columns + 1)]
    worst, best = (min(scored), max(scored)) if report.higher_is_better else (max(scored), min(scored))
    shapes: list[Shape] = [
        Text((28, top - 50), "values of each trial, and what it reached (up is better)", 13, INK, bold=True)
    ]
    for x, axis in zip(across, report.axes, strict=False):
        shapes += _axis(x, axis.key.partition(".")[2], axis.least, axis.most)
    shapes += _axis(across[-1], report.title, f"{worst:.4g}", f"{best:.4g}")
    colours = _colours(report)
    for index in _worst_first(report):
        trial = report.trials[index]
        points = [
            (x, top + height * (1 - axis.place(trial.values[axis.key])))
            for x, axis in zip(across, report.axes, strict=False)
            if axis.key in trial.values
        ]
        good = (trial.rows[-1][1] - worst) / (best - worst) if best != worst else 0.5
        points.append((across[-1], top + height * (1 - good)))
        is_best = index == report.order[0]
        shapes.append(Line(points, colours[index], 3.0 if is_best else 1.5))
        shapes += [Dot(point, 4.0 if is_best else 2.4, colours[index], trial.name) for point in points]
    return shapes


def _axis(x: float, name: str, least: str, most: str) -> list[Shape]:
    _, top, _, height = COORDINATES
    return [
        Line([(x, top), (x, top + height)], "#bbbbbb", 1.0),
        Text((x, top - 20), name, 12, "#333333", "middle", bold=True),
        Text((x, top - 6), most, 11, GREY, "middle"),
        Text((x, top + height + 16), least, 11, GREY, "middle"),
    ]


def _pictures(report: Report) -> tuple[list[Shape], int]:
    """The grids side by side, each as wide as half the report, and the height of the whole."""
    if not report.pictures:
        return [], round(PICTURES_TOP - 20)
    shapes: list[Shape] = []
    room, bottom = (WIDTH - 3 * 28) / 2, 0.0
    for number, (caption, png) in enumerate(report.pictures):
        with Image.open(io.BytesIO(png)) as picture:
            width, height = picture.size
        corner = (28 + number * (room + 28), PICTURES_TOP)
        size = (room, room * height / width)
        shapes += [Text((corner[0], corner[1] - 10), caption, 13, INK, bold=True), Picture(corner, size, png)]
        bottom = max(bottom, corner[1] + size[1])
    return shapes, round(bottom + 28)
