"""What the charts of all reports share: colors, plain axes and SVG for a page."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

GRAY, LIGHT = "#777777", "#e6e6e6"
BLUE, ORANGE, GREEN, PURPLE, TEAL, RED, SAND = (
    "#0b5bb5", "#d9661f", "#2f8f4e", "#7a4fb5", "#1f8a94", "#c0273a", "#b8902f",
)  # fmt: skip
SVG: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "svg.hashsalt": "chart",
}
"""Text stays text, in the fonts of the page; names of others are no formulas; the same run gives the same page."""


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches; nothing of matplotlib's global state is used or changed."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes) -> None:
    """Axes without frames."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRAY)
    axes.tick_params(colors="#555555", labelsize=8, length=0)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(6))


def svg_of(figure: Figure) -> str:
    """The figure as an <svg> element for a page."""
    file = io.StringIO()
    with matplotlib.rc_context(SVG):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
