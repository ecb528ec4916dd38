"""Decides which trials there are and which go on: known algorithms behind a journal, so that no decision is lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, Protocol

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from stylegan_ray.cluster.tune.journal import Event, Journal, Ledger, Trial, finite
from stylegan_ray.cluster.tune.space import Space, Values
from stylegan_ray.config import ConfigError
from stylegan_ray.rng import stream, stream_key

Decision = Literal["CONTINUE", "STOP", "EXPLOIT"]
CopyState = Callable[[Trial, Trial, int], tuple[str, float] | None]
"""Copies the newest state of the first trial for a generation of the second; the checkpoint's name and its kimg."""
QUANTILE = 0.25
"""Share of the population that gives its states away, and that takes them (Jaderberg et al. 2017, truncation)."""


@dataclass(frozen=True)
class Rules:
    """How a sweep searches and judges."""

    num_samples: int
    total_kimg: float
    scheduler: Literal["asha", "pbt", "fifo"] = "asha"
    search: Literal["random", "optuna"] = "random"
    higher_is_better: bool = False
    seed: int = 0
    grace_kimg: float = 1.0
    """ASHA: no trial is stopped before it."""
    reduction: float = 3.0
    """ASHA: one of so many trials goes on from each rung."""
    perturb_kimg: float = 1.0
    """PBT: kimg between two looks at whether a trial should take a better one's state."""


class Searcher(Protocol):
    """Gives each new trial its values and hears how it fares; scores are higher for better trials."""

    def suggest(self, number: int) -> Values: ...

    def result(self, number: int, kimg: float, score: float) -> None: ...

    def end(self, number: int, score: float | None, stopped: bool) -> None: ...


