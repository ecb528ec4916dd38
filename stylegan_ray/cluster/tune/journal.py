"""What a sweep has done and decided: a journal, written before a decision takes effect, and what follows from it.

Ray Tune saves its own state now and then; a decision between two of its saves would be lost with the driver. So the
journal is the truth: whoever continues a sweep reads it, and tells scheduler and searcher everything again, in order.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stylegan_ray.storage import Storage

FILE = "journal.jsonl"
State = Literal["open", "finished", "stopped", "diverged", "failed"]
Event = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """What a trial reached at a tick."""

    kimg: float
    value: float
    sec: float
    """Seconds of training so far."""
    generation: int


@dataclass
class Trial:
    """A trial as the journal tells it."""

    number: int
    values: dict[str, Any]
    generation: int = 0
    """How often it has gone on from another trial's state."""
    rows: list[Row] = field(default_factory=list)
    state: State = "open"
    why: str = ""
    exploits: list[Event] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder of its run; each generation has its own."""
        return f"trial-{self.number:03d}" + (f"-g{self.generation}" if self.generation else "")

    @property
    def folders(self) -> list[str]:
        """The folders of all its generations, the newest first."""
        return [f"trial-{self.number:03d}" + (f"-g{g}" if g else "") for g in reversed(range(self.generation + 1))]

    @property
    def kimg(self) -> float:
        """Where it stands."""
        return self.rows[-1].kimg if self.rows else 0.0

    @property
    def value(self) -> float | None:
        """The objective at its last report."""
        return self.rows[-1].value if self.rows else None

    def knows(self, generation: int, kimg: float) -> bool:
        """Whether a row is in the journal already; a trial that was interrupted tells its last ones again."""
        own = [row.kimg for row in self.rows if row.generation == generation]
        return generation < self.generation or (bool(own) and kimg <= max(own))


class Ledger:
    """All trials, made of the journal's events."""

    def __init__(self) -> None:
        self.trials: dict[int, Trial] = {}

    def apply(self, event: Event) -> None:
        """Notes what an event says."""
        number = event["trial"]
        match event["event"]:
            case "trial":
                self.trials[number] = Trial(number, event["values"])
            case "result":
                self._result(self.trials[number], event)
            case "exploit":
                trial = self.trials[number]
                trial.generation, trial.values = event["generation"], event["values"]
                trial.exploits.append(event)
            case "end":
                self.trials[number].state, self.trials[number].why = event["state"], event["why"]

    def _result(self, trial: Trial, event: Event) -> None:
        value = event["value"]
        if value is not None:
            trial.rows.append(Row(event["kimg"], value, event["sec"], event["generation"]))
        if event["decision"] == "STOP":
            diverged = value is None
            trial.state = "diverged" if diverged else "stopped"
            trial.why = "the objective is not a number" if diverged else f"stopped at {event['kimg']:g} kimg"

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.state != "open"]

    @property
    def open(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.state == "open"]

    def ranked(self, is_better_high: bool) -> list[Trial]:
        """Trials with a value, the best first: those that went the whole way before those that did not."""
        sign = -1.0 if is_better_high else 1.0
        scored = [trial for trial in self.trials.values() if trial.value is not None]
        bad = ("diverged", "failed")
        return sorted(
            scored, key=lambda t: (t.state in bad, t.state != "finished", sign * (t.value or 0.0), -t.kimg, t.number)
        )

    def worst_value(self, is_better_high: bool) -> float | None:
        """The worst that was ever reported: what a diverged trial counts as."""
        values = [row.value for trial in self.trials.values() for row in trial.rows]
        return (min if is_better_high else max)(values) if values else None


class Journal:
    """The events of a sweep, one JSON object a line, on disk before `append` returns.

    Object stores cannot append: there the file is written whole each time; it has a line per tick and trial.
    """

    def __init__(self, sweep: Storage) -> None:
        self.sweep = sweep
        self.events = self._read()

    def append(self, event: Mapping[str, Any]) -> Event:
        """Notes an event with the time; returns it as it was written."""
        stamped = {**event, "time": round(time.time(), 3)}
        line = f"{json.dumps(stamped)}\n".encode()
        self.events.append(stamped)
        if not self.sweep.is_local:
            self.sweep.write(FILE, _text(self.events))
            return stamped
        with open(self.sweep.path(FILE), "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        return stamped

    def _read(self) -> list[Event]:
        """The events that are whole; what a crash has torn is cut away."""
        content = self.sweep.read(FILE) if self.sweep.exists(FILE) else None
        events = []
        for line in (content or b"").splitlines(keepends=True):
            try:
                event = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            events.append(event)
        if _text(events) != content:
            self.sweep.write(FILE, _text(events))
        return events


def finite(value: Any) -> float | None:
    """A number that is one, else None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _text(events: Sequence[Event]) -> bytes:
    return b"".join(f"{json.dumps(event)}\n".encode() for event in events)
