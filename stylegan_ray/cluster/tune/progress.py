"""The console of a sweep: a table that is redrawn in a terminal, a line per event in a job's log."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from stylegan_ray.cluster.tune.trials import Trial, rank
from stylegan_ray.credentials import without_credentials
from stylegan_ray.report.console import is_terminal
from stylegan_ray.table import format_table

SECONDS_BETWEEN_DRAWINGS = 1.0


class SweepView:
    """Shows trials; `trials` is shared with whoever keeps it up to date."""

    def __init__(
        self, trials: dict[int, Trial], objective: str, num_samples: int, higher_is_better: bool,
        stream: TextIO | None = None,
    ) -> None:  # fmt: skip
        self.trials, self.objective, self.num_samples = trials, objective, num_samples
        self.higher_is_better, self.stream = higher_is_better, stream or sys.stdout
        self.is_live = is_terminal(self.stream)
        self._height, self._drawn_at = 0, -math.inf

    def message(self, text: str) -> None:
        """Prints lines of text, above the table."""
        self._clear()
        print(without_credentials(text), file=self.stream, flush=True)
        self._draw()

    def show_start(self, trial: Trial) -> None:
        """A trial starts or continues."""
        how = f"continues at {trial.kimg:g} kimg" if trial.rows else "starts"
        self._say(f"trial {trial.number} {how}: {format_values(trial.values)}")

    def show_row(self, trial: Trial, stops: bool) -> None:
        """A trial has reported."""
        decision = "  stops" if stops else ""
        self._say(
            f"trial {trial.number} at {trial.kimg:g} kimg: {self.objective} {format_value(trial.value)}{decision}"
        )

    def show_end(self, trial: Trial) -> None:
        """A trial has ended."""
        why = f": {trial.record.why}" if trial.record.why else ""
        self._say(f"trial {trial.number} {trial.state}{why} ({self._counts()})")

    def refresh(self) -> None:
        """Draws the table again, once a second at most."""
        if self.is_live and time.monotonic() - self._drawn_at > SECONDS_BETWEEN_DRAWINGS:
            self._clear()
            self._draw()

    def close(self) -> None:
        """Leaves the last table where it is."""
        self.refresh()
        self._height = 0

    def _say(self, text: str) -> None:
        if self.is_live:
            self.refresh()  # the table shows it
        else:
            print(text, file=self.stream, flush=True)

    def _counts(self) -> str:
        num_done = sum(trial.state != "open" for trial in self.trials.values())
        return f"{num_done} of {self.num_samples} trials done"

    def _clear(self) -> None:
        if self._height:
            self.stream.write(f"\x1b[{self._height}F\x1b[J")
            self._height = 0

    def _draw(self) -> None:
        if not self.is_live or not self.trials:
            return
        size = shutil.get_terminal_size()
        rows = table_lines(list(self.trials.values()), self.objective, self.higher_is_better, size.lines - 6)
        lines = [self._counts(), *rows]
        self.stream.write("".join(f"{line[: size.columns - 1]}\n" for line in lines))
        self.stream.flush()
        self._height, self._drawn_at = len(lines), time.monotonic()


def table_lines(trials: Sequence[Trial], objective: str, higher_is_better: bool, most: int) -> list[str]:
    """Trials with their last rows and values: open ones first, then the best."""
    ranked = rank(trials, higher_is_better)
    best = ranked[0].number if ranked else None
    ordered = sorted([*ranked, *(t for t in trials if t not in ranked)], key=lambda t: t.state != "open")
    ordered = ordered[: max(most, 3)]
    keys = list(dict.fromkeys(key for trial in ordered for key in trial.values))
    head = ("trial", "state", "kimg", objective.removeprefix("Metrics/"), *(key.partition(".")[2] for key in keys))
    rows = [
        (
            f"{'*' if trial.number == best else ' '}{trial.number}", trial.state.replace("open", "runs"),
            f"{trial.kimg:g}", format_value(trial.value), *(format_value(trial.values.get(key)) for key in keys),
        )
        for trial in ordered
    ]  # fmt: skip
    return format_table([head, *rows]).splitlines()


def format_values(values: Mapping[str, Any]) -> str:
    """Values in one line."""
    return "  ".join(f"{key} {format_value(value)}" for key, value in values.items())


def format_value(value: Any) -> str:
    """A value in four digits; an empty string for None."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(format_value, value)) + "]"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
