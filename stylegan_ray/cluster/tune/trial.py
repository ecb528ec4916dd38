"""One trial of a sweep: a whole training run as a Trainable of Ray Tune, which reports the objective at each tick."""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Trainable

from stylegan_ray.cluster.launch import train_run, use_ray_defaults
from stylegan_ray.cluster.preflight import Clearance
from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.run import Run
from stylegan_ray.cluster.tune.sealed import introduce
from stylegan_ray.cluster.tune.trials import (
    INTERRUPTED,
    Copy,
    Record,
    Row,
    copy_checkpoint,
    number_of,
    pin_newest,
    read_record,
    rows_of_run,
    run_name,
    write_record,
)
from stylegan_ray.config import ConfigError, RunConfig, nearest, validated
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.run_folder import CHECKPOINTS, checkpoint_nimg, complete_checkpoints, is_asked_to_stop
from stylegan_ray.storage import Storage, join_address, one_line, retry, split_address
from stylegan_ray.train.checkpoint import CheckpointError

POINTER = "pointer.json"
"""The one file of Tune's checkpoints: which checkpoint of which run a trial's state is."""
TROUBLE = ("fault:", "warning:", "storage")
"""How messages of a run begin that the sweep's console shows, too."""
SECONDS_FOR_CHECKPOINT = 120.0
"""How long a report waits at most for the checkpoint of its tick."""
SECONDS_TO_END = 300.0
"""How long a trial waits for its run to save and stop."""
SECONDS_BETWEEN_LOOKS = 1.0
"""How often a trial that waits for a tick looks for the sweep's STOP file."""
Report = dict[str, Any]


@dataclass(frozen=True)
class TrialSpec:
    """What all trials of a sweep share."""

    cfg: dict[str, Any]
    """Complete, but for the keys that a trial sets."""
    dataset: Dataset
    sweep: str
    """The sweep's folder."""
    trials: str
    """The folder of the trials' runs."""
    share: Share
    clearance: Clearance
    objective: str
    """The key that is reported, such as Metrics/fid500_tiny."""
    command: str
    """The command line of the sweep."""
    waits_for_checkpoints: bool = False
    """Report a tick only when its checkpoint is complete, so that another trial can copy it."""

    def config(self, record: Record) -> RunConfig:
        """The configuration of a trial's current run."""
        own = {"run.name": record.name, "run.storage": self.trials}
        return validated(self.cfg).with_overrides({**record.values, **own})

    def run(self, record: Record) -> Run:
        """A trial's current run, on the data that all trials share, or on a subset of its own."""
        cfg, address = self.config(record), join_address(self.trials, record.name)
        has_own_data = subset_of(cfg) != subset_of(validated(self.cfg))
        return Run(
            cfg, address, open_dataset(cfg.data, cfg.run.seed) if has_own_data else self.dataset,
            clearance=self.clearance, command=self.command, in_process=is_alone(self.share),
            group=split_address(self.sweep)[1],
        )  # fmt: skip


def subset_of(cfg: RunConfig) -> tuple[int, int] | None:
    """What decides which images of the data are used: their number and the seed that draws them; None: all."""
    return None if cfg.data.subset is None else (cfg.data.subset, cfg.run.seed)


def is_alone(share: Share) -> bool:
    """Whether a trial has a single worker, which then is its actor: that starts sooner and leaves more of the cores."""
    return share.num_workers == 1


