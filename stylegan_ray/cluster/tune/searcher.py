"""A sweep under way: what Ray Tune asks and tells, brought before the judge, and what follows for disk and screen."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from stylegan_ray.cluster.ray_private import free_workers
from stylegan_ray.cluster.tune.journal import Trial
from stylegan_ray.cluster.tune.progress import SweepView
from stylegan_ray.cluster.tune.scheduler import Judge
from stylegan_ray.cluster.tune.trial import FAILED, INTERRUPTED
from stylegan_ray.run_folder import CHECKPOINTS, RUN_FILE, STOP, complete_checkpoints
from stylegan_ray.storage import Storage, one_line
from stylegan_ray.train.checkpoint import (
    CheckpointError,
    delete_checkpoint,
    read_checkpoint,
    write_checkpoint,
)

MOST_SECONDS_TO_END = 600.0
"""After Ray Tune has let a trial go; a run that has not said by then that it has ended is dead."""
SECONDS_BETWEEN_LOOKS = 2.0
FAILURES_TO_GIVE_UP = 3
"""When the first trials have all failed, the fault is not in their values."""


class Course:
    """The trials of this session: which run, which wait, and what is still to be tidied up."""

    def __init__(self, judge: Judge, trials: Storage, at_once: int, view: SweepView) -> None:
        self.judge, self.trials, self.at_once, self.view = judge, trials, at_once, view
        self.live: dict[str, int] = {}
        """Numbers of the trials that run, by Ray Tune's id."""
        self.waiting: set[str] = set()
        """Trials whose turn is over for now, and those that go on from another one's state."""
        self.is_stopping = False
        self.refusal: str | None = None
        self._turn_began: dict[int, float] = {}
        self._to_free: dict[str, float] = {}
        self._asked_at = self._freed_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune saves whatever it is handed, and a sweep is continued from its journal."""
        return {}

    @property
    def is_over(self) -> bool:
        """Whether Ray Tune should end whatever it still has."""
        return self.refusal is not None or (self.is_stopping and not self.live)

    def deal(self, tune_id: str) -> dict[str, Any] | str | None:
        """The next trial for Ray Tune, None where all places are taken, FINISHED where there is none left."""
        if self.is_stopping or not self.judge.num_left:
            return Searcher.FINISHED
        if len(self.live) >= self.at_once:
            return None
        trial = self.judge.next_trial()
        assert trial is not None, "some are left"
        self.resume(tune_id, trial.number)
        self.view.begins(trial)
        return described(trial)

    def resume(self, tune_id: str, number: int) -> None:
        """A trial gets a place."""
        self.live[tune_id] = number
        self.waiting.discard(tune_id)
        self._turn_began[number] = self.judge.ledger.trials[number].kimg

    def hear(self, tune_id: str, report: Mapping[str, Any]) -> str:
        """What to do with a trial after a report."""
        trial = self.judge.ledger.trials[self.live[tune_id]]
        if "said" in report:
            self.view.message(f"trial {trial.number}: {report['said']}")
        if "refused" in report:
            self.refusal = report["refused"]
        if "kimg" not in report:
            return "CONTINUE"
        is_news = not trial.knows(report["generation"], report["kimg"])
        old = trial.name
        decision = self.judge.on_result(
            trial.number, report["generation"], report["kimg"], report["value"], report["sec"]
        )
        if is_news:
            self.view.result(trial, decision)
        if decision == "STOP":
            self.free_later(trial)
        elif decision == "EXPLOIT":
            self._to_free[old] = time.monotonic()
            self._wait(tune_id)
        elif is_news and self._turn_is_over(trial):
            decision = "PAUSE"
            self._wait(tune_id)
        return decision

    def ends(self, tune_id: str, report: Mapping[str, Any]) -> None:
        """A trial has ended by itself, or was ended by a decision that is noted already."""
        number = self.live.pop(tune_id, None)
        if number is None:
            return
        trial = self.judge.ledger.trials[number]
        state, why = report.get("ended"), report.get("why", "")
        if state not in (None, INTERRUPTED) and trial.state == "open":
            self.judge.on_end(number, state, one_line(why, 500) if why else "")
            self.free_later(trial)
        self.view.ends(trial)
        self._look_at_failures()

    def crashes(self, tune_id: str) -> None:
        """Ray Tune has given up on a trial."""
        if tune_id in self.live:
            free_workers(self.judge.ledger.trials[self.live[tune_id]].name)
        self.ends(tune_id, {"ended": FAILED, "why": "its actor died again and again"})

    def beat(self) -> None:
        """Called several times a second."""
        now = time.monotonic()
        if now - self._freed_at > SECONDS_BETWEEN_LOOKS:
            self._freed_at = now
            self._free_what_has_ended()
        if self.is_stopping and now - self._asked_at > SECONDS_BETWEEN_LOOKS:
            self._asked_at = now
            for number in self.live.values():
                with suppress(OSError):
                    self.trials.folder(self.judge.ledger.trials[number].name).write(STOP, b"")
        self.view.refresh()

    def ask_to_stop(self) -> None:
        """Lets the running trials save and end; the same command goes on with them."""
        self.is_stopping = True

    def free_later(self, trial: Trial) -> None:
        """Frees the disk of a trial when its workers are gone: all but a finished trial's last state."""
        for name in trial.folders[1:] if trial.state == "finished" else trial.folders:
            self._to_free[name] = time.monotonic()

    def free_all(self) -> None:
        """Frees what no trial needs any more, also what an earlier session did not come to."""
        for trial in self.judge.ledger.trials.values():
            spare = trial.folders[1:] if trial.state in ("open", "finished") else trial.folders
            for name in spare:
                free(self.trials.folder(name))

    def _free_what_has_ended(self) -> None:
        for name, since in list(self._to_free.items()):
            run = self.trials.folder(name)
            if has_ended(run) or time.monotonic() - since > MOST_SECONDS_TO_END:
                del self._to_free[name]
                free(run)

    def _turn_is_over(self, trial: Trial) -> bool:
        """Whether others of the population should catch up first."""
        if self.judge.rules.scheduler != "pbt" or trial.kimg >= self.judge.rules.total_kimg:
            return False
        others = bool(self.judge.num_left or self.waiting)
        return others and trial.kimg - self._turn_began[trial.number] >= self.judge.rules.perturb_kimg

    def _wait(self, tune_id: str) -> None:
        del self.live[tune_id]
        self.waiting.add(tune_id)

    def _look_at_failures(self) -> None:
        ended = self.judge.ledger.ended
        if len(ended) >= FAILURES_TO_GIVE_UP and all(trial.state == "failed" for trial in ended):
            self.refusal = f"the first {len(ended)} trials have all failed, the last one: {ended[-1].why}"


