"""The trials of a sweep as files tell of them: a record for each, beside the folders of its runs.

Ray Tune keeps its own state and may lose its last second. What must never be lost is stored here: the values of a
trial, the state that it copied, and how it ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from stylegan_ray.config import ConfigError
from stylegan_ray.jsonl import dated_metric_rows, tick_rows
from stylegan_ray.run_folder import (
    CHECKPOINTS,
    COMPLETE,
    METRICS,
    OUR_ENDING,
    STATE,
    TICKS,
    complete_checkpoints,
)
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import (
    CheckpointError,
    delete_checkpoint,
    delete_old_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from stylegan_ray.untrusted import reading
from stylegan_ray.untrusted_text import parse_json

State = Literal["open", "finished", "stopped", "diverged", "failed"]
INTERRUPTED = "interrupted"
"""How a trial reports that its run was stopped and saved: it stays open."""
TRIALS = "trials"
"""The folder of trials in that of their sweep."""
PINNED = "pinned"
"""Folder in a run for checkpoints that pointers name; the run itself deletes old ones from its own folder."""
NUM_PINNED = 3
"""A paused trial may start from a pointer that is a few looks old."""


@dataclass(frozen=True)
class Row:
    """The objective at a tick."""

    kimg: float
    value: float
    sec: float
    """Seconds of training so far."""
    generation: int = 0


@dataclass(frozen=True)
class Copy:
    """A checkpoint that a trial copied from another trial, which began its next generation."""

    token: str
    """Names the decision to copy."""
    run: str
    """The donor's run."""
    checkpoint: str
    kimg: float
    sha256: str = ""
    """Of the donor's state, from its checkpoint's COMPLETE."""


@dataclass(frozen=True)
class Record:
    """What is stored about a trial, in trials/trial-NNN.json."""

    number: int
    values: dict[str, Any]
    copies: tuple[Copy, ...] = ()
    state: State = "open"
    why: str = ""
    stopped_kimg: float | None = None
    """The kimg of the row at which the scheduler stopped it: rows that its run reported later do not count."""

    @property
    def generation(self) -> int:
        """How often the trial has copied another trial's state; each generation is a run of its own."""
        return len(self.copies)

    @property
    def name(self) -> str:
        """The folder of its current run."""
        return run_name(self.number, self.generation)

    @property
    def runs(self) -> list[str]:
        """The folders of all its runs, the newest first."""
        return [run_name(self.number, generation) for generation in reversed(range(self.generation + 1))]

    @property
    def start_kimg(self) -> float:
        """Where its current run began."""
        return self.copies[-1].kimg if self.copies else 0.0

    def with_copy(self, copy: Copy, values: Mapping[str, Any]) -> Record:
        """The record of the next generation."""
        return replace(self, copies=(*self.copies, copy), values=dict(values))

    def ended(self, state: State, why: str = "", stopped_kimg: float | None = None) -> Record:
        """The record of the trial when it has ended; the first end counts."""
        return replace(self, state=state, why=why, stopped_kimg=stopped_kimg) if self.state == "open" else self


@dataclass
class Trial:
    """A trial with what it reported."""

    record: Record
    rows: list[Row] = field(default_factory=list)

    @property
    def number(self) -> int:
        return self.record.number

    @property
    def values(self) -> dict[str, Any]:
        return self.record.values

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def kimg(self) -> float:
        """The last row's kimg."""
        return self.rows[-1].kimg if self.rows else 0.0

    @property
    def value(self) -> float | None:
        """The last row's objective."""
        return self.rows[-1].value if self.rows else None

    def has(self, row: Row) -> bool:
        """Whether a row is known already; a restored trial reports its rows again."""
        own = [known.kimg for known in self.rows if known.generation == row.generation]
        return any(known.generation > row.generation for known in self.rows) or (bool(own) and row.kimg <= max(own))


def run_name(number: int, generation: int = 0) -> str:
    """The folder of a run in the folder of trials."""
    return f"trial-{number:03d}" + (f"-g{generation}" if generation else "")


def number_of(name: str) -> int:
    """The number of the trial of this name."""
    return int(name.split("-")[1])


def read_record(trials: Storage, number: int) -> Record | None:
    """The record of a trial, None where it has not begun; raises ConfigError where it is damaged."""
    name = f"{run_name(number)}.json"
    try:
        content = trials.read(name)
    except FileNotFoundError:
        return None
    with reading(trials.path(name), ConfigError):
        stored = parse_json(content, name)
        return Record(**{**stored, "copies": tuple(Copy(**copy) for copy in stored["copies"])})


def write_record(trials: Storage, record: Record) -> None:
    trials.write(f"{run_name(record.number)}.json", json.dumps(asdict(record), indent=1).encode())


