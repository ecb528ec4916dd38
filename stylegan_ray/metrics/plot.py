"""Curves of metrics over training: one picture and one page for the rows of several runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from stylegan_ray.metrics.drawing import Box, Dot, Line, Point, Shape, Text, to_png, to_svg
from stylegan_ray.metrics.names import HIGHER_IS_BETTER
from stylegan_ray.metrics.rows import MUST_AGREE, Row
from stylegan_ray.storage import Storage

COLOURS = ("#0b6bcb", "#d9480f", "#2b8a3e", "#9c36b5", "#c2255c", "#5f6b7a", "#b08900", "#0c8599")
PANEL_WIDTH, PANEL_HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 56, 44, 44  # margins of a panel around its axes
LEGEND_ROW = 20

Runs = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Curve:
    """A metric of a run."""

    run: str
    colour: str
    rows: Sequence[Row]
    """In the order of their x, one per x."""


@dataclass(frozen=True)
class Panel:
    """A metric over one axis."""

    metric: str
    axis: str
    unit: float
    """How many of the row's units make one of the axis."""
    curves: Sequence[Curve]
    x_of: Callable[[Row], float | None]


def write_plots(runs: Runs, folder: Storage, name: str = "metrics") -> list[str]:
    """Writes NAME.png and NAME.html with every metric over kimg and over time; returns their paths."""
    shapes, width, height = drawing(runs)
    folder.write(f"{name}.png", to_png(shapes, width, height))
    folder.write(f"{name}.html", page(runs, to_svg(shapes, width, height)).encode())
    return [folder.path(f"{name}.png"), folder.path(f"{name}.html")]


def drawing(runs: Runs) -> tuple[list[Shape], int, int]:
    """Shapes, width and height: a row of panels per metric, over kimg on the left and over time on the right."""
    rows_of_panels = [panels for metric in _metrics(runs) if (panels := _panels(metric, runs))]
    if not rows_of_panels:
        raise ValueError(f"nothing to plot: no row of {', '.join(runs) or 'any run'} has a value and its kimg")
    width = PANEL_WIDTH * max(len(panels) for panels in rows_of_panels)
    legend = LEGEND_ROW * len(runs) + 10
    height = PANEL_HEIGHT * len(rows_of_panels) + legend
    shapes: list[Shape] = [Box((0, 0), (width, height), "#ffffff")]
    for row, panels in enumerate(rows_of_panels):
        for column, panel in enumerate(panels):
            shapes += _panel_shapes(panel, (column * PANEL_WIDTH, row * PANEL_HEIGHT))
    for number, run in enumerate(runs):
        y = height - legend + LEGEND_ROW * number + 12
        shapes += [Line([(LEFT, y - 4), (LEFT + 18, y - 4)], _colour(number), 2.5), Text((LEFT + 26, y), run)]
    return shapes, width, height


