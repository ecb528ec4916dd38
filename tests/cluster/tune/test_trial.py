"""One trial: what it reports, in which order, and how it ends."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
from support.data_sets import numbered, write_folder

pytest.importorskip("ray")

from functools import partial
from types import SimpleNamespace

from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.tune.trial import Fitting, TrialSpec, reports_of_run
from stylegan_ray.cluster.tune.trials import Record
from stylegan_ray.config import load_config
from stylegan_ray.data import open_dataset
from stylegan_ray.run_folder import STOP
from stylegan_ray.storage import Storage, retry

OBJECTIVE = "Loss/D/loss"


class Scripted(Fitting):
    """A training that is a function of its view; it returns how the run ended."""

    def __init__(self, folder, script, objective: str = OBJECTIVE) -> None:
        self.script = script
        spec = SimpleNamespace(objective=objective, sweep=str(folder), waits_for_checkpoints=False)
        run = SimpleNamespace(storage=Storage.at(folder / "run"), cfg=load_config("tiny"))
        super().__init__(run, spec)

    def train(self):
        return self.script(self)

    def reports(self) -> list[dict]:
        return list(reports_of_run(self.trial_run.storage, self.spec, self))


def tick(view, value: float = 0.5) -> None:
    view.tick({"Progress/kimg": 2.0, "Timing/total_sec": 9.0, OBJECTIVE: value, "Loss/scores/real": 1.0})


@pytest.mark.parametrize("ending", [("finished", ""), ("diverged", "worker 0 diverged"), ("failed", "disk full")])
def test_how_a_run_ends_is_how_its_trial_ends(tmp_path, ending):
    def script(view):
        tick(view)
        view.message("metrics at 2 kimg: nothing that a sweep shows")
        view.message("fault: worker 0 was killed")
        return ending

    reports = Scripted(tmp_path, script).reports()
    assert reports[0] == {"kimg": 2.0, OBJECTIVE: 0.5, "sec": 9.0}
    assert reports[1] == {"message": "fault: worker 0 was killed"}
    assert reports[2:] == [{"done": True, "ended": ending[0], "why": ending[1]}]


def test_an_error_in_the_driver_of_a_run_fails_the_trial(tmp_path):
    def script(view):
        raise RuntimeError("a fault")

    (last,) = Scripted(tmp_path, script).reports()
    assert last["ended"] == "failed" and "a fault" in last["why"]


def test_a_storage_that_does_not_respond_leaves_the_trial_open(tmp_path, monkeypatch):
    """Where it fails for minutes, the same command continues the trial; where it works again, the trial goes on."""
    monkeypatch.setattr("stylegan_ray.cluster.tune.trial.retry", partial(retry, pauses_sec=(0.0,)))
    answers = [OSError("503"), ("finished", "")]

    def script(view):
        answer = answers.pop(0) if answers else OSError("503")
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert Scripted(tmp_path, script).reports()[-1] == {"done": True, "ended": "finished", "why": ""}
    assert Scripted(tmp_path, script).reports()[-1] == {"done": True, "ended": "interrupted", "why": "503"}


def test_an_objective_that_is_not_a_number_ends_the_trial_as_diverged(tmp_path):
    def script(view):
        tick(view, math.nan)
        time.sleep(60)

    reports = Scripted(tmp_path, script).reports()
    assert [report.get("ended") for report in reports] == ["diverged"]


def test_rows_of_the_files_are_reported_again_before_new_ones(tmp_path):
    row = {"Progress/kimg": 1.0, "Timing/total_sec": 4.0, OBJECTIVE: 0.7}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/stats.jsonl").write_text(f"{json.dumps(row)}\n")

    def script(view):
        tick(view)
        return "finished", ""

    assert [report.get("kimg") for report in Scripted(tmp_path, script).reports()] == [1.0, 2.0, None]


def stops_when_asked(view) -> tuple[str, str]:
    deadline = time.monotonic() + 20
    while not view.is_ending and time.monotonic() < deadline:
        time.sleep(0.05)
    return "interrupted", ""


def test_a_trial_that_is_ended_lets_its_run_save_and_stop(tmp_path):
    fitting = Scripted(tmp_path, stops_when_asked)
    fitting.start()
    fitting.end()
    assert not fitting.is_alive() and fitting.ending[0] == "interrupted"


def test_the_stop_file_of_the_sweep_stops_its_trials_and_they_stay_unfinished(tmp_path):
    fitting = Scripted(tmp_path, stops_when_asked)
    (tmp_path / STOP).touch()
    reports = reports_of_run(fitting.trial_run.storage, fitting.spec, fitting)
    assert "done" not in next(reports), "Tune does not restore a trial that is done"
    (tmp_path / STOP).unlink()
    assert next(reports)["done"], "without the file only this one run was asked to stop"


def test_an_objective_that_no_tick_has_is_refused_with_the_nearest(tmp_path):
    def script(view):
        tick(view)
        return "finished", ""

    reports = Scripted(tmp_path, script, "Loss/score/real").reports()
    assert "did you mean 'Loss/scores/real'?" in reports[0]["refused"]


def test_trials_share_the_data_or_have_subsets_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    cfg = load_config(
        "tiny", {"data.path": str(write_folder(tmp_path / "images", numbered(9))), "data.resolution": None}
    )
    shared = open_dataset(cfg.data, 0)
    spec = TrialSpec(
        cfg.model_dump(mode="json"), shared, str(tmp_path), str(tmp_path / "trials"), Share(1, 1.0, 0, 1), None,
        OBJECTIVE, "",
    )  # fmt: skip
    assert spec.run(Record(0, {"run.seed": 1})).dataset is shared
    runs = [spec.run(Record(0, {"data.subset": 4, "run.seed": seed})) for seed in (0, 1)]
    assert [run.dataset.num_images for run in runs] == [4, 4] and [run.cfg.run.seed for run in runs] == [0, 1]
    assert runs[0].dataset.fingerprint != runs[1].dataset.fingerprint
    assert runs[0].in_process, "its actor is its worker"
    cfg = cfg.with_overrides({"data.subset": 4})
    spec = replace(spec, cfg=cfg.model_dump(mode="json"), dataset=open_dataset(cfg.data, 0))
    assert spec.run(Record(0, {"data.subset": None})).dataset.num_images == 9
    assert spec.run(Record(0, {"loss.r1_gamma": 1})).dataset is spec.dataset