class TrialRun(Trainable):
    """Tune's handle of a trial: each step returns one report; the last one has `done` and how the run ended.

    Nothing is kept here: whatever ends this actor, the next one continues from the newest checkpoint of the run. What
    Tune saves and restores is a pointer to that checkpoint, and population based training hands it to another trial.
    """

    def setup(self, config: dict[str, Any], spec: TrialSpec | None = None) -> None:
        assert spec is not None, "every trial has a spec"
        use_ray_defaults()
        introduce(spec.sweep)
        self.spec, self.trials = spec, Storage.at(spec.trials)
        self._begin(config)

    def step(self) -> Report:
        if self.reports is None:
            self.reports = self._reports()
        return next(self.reports)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Stores a pointer to the newest checkpoint, which is copied to where it stays."""
        record = read_record(self.trials, number_of(self.trial_name))
        name = pin_newest(self.trials.folder(record.name)) if record else None
        pointer = {"run": record.name, "checkpoint": name} if record and name else None
        Path(checkpoint_dir, POINTER).write_text(json.dumps(pointer))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Remembers the pointer; the first step decides whether to follow it."""
        self.pointer = json.loads(Path(checkpoint, POINTER).read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Starts another trial in this process, which has imported everything."""
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Ends the run; its workers and their placement group are gone when this returns."""
        if self.fitting is not None:
            self.fitting.end()

    def fitting_of(self, run: Run) -> Fitting:
        """The training of a run, not started yet."""
        return Fitting(run, self.spec)

    def _begin(self, config: Mapping[str, Any]) -> None:
        self.given = dict(config)
        self.pointer: dict[str, str] | None = None
        self.reports: Iterator[Report] | None = None
        self.fitting: Fitting | None = None

    def _reports(self) -> Iterator[Report]:
        number, messages = number_of(self.trial_name), []
        record = read_record(self.trials, number) or Record(number, dict(self.given["values"]))
        token = self.given.get("copy")
        if record.state == "open" and token and token not in [copy.token for copy in record.copies]:
            record, text = self._copy(record, token)
            messages.append({"message": text})
        write_record(self.trials, record)
        run = self.spec.run(record)
        if record.state == "open" and not run.is_finished:
            self.fitting = self.fitting_of(run)
        base = {"generation": record.generation, "start_kimg": record.start_kimg, "kimg": record.start_kimg}
        ended = ("finished", "") if record.state == "open" else (record.state, record.why)
        for message in messages:
            yield {**base, **message}
        for report in reports_of_run(run.storage, self.spec, self.fitting, ended):
            base = {key: value for key, value in {**base, **report}.items() if key not in ("message", "refused")}
            yield {**base, **report, "time": time.time()}

    def _copy(self, record: Record, token: str) -> tuple[Record, str]:
        """Begins the next generation with a copy of the donor's checkpoint."""
        if self.pointer is None:
            return record, "warning: there is nothing to copy; this trial continues its own run"
        donor, checkpoint = self.pointer["run"], self.pointer["checkpoint"]
        name = run_name(record.number, record.generation + 1)
        try:
            kimg, sha256 = copy_checkpoint(self.trials, donor, checkpoint, name)
        except (CheckpointError, OSError) as error:
            return record, f"warning: {one_line(error)}; this trial continues its own run"
        copied = record.with_copy(Copy(token, donor, checkpoint, kimg, sha256), self.given["values"])
        return copied, f"copies {donor} at {kimg:g} kimg"


def reports_of_run(
    run: Storage, spec: TrialSpec, fitting: Fitting | None, ended: tuple[str, str] = ("finished", "")
) -> Iterator[Report]:
    """What a run reported before, then what it reports now; the last report tells how it ended.

    Rows that Tune has heard of are reported again: it may have lost them.
    """
    for row in rows_of_run(run, spec.objective):
        if not math.isfinite(row.value):
            yield {"done": True, "ended": "diverged", "why": NOT_A_NUMBER}
            return
        yield report_of(row, spec.objective)
    if fitting is None:
        yield {"done": True, "ended": ended[0], "why": ended[1]}
        return
    fitting.start()
    while (report := fitting.next_report()) is not None:
        value = report.get(spec.objective)
        if value is not None and not math.isfinite(value):
            yield {"done": True, "ended": "diverged", "why": NOT_A_NUMBER}
            return
        if spec.waits_for_checkpoints and value is not None:
            wait_for_checkpoint(run.folder(CHECKPOINTS), report["kimg"])
        yield report
    state, why = fitting.ending
    while state == INTERRUPTED and fitting.sweep_is_stopping():  # Tune ends this actor soon, and restores no done trial
        time.sleep(SECONDS_BETWEEN_LOOKS)
        yield {"ended": INTERRUPTED}
    yield {"done": True, "ended": state, "why": one_line(why, 500) if why else ""}


NOT_A_NUMBER = "the objective is not a number"


class Fitting(threading.Thread):
    """The run in a thread, heard as reports; takes the place of the train command's console."""

    def __init__(self, run: Run, spec: TrialSpec) -> None:
        super().__init__(daemon=True, name="trial")
        self.trial_run, self.spec = run, spec
        self.ending: tuple[str, str] = ("failed", "the trial ended without a message")
        self.is_ending = False
        self._reports: queue.Queue[Report | None] = queue.Queue()
        self._sec = 0.0

    def run(self) -> None:
        """The thread: trains, and keeps how the run ended."""
        try:
            self.ending = retry(self.train, self.message)
        except OSError as error:  # the storage has not responded for minutes: another command may continue the trial
            self.message(f"fault: {one_line(error)}")
            self.ending = (INTERRUPTED, one_line(error))
        except BaseException as error:
            self.ending = ("failed", f"{type(error).__name__}: {error}")
        finally:
            self._reports.put(None)

    def train(self) -> tuple[str, str]:
        """Runs the training; returns how it ended and why, where it failed."""
        outcome = train_run(self.trial_run, self.spec.share, self, lambda: self.is_ending)
        state = {"done": "finished", "stopped": INTERRUPTED}.get(outcome.state, outcome.state)
        return state, outcome.reason

    def end(self) -> None:
        """Asks a run that is still training to save and stop, and returns when it has.

        Raises TimeoutError for a run that cannot, because its nodes are gone: Tune then ends the actor.
        """
        deadline = time.monotonic() + SECONDS_TO_END
        while self.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run of {self.trial_run.cfg.run.name} does not end")
            self.is_ending = True
            self.join(1.0)

    def next_report(self) -> Report | None:
        """The next one; None when the run has ended, which the sweep's STOP file makes it do, too."""
        while True:
            try:
                return self._reports.get(timeout=SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                self.is_ending = self.is_ending or self.sweep_is_stopping()

    def sweep_is_stopping(self) -> bool:
        """Whether the sweep has a STOP file."""
        return is_asked_to_stop(Storage.at(self.spec.sweep))

    def tick(self, stats: Mapping[str, Any]) -> None:
        """A tick's row: a report where it has the objective."""
        self._sec = stats["Timing/total_sec"]
        if self.spec.objective in stats:
            self._put(stats, stats[self.spec.objective])
        elif not self.spec.objective.startswith("Metrics/"):
            try:
                check_reported_objective(self.spec.objective, stats)
            except ConfigError as error:
                self._reports.put({"refused": str(error)})

    def metric(self, values: Mapping[str, Any]) -> None:
        """Values of metrics: a report where the objective is one of them."""
        if self.spec.objective in values:
            self._put(values, values[self.spec.objective])

    def message(self, text: str) -> None:
        """A message of the run: those about trouble are shown by the sweep."""
        if text.startswith(TROUBLE):
            self._reports.put({"message": text})

    def refresh(self) -> None:
        """Nothing moves between reports."""

    def _put(self, stats: Mapping[str, Any], value: Any) -> None:
        value = float(value) if isinstance(value, (int, float)) else math.nan
        self._reports.put(report_of(Row(stats["Progress/kimg"], value, self._sec), self.spec.objective))


def report_of(row: Row, objective: str) -> Report:
    """A row as Tune gets it."""
    return {"kimg": row.kimg, objective: row.value, "sec": row.sec}


def check_reported_objective(objective: str, stats: Mapping[str, Any]) -> None:
    """Raises ConfigError when no tick of this kind of run has the objective."""
    if objective.startswith("Loss/") and objective.endswith("/reg") and objective.replace("/reg", "/loss") in stats:
        return  # not every tick has a regularization phase
    known = [key for key in stats if not key.startswith("Progress/")]
    raise ConfigError(
        f"--objective {objective}: no tick reports it{nearest(objective, known)}; scalars are {', '.join(known)}, or "
        f"name a metric such as fid500_tiny"
    )


def wait_for_checkpoint(checkpoints: Storage, kimg: float) -> None:
    """Returns when the checkpoint of a tick is complete, or after a while; it is written in the background."""
    deadline = time.monotonic() + SECONDS_FOR_CHECKPOINT
    while time.monotonic() < deadline:
        names = complete_checkpoints(checkpoints)
        if names and (checkpoint_nimg(names[-1]) or 0) >= round(1000 * kimg):
            return
        time.sleep(0.2)
