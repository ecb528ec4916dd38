"""A sweep from its command to its outputs: places, continuing, refusing, progress and files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

pytest.importorskip("ray")

from stylegan_ray.cluster.nodes import Node
from stylegan_ray.cluster.tune.options import sweep_options
from stylegan_ray.cluster.tune.output import report_of, write_outputs
from stylegan_ray.cluster.tune.progress import SweepView, table_lines
from stylegan_ray.cluster.tune.run import (
    Sweep,
    can_restore,
    check_sweep_continues,
    closing_message,
    description,
    digest,
    exit_status,
    fitting,
    open_sweep,
    write_beginnings,
)
from stylegan_ray.cluster.tune.trials import Record, Row, Trial, rank
from stylegan_ray.config import ConfigError, differences, load_config
from stylegan_ray.storage import Storage

PLAN = sweep_options(["--train.total_kimg", "4", "--samples", "4"])


def finished_trials() -> dict[int, Trial]:
    """Four trials, of which the last is the best."""
    trials = {}
    for number in range(4):
        record = Record(number, PLAN.space.sample(0, number), state="finished")
        trials[number] = Trial(record, [Row(kimg, 9.0 - number - kimg, kimg) for kimg in (0.5, 4.0)])
    return trials


def test_a_cluster_says_how_many_trials_fit():
    cfg = load_config("tiny", {"cluster.num_workers": 2})
    node = Node("id", "10.0.0.2", {"CPU": 8, "GPU": 4})
    share, fit, why = fitting(cfg, [node, node], None)
    assert (fit, share.cpus, share.gpus, share.threads) == (8, 1.0, 0, 1)
    assert "16 CPUs" in why and "2 workers" in why
    share, fit, _ = fitting(cfg, [node], 2)
    assert (fit, share.cpus, share.threads) == (2, 2.0, 2), "so many trials share the cores"
    gpus = load_config("tiny", {"cluster.num_workers": "1:2", "cluster.gpus_per_worker": 1})
    share, fit, why = fitting(gpus, [node], None)
    assert (fit, share.num_workers, share.cpus, share.gpus) == (2, (1, 2), 2.0, 1) and "4 GPUs" in why
    with pytest.raises(ConfigError, match=r"cluster\.num_workers=2.*cluster\.cpus_per_worker"):
        fitting(cfg, [Node("id", "10.0.0.2", {"CPU": 1})], None)


@pytest.mark.parametrize(
    ("states", "is_whole", "was_signaled", "status"),
    [
        (["finished", "stopped"], True, False, 0),
        (["finished", "open"], False, True, 130),
        (["finished", "open"], False, False, 0),
        (["finished", "stopped"], True, True, 0),
        (["failed", "diverged"], True, True, 1),
    ],
    ids=["done", "signal", "STOP file", "signal that came too late", "all failed"],
)
def test_the_exit_status_says_whether_something_is_left_to_continue(states, is_whole, was_signaled, status):
    assert exit_status(states, is_whole, was_signaled) == status


def test_an_objective_that_no_trial_could_report_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_DETECTORS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"--objective fid50k: .*prefetch"):
        open_sweep(sweep_options(["--objective", "fid50k", "--run.storage", str(tmp_path), "--run.name", "sweep"]))


def test_what_no_trial_could_train_is_refused_before_anything_starts(tmp_path):
    words = ["--run.storage", str(tmp_path), "--run.name", "sweep", "--objective", "Loss/D/loss"]
    with pytest.raises(ConfigError, match=r"train\.freeze_D=2.*--resume-from"):
        open_sweep(sweep_options([*words, "--train.freeze_D", "2"]))


@pytest.mark.parametrize(("address", "way"), [
    ("/runs/my sweep", "stylegan-ray train '/runs/my sweep/best.yaml'"),
    ("s3://bucket/sweep", "download s3://bucket/sweep/best.yaml, then: stylegan-ray train best.yaml"),
])  # fmt: skip
def test_the_closing_message_has_a_command_that_works(address, way):
    assert closing_message(Sweep(PLAN, PLAN.cfg, None, address), {"Best": "trial 3"}).endswith(way)


def test_a_sweep_writes_its_outputs(tmp_path):
    trials, storage = finished_trials(), Storage.at(tmp_path)
    written = write_outputs(storage, PLAN, PLAN.cfg, trials)
    assert written["Best"].startswith("trial 3, Metrics/fid500_tiny 2")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert [row["trial"] for row in rows] == list("0123")
    assert float(rows[3]["loss.r1_gamma"]) == trials[3].values["loss.r1_gamma"]
    best = load_config(str(tmp_path / "best.yaml"))
    assert differences(PLAN.given.with_overrides(trials[3].values), best) == {}
    assert best.metrics.names == () and best.run.name is None
    assert (tmp_path / "report.png").exists() and (tmp_path / "report.html").exists()
    events = list((tmp_path / "tensorboard/trial-003").iterdir())
    assert b"_hparams_/session_start_info" in events[0].read_bytes() and b"schedule.G_lrate" in events[0].read_bytes()
    write_outputs(storage, PLAN, PLAN.cfg, trials)
    assert len(list((tmp_path / "tensorboard/trial-003").iterdir())) == 1, "in place of the old one"


def test_the_report_ranks_trials_that_have_trained(tmp_path):
    trials = finished_trials()
    begun = Trial(Record(4, PLAN.space.sample(0, 4)), [Row(0.0, 500.0, 0.0)])
    ordered = [*trials.values(), begun]
    report = report_of(Storage.at(tmp_path), PLAN, ordered, rank(ordered, higher_is_better=False))
    assert len(report.trials) == 5 and sorted(report.order) == [0, 1, 2, 3]
    assert report_of(Storage.at(tmp_path), PLAN, [begun], [begun]).order == (0,)


def test_the_table_marks_the_best_trial():
    lines = table_lines(list(finished_trials().values()), PLAN.objective, False, 20)
    assert lines[2].startswith("*3") and "fid500_tiny" in lines[0]


def test_the_same_command_continues_a_sweep_and_others_are_refused(tmp_path):
    words = ["--objective", "Loss/D/loss", "--run.storage", str(tmp_path), "--run.name", "sweep"]
    sweep = open_sweep(sweep_options([*words, "--samples", "4"]))
    write_beginnings(sweep)
    check_sweep_continues(replace(sweep, plan=sweep_options([*words, "--samples", "9", "--concurrent", "1"])))
    for other, key in (
        (["--reduction", "2"], "options"),
        (["--loss.pl_weight", "1"], r"loss\.pl_weight: 2\.0 then, 1\.0 now"),
        (["--train.total_kimg", "1"], "total_kimg"),
    ):
        with pytest.raises(ConfigError, match=rf"(?s){key}.*--run\.name"):
            open_sweep(sweep_options([*words, *other]))


def test_a_sweeps_name_follows_from_what_it_searches():
    cfg = PLAN.cfg
    assert digest(PLAN, cfg) == digest(replace(PLAN, num_samples=9), cfg)
    assert digest(PLAN, cfg) != digest(sweep_options(["--reduction", "2", "--train.total_kimg", "4"]), cfg)
    json.dumps(description(PLAN, cfg), default=list)


def test_a_torn_state_of_tune_is_not_restored(tmp_path):
    from ray import cloudpickle

    experiment = Storage.at(tmp_path)
    assert not can_restore(experiment)
    experiment.write("tuner.pkl", cloudpickle.dumps({}))
    experiment.write("experiment_state-1.json", b'{"trial_data": []}')
    experiment.write("search_gen_state-1.json", cloudpickle.dumps({"counter": 3}))
    assert can_restore(experiment)
    experiment.write("experiment_state-1.json", b'{"trial_data": [')
    assert not can_restore(experiment)


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        return True


def test_the_table_is_redrawn_in_a_terminal_and_a_log_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    trials = {0: Trial(Record(0, PLAN.space.sample(0, 0)), [Row(1.0, 3.25, 1.0)])}
    live = SweepView(trials, PLAN.objective, 4, False, terminal := Terminal())
    plain = SweepView(trials, PLAN.objective, 4, False, log := io.StringIO())
    plain.show_start(trials[0])
    plain.show_row(trials[0], stops=True)
    assert "trial 0 at 1 kimg: Metrics/fid500_tiny 3.25  stops\n" in log.getvalue()
    live.message("trial 0: fault: worker 0 was killed")
    live.message("again")
    text = terminal.getvalue()
    assert "*0     runs" in text and "3.25" in text and "D_reg_interval" in text
    assert text.count("\x1b[J") == text.count("0 of 4 trials done") - 1, "each table replaces the last"