def end_record(trials: Storage, number: int, state: State, why: str = "", stopped_kimg: float | None = None) -> None:
    """Stores how a trial ended; the first end counts."""
    record = read_record(trials, number)
    if record is not None and record.state == "open":
        write_record(trials, record.ended(state, why, stopped_kimg))


def read_trials(trials: Storage, objective: str) -> dict[int, Trial]:
    """All trials that have begun, with their rows, by number."""
    names = [name for name in trials.names() if name.startswith("trial-") and name.endswith(".json")]
    records = [read_record(trials, number_of(name.removesuffix(".json"))) for name in names]
    return {
        record.number: Trial(record, list(rows_of_trial(trials, record, objective)))
        for record in sorted((r for r in records if r is not None), key=lambda r: r.number)
    }


def rows_of_trial(trials: Storage, record: Record, objective: str) -> Iterator[Row]:
    """The rows of all runs of a trial, in the order in which they were reported."""
    for generation, name in enumerate(reversed(record.runs)):
        for row in rows_of_run(trials.folder(name), objective):
            is_late = record.stopped_kimg is not None and row.kimg > record.stopped_kimg
            if math.isfinite(row.value) and not (is_late and generation == record.generation):
                yield replace(row, generation=generation)


def rows_of_run(run: Storage, objective: str) -> Iterator[Row]:
    """The objective at each tick of a run, out of its files; values may be NaN."""
    metric = objective.removeprefix("Metrics/") if objective.startswith("Metrics/") else None
    yield from _rows(dated_metric_rows(run, METRICS) if metric else tick_rows(run, TICKS), metric, objective)


def _rows(rows: Iterable[Mapping[str, Any]], metric: str | None, objective: str) -> Iterator[Row]:
    for row in rows:
        if metric is None and objective in row:
            yield Row(row["Progress/kimg"], number(row[objective]), row["Timing/total_sec"])
        elif metric is not None and row.get("metric") == metric and row.get("value") is not None:
            yield Row(row["kimg"], number(row["value"]), row.get("total_sec") or 0.0)


def number(value: Any) -> float:
    """A float; NaN for what is no number."""
    return float(value) if isinstance(value, (int, float)) else math.nan


def rank(trials: Iterable[Trial], higher_is_better: bool) -> list[Trial]:
    """Trials with a value, the best first: those that went the whole way before those that did not."""
    sign = -1.0 if higher_is_better else 1.0
    scored = [trial for trial in trials if trial.value is not None]
    bad = ("diverged", "failed")
    return sorted(
        scored, key=lambda t: (t.state in bad, t.state != "finished", sign * (t.value or 0.0), -t.kimg, t.number)
    )


def pin_newest(run: Storage) -> str | None:
    """Copies the newest undamaged checkpoint of a run to where pointers find it; its name, or None."""
    pinned = run.folder(PINNED)
    for name in reversed(complete_checkpoints(run.folder(CHECKPOINTS))):
        with suppress(CheckpointError, OSError):
            write_checkpoint(read_checkpoint(run.folder(f"{CHECKPOINTS}/{name}")), pinned)
            delete_old_checkpoints(pinned, NUM_PINNED)
            return name
    return None


def copy_checkpoint(trials: Storage, donor: str, checkpoint: str, target: str) -> tuple[float, str]:
    """Copies a pinned checkpoint into a new run; returns its kimg and the SHA-256 of its state.

    The copy is verified by checksums; the target begins with this checkpoint and nothing else. Raises CheckpointError
    where the donor's is gone or damaged.
    """
    trials.delete_folder(target)  # left over from a trial that was killed while copying
    folder = trials.folder(f"{donor}/{PINNED}/{checkpoint}")
    snapshot = read_checkpoint(folder)
    write_checkpoint(snapshot, trials.folder(f"{target}/{CHECKPOINTS}"))
    sha256 = json.loads(folder.read(COMPLETE))["files"][STATE]["sha256"]
    return snapshot.counters["cur_nimg"] / 1000, sha256


def spare_runs(record: Record) -> Sequence[str]:
    """Runs whose states nobody continues: all but the current run of an open or finished trial."""
    return record.runs[1:] if record.state in ("open", "finished") else record.runs


def unpin(run: Storage) -> None:
    """Deletes the checkpoints that were pinned for others to copy."""
    with suppress(OSError):
        delete_checkpoints(run, PINNED)


def delete_checkpoints(run: Storage, folder: str) -> None:
    for name in run.names(folder):
        delete_checkpoint(run.folder(folder), name)


def free(run: Storage) -> None:
    """Deletes the states and networks of a run that it wrote; its numbers, log and images stay."""
    with suppress(OSError):
        delete_checkpoints(run, CHECKPOINTS)
        for name in run.names():
            if name.endswith(OUR_ENDING):
                run.delete(name)
