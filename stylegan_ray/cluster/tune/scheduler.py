"""Ray Tune's schedulers, made to survive a restart: Tune restores trials, and gives their schedulers nothing back."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from stylegan_ray.cluster.tune.options import Plan
from stylegan_ray.cluster.tune.space import Space
from stylegan_ray.cluster.tune.trials import TRIALS, number_of, rows_of_run, run_name
from stylegan_ray.storage import Storage


def scheduler_of(plan: Plan, total_kimg: float) -> TrialScheduler:
    """The scheduler that the command asks for, counting in kimg."""
    options = plan.options
    mode = "max" if plan.higher_is_better else "min"
    if options.scheduler == "asha":
        return Asha(
            time_attr="kimg",
            metric=plan.objective,
            mode=mode,
            max_t=total_kimg,  # type: ignore[arg-type]  # any number will do
            grace_period=min(options.grace_kimg or total_kimg / options.reduction**2, total_kimg),  # type: ignore[arg-type]
            reduction_factor=options.reduction,
        )
    if options.scheduler == "pbt":
        return Population(
            perturb_kimg=options.perturb_kimg or total_kimg / 4,
            total_kimg=total_kimg,
            time_attr="kimg",
            metric=plan.objective,
            mode=mode,
            perturbation_interval=1e-9,  # Population says when
            custom_explore_fn=partial(explore, plan.space, plan.cfg.run.seed),
            require_attrs=False,  # a message of a trial is a report, too
        )
    return FIFOScheduler()


class Asha(ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2018) whose rungs are filled again when a sweep is restored.

    Rows that Tune had processed are read from the runs' files and recorded without a new decision. Rows after them are
    reported again by their trials and decided then. A trial that diverged counts as the worst value at the first rung.
    """

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        self.grace_kimg, self.total_kimg, self.is_max = keys["grace_period"], keys["max_t"], keys["mode"] == "max"
        self.worst = math.inf if self.is_max else -math.inf

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        processed = (trial.last_result or {}).get("kimg", 0.0)
        objective = str(self.metric)
        for row in rows_of_run(run_of(trial), objective) if processed else ():
            if row.kimg <= processed:
                self.on_trial_result(tune_controller, trial, {"kimg": row.kimg, objective: row.value})
        self._record_divergence(tune_controller, trial, trial.last_result or {})

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        value = result.get(str(self.metric), math.nan)
        if math.isfinite(value):
            self.worst = min(self.worst, value) if self.is_max else max(self.worst, value)
        if result.get("kimg", 0.0) >= self.total_kimg:
            return TrialScheduler.CONTINUE  # it ends by itself
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict) -> None:
        self._record_divergence(tune_controller, trial, result)
        super().on_trial_complete(tune_controller, trial, result)

    def _record_divergence(self, tune_controller: Any, trial: Trial, result: Mapping[str, Any]) -> None:
        if result.get("ended") in ("diverged", "failed") and math.isfinite(self.worst):
            row = {"kimg": self.grace_kimg, str(self.metric): self.worst}
            super().on_trial_result(tune_controller, trial, row)


class Population(PopulationBasedTraining):
    """Population based training (Jaderberg et al. 2017) that looks at a trial at multiples of `perturb_kimg`.

    Tune's own interval counts from the last look, which a restored sweep would not know. After a restore each trial's
    last look is made once more, from the row that it reports again, since the population has lost its scores.
    """

    def __init__(self, perturb_kimg: float, total_kimg: float, **keys: Any) -> None:
        super().__init__(**keys)
        self.perturb_kimg, self.total_kimg = perturb_kimg, total_kimg
        self.looks: dict[str, tuple[int, int]] = {}
        """The generation of each trial and how many multiples it has passed."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        last = trial.last_result or {}
        if "kimg" in last:
            passed = max(self._multiples(last["kimg"]) - 1, self._multiples(last["start_kimg"]))
            self.looks[trial.trial_id] = (last["generation"], passed)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        if str(self.metric) not in result:
            return TrialScheduler.CONTINUE
        generation, passed = self.looks.get(trial.trial_id, (-1, 0))
        if generation != result["generation"]:
            passed = self._multiples(result["start_kimg"])
        now = self._multiples(result["kimg"])
        self.looks[trial.trial_id] = (result["generation"], max(now, passed))
        if now <= passed or result["kimg"] >= self.total_kimg:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def _multiples(self, kimg: float) -> int:
        return math.floor(kimg / self.perturb_kimg + 1e-9)


def explore(space: Space, seed: int, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a trial that copies another one's state: values near that trial's.

    `copy` names this decision, so that a trial knows whether it has followed it already.
    """
    token = uuid.uuid4().hex
    return {**config, "values": space.perturb(config["values"], seed, int(token[:8], 16)), "copy": token}


def run_of(trial: Trial) -> Storage:
    """The first run of one of Tune's trials: the sweep's folder is the one that Tune's experiment is stored in."""
    assert trial.storage is not None, "every trial of a Tuner has a storage"
    sweep = trial.storage.storage_fs_path.rstrip("/")
    trials = Storage(trial.storage.storage_filesystem, f"{sweep}/{TRIALS}")
    return trials.folder(run_name(number_of(str(trial))))