class RandomSearch:
    """Chance and grids: each trial is a function of the seed and its number."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed

    def suggest(self, number: int) -> Values:
        return self.space.sample(self.seed, number)

    def result(self, number: int, kimg: float, score: float) -> None:
        pass

    def end(self, number: int, score: float | None, stopped: bool) -> None:
        pass


class OptunaSearch:
    """Optuna's tree-structured Parzen estimator, as Ray Tune drives it; what was stopped early counts as pruned."""

    def __init__(self, space: Space, seed: int) -> None:
        try:
            import optuna
            from ray.tune.search.optuna import OptunaSearch as TuneOptunaSearch
        except ImportError as error:
            raise ConfigError("--search optuna needs the extra: pip install 'stylegan-ray[tune]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if any(parameter.kind == "grid" for parameter in space.parameters):
            raise ConfigError("--search optuna chooses by itself and takes no grid; write choice, or --search random")
        self.space = space
        self.inner = TuneOptunaSearch(self._define, metric="score", mode="max", seed=seed)

    def suggest(self, number: int) -> Values:
        told = self.inner.suggest(str(number)) or {}
        values = dict(self.space.fixed)
        for parameter in self.space.parameters:
            if parameter.key in told:
                value = told[parameter.key]
                values[parameter.key] = parameter.clipped(value) if parameter.is_range else parameter.values[int(value)]
        return values

    def result(self, number: int, kimg: float, score: float) -> None:
        self.inner.on_trial_result(str(number), {"score": score, "training_iteration": round(1000 * kimg)})

    def end(self, number: int, score: float | None, stopped: bool) -> None:
        known = None if stopped or score is None else {"score": score}
        self.inner.on_trial_complete(str(number), known, error=score is None)

    def _define(self, trial: Any) -> None:
        """Optuna's define-by-run: members of lists by their place, since they may be anything."""
        values = dict(self.space.fixed)
        for parameter in self.space.parameters:
            if not parameter.is_active(values):
                continue
            if not parameter.is_range:
                place = trial.suggest_categorical(parameter.key, list(range(len(parameter.values))))
                values[parameter.key] = parameter.values[place]
                continue
            low, high = parameter.values
            suggest = trial.suggest_int if parameter.is_whole else trial.suggest_float
            values[parameter.key] = suggest(parameter.key, low, high, log=parameter.kind == "loguniform")


class Asha:
    """Ray Tune's asynchronous successive halving (Li et al. 2018) with kimg as time, asked about trials by number."""

    def __init__(self, rules: Rules) -> None:
        self.inner = ASHAScheduler(
            time_attr="kimg",
            metric="score",
            mode="max",
            max_t=rules.total_kimg,  # type: ignore[arg-type]  # any number does
            grace_period=min(rules.grace_kimg, rules.total_kimg),  # type: ignore[arg-type]
            reduction_factor=rules.reduction,
        )

    def add(self, number: int) -> None:
        self.inner.on_trial_add(None, _named(number))  # type: ignore[arg-type]

    def stops(self, number: int, kimg: float, score: float) -> bool:
        """Whether the trial is among the worse ones at a rung that it has just reached."""
        answer = self.inner.on_trial_result(None, _named(number), {"kimg": kimg, "score": score})  # type: ignore[arg-type]
        return answer == TrialScheduler.STOP


def _named(number: int) -> Any:
    return SimpleNamespace(trial_id=str(number))


class Judge:
    """Hears of every result once, decides, and writes the decision down before anybody acts on it."""

    def __init__(self, rules: Rules, space: Space, journal: Journal, copy_state: CopyState | None = None) -> None:
        self.rules, self.space, self.journal, self.copy_state = rules, space, journal, copy_state
        self.ledger = Ledger()
        self.searcher: Searcher = (
            OptunaSearch(space, rules.seed) if rules.search == "optuna" else RandomSearch(space, rules.seed)
        )
        self.asha = Asha(rules) if rules.scheduler == "asha" else None
        for event in journal.events:
            self._learn(event)
        self._reopened = [trial.number for trial in self.ledger.open]

    @property
    def num_left(self) -> int:
        """Trials that have not been handed out since the sweep was opened."""
        return len(self._reopened) + max(self.rules.num_samples - len(self.ledger.trials), 0)

    def next_trial(self) -> Trial | None:
        """A trial to run: those that were interrupted first, then new ones; None when all are handed out."""
        if self._reopened:
            return self.ledger.trials[self._reopened.pop(0)]
        number = len(self.ledger.trials)
        if number >= self.rules.num_samples:
            return None
        # A searcher is asked when the event is learned, at its time and when it is told again alike.
        self._learn({"event": "trial", "trial": number, "values": None}, is_new=True)
        return self.ledger.trials[number]

    def on_result(self, number: int, generation: int, kimg: float, value: Any, sec: float) -> Decision:
        """Decides about a trial that has reached a tick."""
        trial = self.ledger.trials[number]
        if trial.state != "open":
            return "STOP"
        if trial.knows(generation, kimg):
            return "CONTINUE"
        row = {"trial": number, "generation": generation, "kimg": kimg, "value": finite(value), "sec": round(sec, 3)}
        decision = self._learn({"event": "result", **row, "decision": None}, is_new=True)
        donor = self._donor(trial) if decision == "CONTINUE" and self.rules.scheduler == "pbt" else None
        return "EXPLOIT" if donor is not None and self._exploit(trial, donor) else decision

    def on_end(self, number: int, state: str, why: str = "") -> None:
        """Notes that a trial came to its end by itself."""
        if self.ledger.trials[number].state == "open":
            self._learn({"event": "end", "trial": number, "state": state, "why": why}, is_new=True)

    def _learn(self, event: Event, is_new: bool = False) -> Decision:
        """Tells searcher and scheduler of an event, in the same way when it happens and when it is read again."""
        number, decision = event["trial"], event.get("decision")
        if event["event"] == "trial":
            suggested = self.searcher.suggest(number)
            event = {**event, "values": event["values"] if event["values"] is not None else suggested}
            if self.asha:
                self.asha.add(number)
        elif event["event"] == "result":
            verdict = self._verdict(number, event)
            decision = verdict if is_new else decision
            event = {**event, "decision": decision}
        if is_new:
            event = self.journal.append(event)
        self.ledger.apply(event)
        if self.ledger.trials[number].state != "open":
            self._tell_end(self.ledger.trials[number])
        return decision or "CONTINUE"

    def _verdict(self, number: int, event: Event) -> Decision:
        """What scheduler and searcher make of a result."""
        if event["value"] is None:
            return "STOP"
        score = self._score(event["value"])
        self.searcher.result(number, event["kimg"], score)
        if self.asha is None or event["kimg"] >= self.rules.total_kimg:
            return "CONTINUE"
        return "STOP" if self.asha.stops(number, event["kimg"], score) else "CONTINUE"

    def _tell_end(self, trial: Trial) -> None:
        bad = trial.state in ("diverged", "failed")
        value = self.ledger.worst_value(self.rules.higher_is_better) if bad else trial.value
        score = None if value is None else self._score(value)
        if bad and self.asha and score is not None:
            self.asha.stops(trial.number, self.rules.grace_kimg, score)  # it counts among those at the first rung
        self.searcher.end(trial.number, score, trial.state == "stopped")

    def _score(self, value: float) -> float:
        return value if self.rules.higher_is_better else -value

    def _donor(self, trial: Trial) -> Trial | None:
        """The better trial whose state this one should take, or None."""
        began = trial.exploits[-1]["kimg"] if trial.exploits else 0.0
        looks = math.floor((trial.kimg - began) / self.rules.perturb_kimg)
        before = [row.kimg for row in trial.rows[:-1] if row.generation == trial.generation]
        if looks == math.floor(((before[-1] if before else began) - began) / self.rules.perturb_kimg):
            return None  # not yet time for the next look
        scored = [other for other in self.ledger.open if other.value is not None]
        scored.sort(key=lambda other: (self._score(other.value or 0.0), other.number))
        num = min(math.ceil(len(scored) * QUANTILE), len(scored) // 2)
        if trial.kimg >= self.rules.total_kimg or trial not in scored[:num]:
            return None
        rng = stream(stream_key(self.rules.seed, 0, "sweep/donor", trial.number, len(trial.rows)), 0)
        return scored[len(scored) - num + int(rng.integers(num))]

    def _exploit(self, trial: Trial, donor: Trial) -> bool:
        """Gives the trial a copy of the donor's state and values near the donor's; whether there was a state."""
        assert self.copy_state is not None, "population based training copies states"
        generation = trial.generation + 1
        copied = self.copy_state(donor, trial, generation)
        if copied is None:
            return False
        checkpoint, kimg = copied
        values = self.space.moved(donor.values, self.rules.seed, trial.number, generation)
        event = {"event": "exploit", "trial": trial.number, "from": donor.name, "checkpoint": checkpoint}
        self._learn({**event, "kimg": kimg, "generation": generation, "values": values}, is_new=True)
        return True
