"""Decisions of the schedulers, and that a restored one decides as the undisturbed one does."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("ray")

from types import SimpleNamespace

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from stylegan_ray.cluster.tune.options import sweep_options
from stylegan_ray.cluster.tune.scheduler import TRIALS, explore, scheduler_of
from stylegan_ray.config import load_config
from stylegan_ray.storage import Storage

OBJECTIVE, TOTAL = "Loss/D/loss", 6
WORDS = ["--objective", OBJECTIVE, "--grace-kimg", "1", "--reduction", "2", "--train.total_kimg", str(TOTAL)]


class ToyTrial:
    """As much of Tune's trial as a scheduler sees; its rows are stored in the files of its run, too."""

    def __init__(self, folder, number: int) -> None:
        self.folder, self.number, self.trial_id, self.last_result = folder, number, f"id-{number}", {}
        self.storage = SimpleNamespace(
            storage_fs_path=str(folder), storage_filesystem=Storage.at(folder).filesystem, experiment_dir_name="tune"
        )

    def __str__(self) -> str:
        return f"trial-{self.number:03d}"

    def report(self, scheduler: TrialScheduler, kimg: float, value: float) -> str:
        path = self.folder / TRIALS / str(self) / "stats.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"Progress/kimg": kimg, OBJECTIVE: value, "Timing/total_sec": kimg}
        with path.open("a") as file:
            file.write(f"{json.dumps(row)}\n")
        result = {"kimg": kimg, OBJECTIVE: value, "generation": 0, "start_kimg": 0.0}
        decision = scheduler.on_trial_result(None, self, result)
        self.last_result = result
        return decision


def asha(*words: str) -> TrialScheduler:
    return scheduler_of(sweep_options([*WORDS, *words]), TOTAL)


def added(scheduler: TrialScheduler, folder, num: int) -> list[ToyTrial]:
    trials = [ToyTrial(folder, number) for number in range(num)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    return trials


def test_asha_stops_the_worse_half_at_a_rung_and_spares_the_better(tmp_path):
    scheduler = asha()
    decisions = []
    for trial, value in zip(added(scheduler, tmp_path, 4), [5.0, 4.0, 6.0, 3.0], strict=True):
        assert trial.report(scheduler, 0.5, 9.0) == "CONTINUE", "not before the grace period"
        decisions.append(trial.report(scheduler, 1.0, value))
    assert decisions == ["CONTINUE", "CONTINUE", "STOP", "CONTINUE"]


def test_where_more_is_better_the_smaller_stop(tmp_path):
    scheduler = asha("--mode", "max")
    decisions = [t.report(scheduler, 1.0, v) for t, v in zip(added(scheduler, tmp_path, 2), [5.0, 4.0], strict=True)]
    assert decisions == ["CONTINUE", "STOP"]


def test_a_trial_that_has_reached_the_end_finishes_by_itself(tmp_path):
    scheduler = asha()
    first, second = added(scheduler, tmp_path, 2)
    first.report(scheduler, TOTAL, 1.0)
    assert second.report(scheduler, TOTAL, 9.0) == "CONTINUE"


def test_a_diverged_trial_counts_as_the_worst_at_the_first_rung(tmp_path):
    scheduler = asha()
    first, bad, third = added(scheduler, tmp_path, 3)
    first.report(scheduler, 1.0, 5.0)
    assert bad.report(scheduler, 0.5, math.nan) == "CONTINUE"
    first.report(scheduler, 1.5, 8.0)
    scheduler.on_trial_complete(None, bad, {"ended": "diverged", "kimg": 0.5})
    assert third.report(scheduler, 1.0, 6.0) == "CONTINUE", "the median of 5 and 8 is 6.5"


@pytest.mark.parametrize("cut", range(1, 24, 3))
def test_a_restored_asha_decides_as_the_undisturbed_one(tmp_path, cut):
    """Rows of six trials, round by round; after `cut` of them everything but files and Tune's trials is lost."""
    rows = [(trial, kimg, (7 * trial + 3) % 6 + 10 / kimg) for kimg in (1, 2, 4, 5) for trial in range(6)]
    undisturbed, trials = asha(), [ToyTrial(tmp_path / "whole", number) for number in range(6)]
    for trial in trials:
        undisturbed.on_trial_add(None, trial)
    expected = [trials[number].report(undisturbed, kimg, value) for number, kimg, value in rows]
    first = asha()
    trials = added(first, tmp_path / "killed", 6)
    decisions = [trials[number].report(first, kimg, value) for number, kimg, value in rows[:cut]]
    second = asha()
    for trial in trials:
        second.on_trial_add(None, trial)
    for number, kimg, value in rows[:cut]:
        decision = second.on_trial_result(None, trials[number], {"kimg": kimg, OBJECTIVE: value})
        assert decision == "CONTINUE", "what was decided is not decided again"
    decisions += [trials[number].report(second, kimg, value) for number, kimg, value in rows[cut:]]
    assert decisions == expected and "STOP" in expected


def test_a_copy_begins_near_the_donors_values_and_names_its_decision():
    plan = sweep_options([*WORDS, "--scheduler", "pbt"])
    donor = {"number": 3, "values": plan.space.sample(0, 3)}
    first, second = (explore(plan.space, 0, donor) for _ in range(2))
    assert first["values"].keys() == donor["values"].keys() and first["values"] != donor["values"]
    assert first["copy"] != second["copy"] and "copy" not in donor
    load_config("tiny", first["values"])


def test_the_population_looks_at_multiples_of_the_interval_and_once_more_after_a_restore(tmp_path):
    controller = SimpleNamespace(search_alg=None, get_trials=lambda: [])
    population = scheduler_of(sweep_options([*WORDS, "--scheduler", "pbt", "--perturb-kimg", "2"]), TOTAL)
    trial = ToyTrial(tmp_path, 0)
    trial.run_metadata = SimpleNamespace(
        checkpoint_manager=SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None))
    )
    trial.experiment_tag, trial.config = "0", {}
    population.on_trial_add(controller, trial)
    assert population.looks == {}
    trial.last_result = {"kimg": 4.5, "generation": 1, "start_kimg": 2.0}
    population.on_trial_add(controller, trial)
    assert population.looks[trial.trial_id] == (1, 1)


def test_fifo_stops_nothing():
    assert type(scheduler_of(sweep_options([*WORDS, "--scheduler", "fifo"]), TOTAL)) is FIFOScheduler
