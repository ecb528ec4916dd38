"""Where Ray Tune gets the values of trials from: the space by seed and number, or Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import tune

from stylegan_ray.cluster.tune.options import Plan
from stylegan_ray.cluster.tune.space import Space
from stylegan_ray.cluster.tune.trials import Trial
from stylegan_ray.config import ConfigError

if TYPE_CHECKING:
    from ray.tune.search.optuna import OptunaSearch


def param_space(plan: Plan, numbers: Sequence[int]) -> dict[str, Any]:
    """Tune's param_space for the trials of these numbers; each one's values follow from the seed and its number.

    A trial that has begun keeps the values of its record, whatever is suggested here.
    """
    return {
        "number": tune.grid_search(list(numbers)),
        "values": tune.sample_from(partial(sample, plan.space, plan.cfg.run.seed)),
    }


def sample(space: Space, seed: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the trial whose number is already drawn."""
    return space.sample(seed, config["number"])


def optuna_search(plan: Plan, known: Sequence[Trial]) -> OptunaSearch:
    """Optuna's tree-structured Parzen estimator; it suggests the values of `known` again first. Raises ConfigError."""
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise ConfigError("--search optuna needs the extra: pip install 'stylegan-ray[tune]'") from error
    if any(parameter.kind == "grid" for parameter in plan.space.parameters):
        raise ConfigError("--search optuna chooses by itself and takes no grid; write choice, or --search random")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Search(OptunaSearch):
        """Counts a trial that did not go the whole way as pruned, and takes reports without the objective.

        After a restore, trials report their rows again; Optuna ignores those of a step that it has.
        """

        def on_trial_result(self, trial_id: str, result: dict) -> None:
            with suppress(KeyError), warnings.catch_warnings(action="ignore"):
                super().on_trial_result(trial_id, result)

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            finished = result is not None and result.get("ended") == "finished"
            with suppress(KeyError), warnings.catch_warnings(action="ignore"):
                super().on_trial_complete(trial_id, result if finished else None, error)

    # Optuna numbers trials in the order in which it suggests them, so points count up to the first gap.
    points = [params_of(plan.space, trial.values) for number, trial in enumerate(known) if trial.number == number]
    mode = "max" if plan.higher_is_better else "min"
    define = partial(define_by_run, plan.space)
    return Search(define, metric=plan.objective, mode=mode, seed=plan.cfg.run.seed, points_to_evaluate=points or None)


def define_by_run(space: Space, trial: Any) -> dict[str, Any]:
    """What Optuna suggests, as a configuration; members of lists by their index, since they may be anything."""
    values = dict(space.fixed)
    for parameter in space.parameters:
        if not parameter.is_active(values):
            continue
        if parameter.is_range:
            low, high = parameter.values
            suggest = trial.suggest_int if parameter.is_whole else trial.suggest_float
            value = suggest(parameter.key, low, high, log=parameter.kind == "loguniform")
            values[parameter.key] = parameter.clip(value)
        else:
            index = trial.suggest_categorical(parameter.key, list(range(len(parameter.values))))
            values[parameter.key] = parameter.values[index]
    return {"number": trial.number, "values": values}


def params_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's parameters for values that a trial has: the inverse of `define_by_run`."""
    active = [parameter for parameter in space.parameters if parameter.key in values]
    return {
        parameter.key: values[parameter.key] if parameter.is_range else parameter.values.index(values[parameter.key])
        for parameter in active
    }