def page(runs: Runs, svg: str) -> str:
    """A page with the curves, the best and last numbers, and what speaks against comparing them."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in [*disagreements(runs), *_unavailable(runs)])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Metrics</title><style>"
        "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#222}"
        "svg{max-width:100%;height:auto}"
        "table{border-collapse:collapse}td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
        "td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}li{color:#8a4b00}"
        f"</style></head><body><h1>Metrics</h1>\n{svg}\n{_table(runs)}\n<ul>{notes}</ul></body></html>\n"
    )


def disagreements(runs: Runs) -> list[str]:
    """In what the runs' rows of one metric differ that should agree."""
    notes = []
    for metric in _metrics(runs):
        for key in MUST_AGREE:
            found = {json.dumps(row.get(key)) for rows in runs.values() for row in rows if _has_value(row, metric)}
            if len(found) > 1:
                notes.append(
                    f"{metric}: {key} is not the same in all rows ({', '.join(sorted(found))}), so do not compare them"
                )
    return notes


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two values."""
    span = max(high - low, 1e-12)
    step = next(
        s for e in range(-14, 15) for s in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if span / s <= most or e == 14
    )  # fmt: skip
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two positive values."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def _metrics(runs: Runs) -> list[str]:
    return list(dict.fromkeys(row["metric"] for rows in runs.values() for row in rows if row.get("value") is not None))


def _has_value(row: Row, metric: str) -> bool:
    return row["metric"] == metric and row.get("value") is not None


def _panels(metric: str, runs: Runs) -> list[Panel]:
    seconds = [s for rows in runs.values() for row in rows if (s := _seconds(row)) is not None]
    axis, unit = next((a, u) for a, u in TIME_UNITS if max(seconds, default=0) >= 2 * u or u == 1)
    wanted = (("thousands of images", 1.0, _kimg), (axis, unit, _seconds))
    panels = [Panel(metric, axis, unit, _curves(metric, runs, x_of), x_of) for axis, unit, x_of in wanted]
    return [panel for panel in panels if panel.curves]


TIME_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def _curves(metric: str, runs: Runs, x_of: Callable[[Row], float | None]) -> list[Curve]:
    curves = []
    for number, (run, rows) in enumerate(runs.items()):
        # A summary over repeats comes after them, so it stands for all of one x.
        points = {x: row for row in rows if _has_value(row, metric) and (x := x_of(row)) is not None}
        if points:
            curves.append(Curve(run, _colour(number), [points[x] for x in sorted(points)]))
    return curves


def _kimg(row: Row) -> float | None:
    return row.get("kimg")


def _seconds(row: Row) -> float | None:
    return row.get("total_sec")


def _panel_shapes(panel: Panel, corner: Point) -> list[Shape]:
    rows = [row for curve in panel.curves for row in curve.rows]
    xs = [(panel.x_of(row) or 0) / panel.unit for row in rows]
    ys = [row["value"] for row in rows]
    is_log = min(ys) > 0 and max(ys) / min(ys) > 10
    low, high = _range(ys, is_log)
    left, right = min(0.0, min(xs)), max(xs) or 1.0

    def place(x: float, y: float) -> Point:
        across = (x - left) / (right - left)
        up = (math.log(y / low) / math.log(high / low)) if is_log else (y - low) / (high - low)
        return (
            corner[0] + LEFT + across * (PANEL_WIDTH - LEFT - RIGHT),
            corner[1] + PANEL_HEIGHT - BOTTOM - up * (PANEL_HEIGHT - TOP - BOTTOM),
        )

    shapes = _axes(panel, place, (left, right), (low, high), is_log)
    for curve in panel.curves:
        shapes += _curve_shapes(curve, panel, place, (low, high))
    return shapes


def _range(values: Sequence[float], is_log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if is_log:
        return low / 1.25, high * 1.15
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    floor = 0.0 if 0 <= low < 0.5 * high else low - margin  # show zero where it is near
    return floor, high + margin


def _axes(
    panel: Panel, place: Callable[[float, float], Point], x_range: Point, y_range: Point, is_log: bool
) -> list[Shape]:
    shapes: list[Shape] = []
    (left, top), (right, bottom) = place(x_range[0], y_range[1]), place(x_range[1], y_range[0])
    for y in log_ticks(*y_range) if is_log else nice_ticks(*y_range):
        height = place(x_range[0], y)[1]
        shapes += [Line([(left, height), (right, height)], "#e6e6e6"), _label((left - 8, height + 4), y, "end")]
    for x in nice_ticks(*x_range):
        across = place(x, y_range[0])[0]
        shapes += [
            Line([(across, bottom), (across, bottom + 4)], "#888888"),
            _label((across, bottom + 17), x, "middle"),
        ]
    shapes.append(Line([(left, bottom), (right, bottom)], "#888888"))
    shapes.append(Text((left, top - 16), panel.metric + (" (log scale)" if is_log else ""), 14, "#111111", bold=True))
    shapes.append(Text(((left + right) / 2, bottom + 34), panel.axis, 12, "#666666", "middle"))
    return shapes


def _label(place: Point, value: float, anchor) -> Text:
    return Text(place, f"{value:g}", 11, "#666666", anchor)


def _curve_shapes(curve: Curve, panel: Panel, place: Callable[[float, float], Point], y_range: Point) -> list[Shape]:
    places = [place((panel.x_of(row) or 0) / panel.unit, row["value"]) for row in curve.rows]
    shapes: list[Shape] = []
    for row, (x, _) in zip(curve.rows, places, strict=True):
        if row.get("spread") and row.get("repeats"):
            ends = [min(max(row["value"] + s * row["spread"], y_range[0]), y_range[1]) for s in (-1, 1)]
            shapes.append(Line([(x, place(0, end)[1]) for end in ends], curve.colour, 1.2))
    shapes.append(Line(places, curve.colour, 2.0))
    for row, spot in zip(curve.rows, places, strict=True):
        shapes.append(Dot(spot, 2.6, curve.colour, f"{curve.run}: {row['value']:.4g} at {row.get('kimg')} kimg"))
    last = curve.rows[-1]
    shapes.append(Text((places[-1][0] + 7, places[-1][1] + 4), f"{last['value']:.4g}", 11, curve.colour))
    return shapes


def _table(runs: Runs) -> str:
    head = "".join(f"<th>{word}</th>" for word in ("metric", "run", "first", "best", "at kimg", "last", "detector"))
    body = []
    for metric in _metrics(runs):
        for run, rows in runs.items():
            own = [row for row in rows if _has_value(row, metric)]
            if own:
                cells = (metric, run, *_numbers(metric, own), own[-1].get("detector") or "")
                body.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _numbers(metric: str, rows: Sequence[Row]) -> tuple[str, str, str, str]:
    choose = max if metric.startswith(HIGHER_IS_BETTER) else min
    best = choose(rows, key=lambda row: row["value"])
    return f"{rows[0]['value']:.4g}", f"{best['value']:.4g}", f"{best.get('kimg')}", f"{rows[-1]['value']:.4g}"


def _unavailable(runs: Runs) -> Iterable[str]:
    notes = (
        f"{row['metric']}: {row['unavailable']}" for rows in runs.values() for row in rows if row.get("unavailable")
    )
    return dict.fromkeys(notes)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
