"""What trials get as values: by seed and number, or from Optuna."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("ray")

from stylegan_ray.cluster.tune.options import sweep_options
from stylegan_ray.cluster.tune.searcher import define_by_run, optuna_search, param_space, params_of
from stylegan_ray.cluster.tune.space import Space
from stylegan_ray.cluster.tune.trials import Record, Trial
from stylegan_ray.config import ConfigError, load_config

WORDS = ["--objective", "Loss/D/loss", "--train.total_kimg", "4"]
CONDITIONAL = (
    "train.G_reg_interval: {loguniform: [1, 16]}\nloss.G: {choice: [logistic_ns, logistic_ns_pathreg]}\n"
    "loss.pl_weight: {uniform: [1, 2], if: {loss.G: logistic_ns_pathreg}}"
)


def plan_with(text: str):
    plan = sweep_options([*WORDS, "--search", "optuna"])
    return replace(plan, space=Space.parse(text, "space", load_config("tiny")))


def test_values_follow_from_seed_and_number():
    plan = sweep_options([*WORDS, "--run.seed", "5"])
    space = param_space(plan, [3, 7])
    assert space["number"] == {"grid_search": [3, 7]}
    assert [space["values"].sample({"number": number}) for number in (3, 7)] == [
        plan.space.sample(5, number) for number in (3, 7)
    ]


def test_optuna_takes_no_grid():
    pytest.importorskip("optuna")
    with pytest.raises(ConfigError, match=r"grid.*--search random"):
        optuna_search(plan_with("loss.r1_gamma: {grid: [1, 2]}"), [])


def test_optuna_finds_conditions_whole_numbers_and_lists():
    pytest.importorskip("optuna")
    search = optuna_search(plan_with(CONDITIONAL), [])
    configs = [search.suggest(str(number)) for number in range(12)]
    samples = [config["values"] for config in configs]
    assert [config["number"] for config in configs] == list(range(12))
    assert all(isinstance(sample["train.G_reg_interval"], int) for sample in samples)
    assert all(("loss.pl_weight" in sample) == (sample["loss.G"] == "logistic_ns_pathreg") for sample in samples)
    assert {sample["loss.G"] for sample in samples} == {"logistic_ns", "logistic_ns_pathreg"}


def test_optuna_suggests_what_is_known_again_and_then_goes_on():
    pytest.importorskip("optuna")
    plan = plan_with(CONDITIONAL)
    known = [Trial(Record(n, optuna_search(plan, []).suggest("0")["values"])) for n in range(1)]
    known.append(Trial(Record(1, {"train.G_reg_interval": 9, "loss.G": "logistic_ns"})))
    search = optuna_search(plan, known)
    again = [search.suggest(str(number))["values"] for number in range(3)]
    assert again[:2] == [trial.values for trial in known]
    assert params_of(plan.space, known[1].values) == {"train.G_reg_interval": 9, "loss.G": 0}
    assert define_by_run.__doc__


def test_optuna_survives_messages_a_restore_and_trials_that_it_does_not_know(tmp_path):
    """Its state is stored and restored by Tune; results after that belong to the trials that it had."""
    pytest.importorskip("optuna")
    plan = plan_with(CONDITIONAL)
    search = optuna_search(plan, [])
    for name in "ab":
        search.suggest(name)
    search.on_trial_result("a", {"kimg": 0.0, "training_iteration": 1, "message": "fault: worker 0 was killed"})
    search.on_trial_result("a", {"Loss/D/loss": 3.0, "training_iteration": 2})
    search.save(str(tmp_path / "state"))
    restored = optuna_search(plan, [])
    restored.restore(str(tmp_path / "state"))
    for result in ({"Loss/D/loss": 3.0, "training_iteration": 2}, {"Loss/D/loss": 2.0, "training_iteration": 3}):
        restored.on_trial_result("a", result)
    restored.on_trial_complete("a", {"Loss/D/loss": 2.0, "ended": "finished"})
    restored.on_trial_complete("b", {"Loss/D/loss": 9.0})
    restored.on_trial_complete("unknown", {"Loss/D/loss": 9.0, "ended": "finished"})
    assert restored.suggest("c")["number"] == 2