def described(trial: Trial) -> dict[str, Any]:
    """What an actor of Ray Tune is told of its trial."""
    return {
        "number": trial.number, "name": trial.name, "generation": trial.generation, "values": trial.values,
    }  # fmt: skip


def copy_state(trials: Storage, donor: Trial, trial: Trial, generation: int) -> tuple[str, float] | None:
    """Puts a verified copy of a trial's newest state where the next generation of another one begins.

    A real copy: the donor goes on, and deletes its old checkpoints as it does.
    """
    folder = f"trial-{trial.number:03d}-g{generation}"
    trials.delete_folder(folder)  # left over from a driver that died while copying
    source = trials.folder(f"{donor.name}/{CHECKPOINTS}")
    for name in reversed(complete_checkpoints(source)):
        with suppress(CheckpointError, OSError):
            snapshot = read_checkpoint(source.folder(name))
            write_checkpoint(snapshot, trials.folder(f"{folder}/{CHECKPOINTS}"))
            return name, snapshot.counters["cur_nimg"] / 1000
    return None


def has_ended(run: Storage) -> bool:
    """Whether a run has said so; its workers write no more."""
    try:
        return json.loads(run.read(RUN_FILE))["ended"] is not None
    except (OSError, ValueError, KeyError):
        return False


def free(run: Storage) -> None:
    """Deletes the states and networks of a run; its numbers, words and pictures stay."""
    with suppress(OSError):
        for name in run.names(CHECKPOINTS):
            delete_checkpoint(run.folder(CHECKPOINTS), name)
        for name in run.names():
            if name.endswith(".safetensors"):
                run.delete(name)


class Deals(Searcher):
    """Where Ray Tune gets its trials."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self.course = course

    def suggest(self, trial_id: str) -> Any:
        return self.course.deal(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The scheduler has heard of it."""

    def save(self, checkpoint_path: str) -> None:
        """The journal holds all there is to save."""

    def restore(self, checkpoint_path: str) -> None:
        """See save."""


class Verdicts(FIFOScheduler):
    """What Ray Tune asks after each report."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self.course = course

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        decision = self.course.hear(trial.trial_id, result)
        if decision not in ("EXPLOIT", "PAUSE"):
            return decision
        tune_controller.pause_trial(trial, should_checkpoint=False)
        trial.set_config(described(self.course.judge.ledger.trials[trial.config["number"]]))
        return TrialScheduler.NOOP

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict) -> None:
        self.course.ends(trial.trial_id, result)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Ray Tune tries again; on_trial_error of Beats is called when it does so no more."""

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        self.course.ends(trial.trial_id, {})

    def choose_trial_to_run(self, tune_controller: Any, **_: Any) -> TuneTrial | None:
        """Of the trials that wait, the one that is furthest behind, where there is a place."""
        course, trials = self.course, tune_controller.get_trials()
        if course.is_stopping or len(course.live) >= course.at_once:
            return None
        waiting = [trial for trial in trials if trial.status == TuneTrial.PAUSED and trial.trial_id in course.waiting]
        if not waiting:
            return None
        known = course.judge.ledger.trials
        chosen = min(waiting, key=lambda trial: known[trial.config["number"]].kimg)
        course.resume(chosen.trial_id, chosen.config["number"])
        return chosen


class Beats(Callback):
    """Time passes."""

    def __init__(self, course: Course) -> None:
        self.course = course

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self.course.beat()

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self.course.crashes(trial.trial_id)


class Ends(Stopper):
    """When Ray Tune should end everything."""

    def __init__(self, course: Course) -> None:
        self.course = course

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.course.is_over
