"""What the driver does while Ray Tune runs: shows progress, stores how trials end, frees disk, hears signals."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from stylegan_ray.cluster.run import has_ended
from stylegan_ray.cluster.tune.progress import SweepView, format_values
from stylegan_ray.cluster.tune.trials import (
    INTERRUPTED,
    TRIALS,
    Record,
    Row,
    Trial,
    end_record,
    free,
    number_of,
    read_record,
    read_trials,
    spare_runs,
)
from stylegan_ray.config import ConfigError
from stylegan_ray.interrupts import asking_signals, note_hangup
from stylegan_ray.run_folder import STOP, is_asked_to_stop
from stylegan_ray.storage import Storage, retry

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_END = 600.0
"""After a trial has ended; a run that has not stored by then that it has ended is dead."""
SECONDS_TO_SAVE = 300.0
"""How long trials may take to save their states after a stop request."""
FAILURES_TO_GIVE_UP = 3
"""When the first trials have all failed, the fault is not in their values."""


@dataclass(frozen=True)
class SweepCallback(Callback):
    """Ray Tune's callback of a sweep. Tune stores it with the experiment, so it holds plain values only."""

    objective: str
    num_samples: int
    higher_is_better: bool

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        """Called once, in the main thread, before the first trial starts."""
        _opened().begin(self)

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        _opened().start(trial)

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        _opened().report(number_of(str(trial)), result)

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        """A trial has ended by itself, or its scheduler has stopped it."""
        last = trial.last_result or {}
        ended = last.get("ended", "stopped")
        number, kimg = number_of(str(trial)), last.get("kimg", 0.0)
        if ended == "stopped":
            _opened().end(number, ended, f"stopped at {kimg:g} kimg", kimg)
        elif ended != INTERRUPTED:
            _opened().end(number, ended, last.get("why", ""))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        """Tune has given up on a trial."""
        _opened().end(number_of(str(trial)), "failed", "its process died again and again")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Called on every iteration of Tune's event loop."""
        _opened().look([number_of(str(trial)) for trial in trials if trial.status == TuneTrial.RUNNING])


_session: Session | None = None


def _opened() -> Session:
    assert _session is not None, "Ray Tune runs without the session of its sweep"
    return _session


class Session:
    """The sweep that this process runs: at most one at a time, as signals and a console are there once."""

    def __init__(self, sweep: Storage, trials: dict[int, Trial], view: SweepView) -> None:
        """The sweep's folder, its trials so far, which are kept up to date here, and its console."""
        self.sweep, self.known, self.view = sweep, trials, view
        self.was_stopped = self.was_signaled = self._was_announced = False
        self._stopped_at = math.inf
        self._store_and_end: Callable[[], None] = lambda: None
        self._has_saved: set[int] = set()
        self._to_free: dict[int, float] = {}
        self._looked_at = -math.inf

    @property
    def trials(self) -> Storage:
        return self.sweep.folder(TRIALS)

    def begin(self, callback: SweepCallback) -> None:
        """Makes signals and the STOP file end the trials, and then do what Tune does on SIGINT: store its state.

        On SIGINT Tune gives its actors ten seconds, in which a large training is not saved.
        """
        self.view.num_samples = callback.num_samples
        of_tune: Any = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: Any) -> None:
            note_hangup(number)
            if self.was_stopped:
                raise KeyboardInterrupt
            self.was_signaled = True
            self._stop()  # `look` says so: a handler must not print

        def store_and_end() -> None:
            self._store_and_end = lambda: None
            of_tune(signal.SIGINT, None)
            for number in asking_signals():
                signal.signal(number, handle)

        self._store_and_end = store_and_end
        for number in asking_signals():
            signal.signal(number, handle)

    def start(self, tune_trial: TuneTrial) -> None:
        number = number_of(str(tune_trial))
        if number not in self.known:
            record = self._read_record(number) or Record(number, tune_trial.config["values"])
            self.known[number] = Trial(record)
        if self.known[number].state == "open":
            self.view.show_start(self.known[number])

    def report(self, number: int, result: dict) -> None:
        """Shows what is new of a report; raises ConfigError where no trial can ever report the objective."""
        trial = self.known[number]
        if result.get("ended") == INTERRUPTED:
            self._has_saved.add(number)
        if "refused" in result:
            raise ConfigError(result["refused"])
        text = result.get("message", "")
        if result.get("generation", 0) != trial.record.generation:
            trial.record = self._read_record(number) or trial.record
            text = f"{text}: {format_values(trial.values)}"
        if text:
            self.view.message(f"trial {number} {text}" if text.startswith("copies") else f"trial {number}: {text}")
        objective = self.view.objective
        if objective in result and "message" not in result and trial.state == "open":
            row = Row(result["kimg"], result[objective], result["sec"], result["generation"])
            if not trial.has(row) and math.isfinite(row.value):
                trial.rows.append(row)
                self.view.show_row(trial, bool(result.get("done")) and "ended" not in result)

    def end(self, number: int, state: Any, why: str, stopped_kimg: float | None = None) -> None:
        """Stores how a trial ended, before anything of it is deleted."""
        trial = self.known[number]
        if trial.state != "open":
            return
        retry(lambda: end_record(self.trials, number, state, why, stopped_kimg), self.view.message)
        trial.record = self._read_record(number) or trial.record.ended(state, why, stopped_kimg)
        self._to_free[number] = time.monotonic()
        if state != "stopped":  # the console has said so at its last row
            self.view.show_end(trial)
        ended = [trial for trial in self.known.values() if trial.state != "open"]
        if len(ended) >= FAILURES_TO_GIVE_UP and all(trial.state == "failed" for trial in ended):
            raise ConfigError(f"the first {len(ended)} trials have all failed, the last one: {why}")

    def look(self, running: Sequence[int]) -> None:
        """Passes a stop request on, and ends Tune once the trials that are running have saved their states after one.

        Every two seconds, frees the disk of trials whose runs have ended, and reads the STOP file.
        """
        now = time.monotonic()
        if self.was_stopped and not self._was_announced:
            self._was_announced = True
            self.view.message("Stopping: what was trained is saved first; once more to stop at once.")
            with suppress(OSError):
                self.sweep.write(STOP, b"")
        if self.was_stopped and (self._has_saved.issuperset(running) or now - self._stopped_at > SECONDS_TO_SAVE):
            self._store_and_end()
        if now - self._looked_at > SECONDS_BETWEEN_LOOKS:
            self._looked_at = now
            for number, since in list(self._to_free.items()):
                record = self.known[number].record
                with suppress(OSError):  # looked at again soon
                    if has_ended(self.trials.folder(record.name)) or now - since > SECONDS_TO_END:
                        del self._to_free[number]
                        free_disk(self.trials, record)
            if not self.was_stopped and is_asked_to_stop(self.sweep):
                self._stop()
        self.view.refresh()

    def _stop(self) -> None:
        self.was_stopped, self._stopped_at = True, time.monotonic()

    def _read_record(self, number: int) -> Record | None:
        return retry(lambda: read_record(self.trials, number), self.view.message)


def session(sweep: Storage, view: SweepView, objective: str) -> Session:
    """Opens the session of this process for a sweep."""
    global _session
    _session = Session(sweep, view.trials, view)
    view.trials.update(read_trials(sweep.folder(TRIALS), objective))
    return _session


def free_disk(trials: Storage, record: Record) -> None:
    """Deletes the states and networks of a trial that nobody continues."""
    for name in spare_runs(record):
        free(trials.folder(name))
