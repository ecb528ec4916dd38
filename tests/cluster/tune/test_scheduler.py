"""Decisions of a sweep and its journal, with made-up trials: nothing is lost or reversed, whenever the driver dies."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

pytest.importorskip("ray")

from stylegan_ray.cluster.tune.journal import FILE, Journal, Ledger
from stylegan_ray.cluster.tune.scheduler import Judge, Rules
from stylegan_ray.cluster.tune.space import DEFAULT_SPACE, Space
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.storage import Storage

SPACE = Space.parsed(DEFAULT_SPACE, "default", load_config("tiny"))
TOTAL = 6
ASHA = Rules(12, TOTAL, grace_kimg=1, reduction=2)
PBT = Rules(4, TOTAL, "pbt", perturb_kimg=2)


def fake_value(values: dict, kimg: float) -> float:
    """What a trial reaches: best with gamma 5 and a learning rate of G of 0.003."""
    return abs(math.log(values["loss.r1_gamma"] / 5)) + abs(math.log(values["schedule.G_lrate"] / 0.003)) + 10 / kimg


class Killed(Exception):  # noqa: N818
    """The driver is gone."""


def judge_in(folder, rules=ASHA, **keys) -> Judge:
    return Judge(rules, SPACE, Journal(Storage.at(folder)), **keys)


def drive(judge: Judge, most_reports: float = math.inf, at_once: int = 1) -> None:
    """Runs trials side by side, a tick each in turn, from where each stands; Killed after so many reports."""
    running: list[int] = []
    num = 0
    while True:
        while len(running) < at_once and (trial := judge.next_trial()) is not None:
            running.append(trial.number)
        if not running:
            return
        number = running.pop(0)
        trial = judge.ledger.trials[number]
        kimg = math.floor(trial.kimg) + 1.0
        decision = judge.on_result(number, trial.generation, kimg, fake_value(trial.values, kimg), kimg)
        num += 1
        if num > most_reports:
            raise Killed
        if kimg >= TOTAL:
            judge.on_end(number, "finished")
        elif decision != "STOP":
            running.append(number)


def outcome(judge: Judge) -> dict:
    return {n: (trial.values, trial.rows, trial.state, trial.generation) for n, trial in judge.ledger.trials.items()}


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_one_trial_at_a_time_an_interrupted_sweep_equals_the_whole_one(tmp_path, search):
    if search == "optuna":
        pytest.importorskip("optuna")
    rules = replace(ASHA, search=search)
    drive(whole := judge_in(tmp_path / "whole", rules))
    for _ in range(40):
        judge = judge_in(tmp_path / "killed", rules)
        try:
            drive(judge, most_reports=3)
        except Killed:
            continue
        break
    assert outcome(judge) == outcome(whole)
    states = [trial.state for trial in judge.ledger.trials.values()]
    assert len(states) == 12 and {"finished", "stopped"} == set(states)


@pytest.mark.parametrize("killed_after", [1, 4, 9, 14])
def test_with_several_at_once_no_decision_is_lost_or_reversed(tmp_path, killed_after):
    first = judge_in(tmp_path)
    with pytest.raises(Killed):
        drive(first, killed_after, at_once=3)
    before = (tmp_path / FILE).read_bytes()
    decided = {n: trial.state for n, trial in first.ledger.trials.items() if trial.state != "open"}
    second = judge_in(tmp_path)
    assert outcome(second) == outcome(first), "what is read back is what was written"
    drive(second, at_once=3)
    assert (tmp_path / FILE).read_bytes().startswith(before)
    assert decided.items() <= {n: trial.state for n, trial in second.ledger.trials.items()}.items()
    results = [(e["trial"], e["kimg"]) for e in Journal(Storage.at(tmp_path)).events if e["event"] == "result"]
    assert len(results) == len(set(results)), "each tick is judged once"


def test_a_tick_that_is_told_again_changes_nothing(tmp_path):
    judge = judge_in(tmp_path)
    number = judge.next_trial().number
    judge.on_result(number, 0, 1.0, 3.0, 1.0)
    content = (tmp_path / FILE).read_bytes()
    assert judge.on_result(number, 0, 1.0, 3.0, 1.0) == "CONTINUE"
    assert (tmp_path / FILE).read_bytes() == content


def test_a_torn_line_is_cut_and_its_tick_judged_when_it_is_told_again(tmp_path):
    judge = judge_in(tmp_path)
    number = judge.next_trial().number
    judge.on_result(number, 0, 1.0, 3.0, 1.0)
    judge.on_result(number, 0, 2.0, 2.0, 2.0)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-9])
    again = judge_in(tmp_path)
    assert again.ledger.trials[number].kimg == 1.0
    assert again.next_trial().number == number and again.num_left == 11
    again.on_result(number, 0, 2.0, 2.0, 2.0)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["trial", "result", "result"]


def test_a_diverged_trial_is_bad_and_no_crash(tmp_path):
    judge = judge_in(tmp_path)
    for number in range(3):
        judge.next_trial()
        assert judge.on_result(number, 0, 1.0, 5.0 - number, 1.0) == "CONTINUE"
    judge.next_trial()
    assert judge.on_result(3, 0, 1.0, math.nan, 1.0) == "STOP"
    judge.on_end(2, "diverged", "worker 0 diverged: gradients were not finite")
    trials = judge.ledger.trials
    assert trials[3].state == trials[2].state == "diverged" and "not finite" in trials[2].why
    assert [trial.number for trial in judge.ledger.ranked(False)] == [1, 0, 2], "bad ones come last"
    assert outcome(judge_in(tmp_path)) == outcome(judge)


def test_asha_stops_the_worse_half_at_a_rung_and_spares_the_better(tmp_path):
    judge = judge_in(tmp_path)
    decisions = []
    for number, value in enumerate([5.0, 4.0, 6.0, 3.0]):
        judge.next_trial()
        assert judge.on_result(number, 0, 0.5, 9.0, 0.5) == "CONTINUE", "not before the grace period"
        decisions.append(judge.on_result(number, 0, 1.0, value, 1.0))
    assert decisions == ["CONTINUE", "CONTINUE", "STOP", "CONTINUE"]


def test_where_more_is_better_the_smaller_stop(tmp_path):
    judge = judge_in(tmp_path, replace(ASHA, higher_is_better=True))
    for number, value in enumerate([5.0, 4.0]):
        judge.next_trial()
        decision = judge.on_result(number, 0, 1.0, value, 1.0)
    assert decision == "STOP"
    assert judge.ledger.ranked(True)[0].number == 0


def test_a_population_copies_states_from_the_better_to_the_worse(tmp_path):
    copied = []

    def copy(donor, trial, generation):
        copied.append((donor.number, trial.number, generation))
        return "ckpt-000000002000", 2.0

    judge = judge_in(tmp_path, PBT, copy_state=copy)
    for _ in range(4):
        judge.next_trial()
    decisions = [
        judge.on_result(n, 0, kimg, value, kimg) for kimg in (1.0, 2.0) for n, value in enumerate([1, 2, 3, 9])
    ]
    assert decisions == ["CONTINUE"] * 7 + ["EXPLOIT"] and copied == [(0, 3, 1)]
    trial = judge.ledger.trials[3]
    assert (trial.name, trial.folders) == ("trial-003-g1", ["trial-003-g1", "trial-003"])
    near = judge.ledger.trials[0].values
    assert trial.values.keys() == near.keys() and trial.values != near
    assert judge.on_result(3, 0, 3.0, 9, 1.0) == "CONTINUE", "what the old generation still says counts no more"
    assert judge.on_result(3, 1, 3.0, 9, 1.0) == "CONTINUE", "it has just got this state"
    assert outcome(judge_in(tmp_path, PBT, copy_state=copy)) == outcome(judge)


def test_a_population_goes_on_where_there_is_no_state_yet(tmp_path):
    judge = judge_in(tmp_path, PBT, copy_state=lambda *_: None)
    for number in range(4):
        judge.next_trial()
        assert judge.on_result(number, 0, 2.0, float(number), 1.0) == "CONTINUE"


def test_more_samples_continue_a_finished_sweep(tmp_path):
    drive(judge_in(tmp_path, replace(ASHA, num_samples=3)))
    judge = judge_in(tmp_path, ASHA)
    assert judge.num_left == 9 and judge.next_trial().number == 3


def test_optuna_takes_no_grid(tmp_path):
    pytest.importorskip("optuna")
    grid = Space.parsed("loss.r1_gamma: {grid: [1, 2]}", "grid", load_config("tiny"))
    with pytest.raises(ConfigError, match="takes no grid"):
        Judge(replace(ASHA, search="optuna"), grid, Journal(Storage.at(tmp_path)))


def test_optuna_finds_conditions_whole_numbers_and_lists(tmp_path):
    pytest.importorskip("optuna")
    text = (
        "train.G_reg_interval: {loguniform: [1, 16]}\nloss.G: {choice: [logistic_ns, logistic_ns_pathreg]}\n"
        "loss.pl_weight: {uniform: [1, 2], if: {loss.G: logistic_ns_pathreg}}"
    )
    space = Space.parsed(text, "space", load_config("tiny"))
    judge = Judge(replace(ASHA, search="optuna"), space, Journal(Storage.at(tmp_path)))
    samples = [judge.next_trial().values for _ in range(12)]
    assert all(isinstance(sample["train.G_reg_interval"], int) for sample in samples)
    assert all(("loss.pl_weight" in sample) == (sample["loss.G"] == "logistic_ns_pathreg") for sample in samples)
    assert {sample["loss.G"] for sample in samples} == {"logistic_ns", "logistic_ns_pathreg"}


def test_the_best_is_sought_among_those_that_went_the_whole_way():
    ledger = Ledger()
    for number, (kimg, value, state) in enumerate([(6, 3.0, "finished"), (1, 1.0, "stopped"), (6, 2.0, "finished")]):
        ledger.apply({"event": "trial", "trial": number, "values": {}})
        row = {"kimg": kimg, "value": value, "sec": 1.0, "generation": 0, "decision": "CONTINUE"}
        ledger.apply({"event": "result", "trial": number, **row})
        ledger.apply({"event": "end", "trial": number, "state": state, "why": ""})
    assert [trial.number for trial in ledger.ranked(False)] == [2, 0, 1]
