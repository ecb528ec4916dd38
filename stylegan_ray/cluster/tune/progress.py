"""What a person sees of a sweep while it goes: a table that moves in a terminal, a line per event in a job log."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from stylegan_ray.cluster.tune.journal import Ledger, Trial
from stylegan_ray.table import format_table

VERDICTS = {"STOP": "stops", "EXPLOIT": "takes a better state", "PAUSE": "waits for the others"}
SECONDS_BETWEEN_DRAWINGS = 1.0


class SweepView:
    """The sweep as the driver prints it."""

    def __init__(
        self, ledger: Ledger, objective: str, num_samples: int, higher_is_better: bool, stream: TextIO | None = None
    ) -> None:
        self.ledger, self.objective, self.num_samples = ledger, objective, num_samples
        self.higher_is_better, self.stream = higher_is_better, stream or sys.stdout
        self.is_live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._height, self._drawn_at = 0, 0.0

    def message(self, text: str) -> None:
        """Shows lines of text, above the table."""
        self._clear()
        print(text, file=self.stream, flush=True)
        self._draw()

    def begins(self, trial: Trial) -> None:
        """A trial gets a place."""
        goes_on = f"goes on at {trial.kimg:g} kimg" if trial.rows else "begins"
        self._say(f"trial {trial.number} {goes_on}: {summary(trial.values)}")

    def result(self, trial: Trial, decision: str) -> None:
        """A trial has reported."""
        verdict = f"  {VERDICTS[decision]}" if decision in VERDICTS else ""
        value = "no number" if trial.state == "diverged" else shown(trial.value)
        self._say(f"trial {trial.number} at {trial.kimg:g} kimg: {self.objective} {value}{verdict}")

    def ends(self, trial: Trial) -> None:
        """A trial has ended, or was interrupted."""
        if trial.state in ("finished", "diverged", "failed"):
            why = f": {trial.why}" if trial.why else ""
            self._say(f"trial {trial.number} {trial.state}{why} ({self._counts()})")

    def refresh(self) -> None:
        """Draws the table anew, once a second at most."""
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
        return f"{len(self.ledger.ended)} of {self.num_samples} trials done"

    def _clear(self) -> None:
        if self._height:
            self.stream.write(f"\x1b[{self._height}F\x1b[J")
            self._height = 0

    def _draw(self) -> None:
        if not self.is_live or not self.ledger.trials:
            return
        size = shutil.get_terminal_size()
        lines = [self._counts(), *table_lines(self.ledger, self.objective, self.higher_is_better, size.lines - 6)]
        self.stream.write("".join(f"{line[: size.columns - 1]}\n" for line in lines))
        self.stream.flush()
        self._height, self._drawn_at = len(lines), time.monotonic()


def table_lines(ledger: Ledger, objective: str, higher_is_better: bool, most: int) -> list[str]:
    """Trials with what they reached and their values: those that run, then the best ones."""
    ranked = ledger.ranked(higher_is_better)
    others = [trial for trial in ledger.trials.values() if trial not in ranked]
    best = ranked[0].number if ranked else None
    ordered = sorted([*ranked, *others], key=lambda trial: trial.state != "open")[: max(most, 3)]
    keys = list(dict.fromkeys(key for trial in ordered for key in trial.values))
    head = ("trial", "state", "kimg", objective.removeprefix("Metrics/"), *(key.partition(".")[2] for key in keys))
    rows = [
        (
            f"{'*' if trial.number == best else ' '}{trial.number}", trial.state.replace("open", "runs"),
            f"{trial.kimg:g}", shown(trial.value), *(shown(trial.values.get(key)) for key in keys),
        )
        for trial in ordered
    ]  # fmt: skip
    return format_table([head, *rows]).splitlines()


def summary(values: Mapping[str, Any]) -> str:
    """Values in one line."""
    return "  ".join(f"{key} {shown(value)}" for key, value in values.items())


def shown(value: Any) -> str:
    """A value in four digits; nothing where there is none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(shown, value)) + "]"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
