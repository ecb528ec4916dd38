"""Between Ray Tune and the judge: places, turns, copies of states, what is freed; and what a sweep leaves."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

from ray import cloudpickle
from support.toy import toy_config, toy_state

from stylegan_ray.cluster.nodes import Node
from stylegan_ray.cluster.tune import searcher as sweep_course
from stylegan_ray.cluster.tune import trial as sweep_trial
from stylegan_ray.cluster.tune.journal import Journal
from stylegan_ray.cluster.tune.options import sweep_options
from stylegan_ray.cluster.tune.output import write_outputs
from stylegan_ray.cluster.tune.progress import SweepView, table_lines
from stylegan_ray.cluster.tune.run import check_continues, description, digest, fitting, opened
from stylegan_ray.cluster.tune.scheduler import Judge, Rules
from stylegan_ray.cluster.tune.searcher import Beats, Course, Deals, Ends, Verdicts, copy_state, free
from stylegan_ray.cluster.tune.trial import earlier_rows, reports_of
from stylegan_ray.config import ConfigError, differences, load_config
from stylegan_ray.run_folder import CHECKPOINTS as FOLDER
from stylegan_ray.run_folder import complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, newest_checkpoint, write_checkpoint

PLAN = sweep_options(["--train.total_kimg", "4", "--samples", "4"])
RULES = Rules(4, 4, grace_kimg=1, reduction=2, perturb_kimg=1)


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch):
    monkeypatch.setattr(sweep_course, "SECONDS_BETWEEN_LOOKS", -1.0)


def course_in(folder, at_once=2, rules=RULES, **keys) -> Course:
    storage = Storage.at(folder)
    judge = Judge(rules, PLAN.space, Journal(storage), **keys)
    view = SweepView(judge.ledger, PLAN.objective, rules.num_samples, False, io.StringIO())
    return Course(judge, storage.folder("trials"), at_once, view)


def report(kimg, value, generation=0):
    return {"generation": generation, "kimg": kimg, "value": value, "sec": kimg}


def checkpoint(trials: Storage, name: str, nimg: int) -> Snapshot:
    """A real state of a small run in the folder of a trial."""
    cfg = toy_config()
    state = toy_state(cfg)
    state.cur_nimg = nimg
    write_checkpoint(snapshot := Snapshot.of(state, cfg), trials.folder(f"{name}/{FOLDER}"))
    return snapshot


def test_trials_get_places_until_all_are_taken(tmp_path):
    course = course_in(tmp_path)
    assert [course.deal(name)["name"] for name in "ab"] == ["trial-000", "trial-001"]
    assert course.deal("c") is None
    course.hear("a", report(4.0, 1.0))
    course.ends("a", {"ended": "finished"})
    assert course.deal("c")["number"] == 2
    assert course.judge.ledger.trials[0].state == "finished"


def test_when_asked_to_stop_no_trial_begins_and_those_that_run_are_told(tmp_path):
    course = course_in(tmp_path)
    course.deal("a")
    course.ask_to_stop()
    course.beat()
    assert course.deal("b") == "FINISHED" and not course.is_over
    assert (tmp_path / "trials/trial-000/STOP").exists()
    course.ends("a", {"ended": "interrupted"})
    assert course.is_over and course.judge.ledger.trials[0].state == "open", "the same command goes on with it"


def test_a_stopped_trial_frees_its_disk_and_keeps_what_it_tells(tmp_path):
    course = course_in(tmp_path)
    for number, value in enumerate([1.0, 9.0]):
        course.deal(str(number))
        checkpoint(course.trials, f"trial-00{number}", 1000)
        for name in ("network-snapshot-000001.safetensors", "stats.jsonl", "fakes000001.png"):
            course.trials.write(f"trial-00{number}/{name}", b"x")
        decision = course.hear(str(number), report(1.0, value))
    assert decision == "STOP"
    course.ends("1", {})
    course.beat()
    assert os.listdir(tmp_path / "trials/trial-001/checkpoints"), "its workers may still write"
    course.trials.write("trial-001/run.json", b'{"ended": "interrupted"}')
    course.beat()
    assert sorted(os.listdir(tmp_path / "trials/trial-001")) == [
        "checkpoints",
        "fakes000001.png",
        "run.json",
        "stats.jsonl",
    ]
    assert os.listdir(tmp_path / "trials/trial-001/checkpoints") == []
    assert len(os.listdir(tmp_path / "trials/trial-000/checkpoints")) == 1


def test_failures_of_the_first_trials_end_the_sweep_and_later_ones_do_not(tmp_path):
    course = course_in(tmp_path, at_once=4)
    for number in range(4):
        course.deal(str(number))
    course.hear("3", report(4.0, 1.0))
    course.ends("3", {"ended": "finished"})
    for number in range(3):
        course.ends(str(number), {"ended": "failed", "why": "disk full"})
    assert course.refusal is None
    course = course_in(tmp_path / "other", at_once=4)
    for number in range(3):
        course.deal(str(number))
        course.ends(str(number), {"ended": "failed", "why": "disk full"})
    assert "disk full" in (course.refusal or "") and course.is_over


def test_a_copied_state_is_exact_and_outlives_the_donors(tmp_path):
    course = course_in(tmp_path, rules=replace(RULES, scheduler="pbt"))
    course.deal("a")
    course.deal("b")
    donor, trial = (course.judge.ledger.trials[number] for number in (0, 1))
    old, new = (checkpoint(course.trials, donor.name, nimg) for nimg in (1000, 2000))
    assert copy_state(course.trials, donor, trial, 1) == ("ckpt-000000002000", 2.0)
    files = [course.trials.folder(f"{name}/{FOLDER}/{new.name}") for name in (donor.name, "trial-001-g1")]
    for name in ("state.safetensors", "state.json", "config.yaml", "COMPLETE"):
        assert files[0].read(name) == files[1].read(name), name
    free(course.trials.folder(donor.name))
    state = toy_state(toy_config())
    copied = newest_checkpoint(course.trials.folder(f"trial-001-g1/{FOLDER}"))
    copied.restore(state)
    assert state.cur_nimg == 2000 and all(value.equal(new.tensors[name]) for name, value in state.tensors().items())
    assert old.name not in complete_checkpoints(course.trials.folder(f"trial-001-g1/{FOLDER}"))


def test_a_damaged_state_is_not_copied(tmp_path):
    course = course_in(tmp_path, rules=replace(RULES, scheduler="pbt"))
    course.deal("a")
    course.deal("b")
    donor, trial = (course.judge.ledger.trials[number] for number in (0, 1))
    assert copy_state(course.trials, donor, trial, 1) is None
    for nimg in (1000, 2000):
        snapshot = checkpoint(course.trials, donor.name, nimg)
    course.trials.write(f"{donor.name}/{FOLDER}/{snapshot.name}/state.safetensors", b"torn")
    assert copy_state(course.trials, donor, trial, 1) == ("ckpt-000000001000", 1.0)


class FakeTune:
    """As much of Ray Tune's controller and trials as a scheduler sees."""

    def __init__(self, course: Course) -> None:
        self.scheduler, self.deals = Verdicts(course), Deals(course)
        self.trials: list[SimpleNamespace] = []

    def get_trials(self):
        return self.trials

    def pause_trial(self, trial, should_checkpoint):
        assert not should_checkpoint
        trial.status = "PAUSED"

    def ask(self):
        name = str(len(self.trials))
        config = self.deals.suggest(name)
        if isinstance(config, dict):
            trial = SimpleNamespace(trial_id=name, config=config, status="RUNNING")
            trial.set_config = lambda new: setattr(trial, "config", new)
            self.trials.append(trial)
        return config

    def tell(self, number, kimg, value):
        trial = next(trial for trial in self.trials if trial.config["number"] == number)
        generation = trial.config["generation"]
        return self.scheduler.on_trial_result(self, trial, report(kimg, value, generation))


def test_a_population_larger_than_the_cluster_takes_turns_and_copies(tmp_path):
    rules = replace(RULES, scheduler="pbt")
    storage = Storage.at(tmp_path).folder("trials")
    course = course_in(tmp_path, rules=rules, copy_state=lambda *args: copy_state(storage, *args))
    tune = FakeTune(course)
    assert tune.ask() and tune.ask() and tune.ask() is None
    assert [tune.tell(number, 1.0, value) for number, value in ((0, 1.0), (1, 5.0))] == ["NOOP", "NOOP"]
    assert [trial.status for trial in tune.trials] == ["PAUSED", "PAUSED"], "others are still to begin"
    assert tune.ask()["number"] == 2 and tune.ask()["number"] == 3
    assert tune.scheduler.choose_trial_to_run(tune) is None, "no place"
    checkpoint(storage, "trial-000", 1000)
    tune.tell(2, 1.0, 3.0)
    assert tune.tell(3, 1.0, 9.0) == "NOOP"
    assert tune.trials[3].config["name"] == "trial-003-g1" and tune.trials[3].config["generation"] == 1
    assert course.judge.ledger.trials[3].exploits[0]["from"] == "trial-000"
    assert complete_checkpoints(storage.folder(f"trial-003-g1/{FOLDER}")) == ["ckpt-000000001000"]
    chosen = [tune.scheduler.choose_trial_to_run(tune) for _ in range(3)]
    assert [trial and trial.config["number"] for trial in chosen] == [0, 1, None], "two places"


def test_ray_tune_can_save_what_it_is_handed(tmp_path):
    course = course_in(tmp_path)
    for handed in (Deals(course), Verdicts(course), Beats(course), Ends(course)):
        assert len(cloudpickle.dumps(handed)) < 2000


def test_a_cluster_says_how_many_trials_fit():
    cfg = load_config("tiny", {"cluster.num_workers": 2})
    node = Node("id", "10.0.0.2", {"CPU": 8, "GPU": 4})
    share, fit, why = fitting(cfg, [node, node], None)
    assert (fit, share.cpus, share.gpus, share.threads) == (8, 1.0, 0, 1)
    assert why == "8 fit: 16 CPUs, 2 workers a trial, 1 CPU a worker"
    share, fit, _ = fitting(cfg, [node], 2)
    assert (fit, share.cpus, share.threads) == (2, 2.0, 2), "so many trials share the cores"
    gpus = load_config("tiny", {"cluster.num_workers": "1:2", "cluster.gpus_per_worker": 1})
    share, fit, why = fitting(gpus, [node], None)
    assert (fit, share.num_workers, share.cpus, share.gpus) == (2, (1, 2), 2.0, 1) and "4 GPUs" in why
    with pytest.raises(ConfigError, match="no trial fits"):
        fitting(cfg, [Node("id", "10.0.0.2", {"CPU": 1})], None)


def test_a_trial_tells_again_what_stands_in_its_files(tmp_path):
    run = Storage.at(tmp_path)
    run.write(
        "metrics.jsonl", b'{"metric": "fid500_tiny", "value": 3.5, "kimg": 2.0, "total_sec": 9.0}\n{"metric": "fi'
    )
    run.write("stats.jsonl", b'{"Progress/kimg": 2.0, "Loss/D/loss": 0.5, "Timing/total_sec": 9.0}\n')
    assert list(earlier_rows(run, "Metrics/fid500_tiny")) == [{"kimg": 2.0, "value": 3.5, "sec": 9.0}]
    assert list(earlier_rows(run, "Loss/D/loss")) == [{"kimg": 2.0, "value": 0.5, "sec": 9.0}]
    last = list(reports_of(run, SimpleNamespace(objective="Loss/D/loss"), None))
    assert [r.get("ended") for r in last] == [None, "finished"], "a finished trial keeps its row"


def test_what_a_sweep_leaves(tmp_path):
    course = course_in(tmp_path, at_once=4)
    for number in range(4):
        course.deal(str(number))
        for kimg in (0.5, 4.0):
            course.hear(str(number), report(kimg, 9.0 - number - kimg))
        course.ends(str(number), {"ended": "finished"})
    ledger, storage = course.judge.ledger, Storage.at(tmp_path)
    said = write_outputs(storage, PLAN, PLAN.cfg, ledger)
    assert said["Best"].startswith("trial 3, Metrics/fid500_tiny 2")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert [row["trial"] for row in rows] == list("0123")
    assert float(rows[3]["loss.r1_gamma"]) == ledger.trials[3].values["loss.r1_gamma"]
    best = load_config(str(tmp_path / "best.yaml"))
    assert differences(PLAN.given.with_overrides(ledger.trials[3].values), best) == {}
    assert best.metrics.names == () and best.run.name is None
    assert (tmp_path / "report.png").exists() and (tmp_path / "report.html").exists()
    events = list((tmp_path / "tensorboard/trial-003").iterdir())
    assert b"_hparams_/session_start_info" in events[0].read_bytes() and b"schedule.G_lrate" in events[0].read_bytes()
    write_outputs(storage, PLAN, PLAN.cfg, ledger)
    assert len(list((tmp_path / "tensorboard/trial-003").iterdir())) == 1, "written anew, not added"
    lines = table_lines(ledger, PLAN.objective, False, 20)
    assert lines[2].startswith("*3") and "fid500_tiny" in lines[0]


def test_a_sweep_is_continued_by_the_same_words_and_refused_by_others(tmp_path):
    words = ["--objective", "Loss/D/loss", "--run.storage", str(tmp_path), "--run.name", "sweep"]
    sweep = opened(sweep_options([*words, "--samples", "4"]))
    from stylegan_ray.cluster.tune.run import write_beginnings

    write_beginnings(sweep)
    check_continues(replace(sweep, plan=sweep_options([*words, "--samples", "9", "--concurrent", "1"])))
    with pytest.raises(ConfigError, match="begun otherwise"):
        opened(sweep_options([*words, "--reduction", "2"]))
    with pytest.raises(ConfigError, match=r"loss\.pl_weight: 2\.0 then, 1\.0 now"):
        opened(sweep_options([*words, "--loss.pl_weight", "1"]))
    with pytest.raises(ConfigError, match="total_kimg"):
        opened(sweep_options([*words, "--train.total_kimg", "1"]))


def test_a_sweeps_name_follows_from_what_it_searches():
    cfg = PLAN.cfg
    assert digest(PLAN, cfg) == digest(replace(PLAN, num_samples=9), cfg)
    assert digest(PLAN, cfg) != digest(sweep_options(["--reduction", "2", "--train.total_kimg", "4"]), cfg)
    json.dumps(description(PLAN, cfg), default=list)


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        return True


def test_the_table_moves_in_a_terminal_and_a_log_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    course = course_in(tmp_path)
    log = course.view.stream
    course.view = SweepView(course.judge.ledger, PLAN.objective, 4, False, terminal := Terminal())
    lined = SweepView(course.judge.ledger, PLAN.objective, 4, False, log)
    course.deal("a")
    course.hear("a", report(1.0, 3.25))
    trial = course.judge.ledger.trials[0]
    lined.begins(trial)
    lined.result(trial, "CONTINUE")
    assert "trial 0 at 1 kimg: Metrics/fid500_tiny 3.25\n" in log.getvalue()
    course.view.message("trial 0: fault: worker 0 was killed")
    course.view.message("again")
    shown = terminal.getvalue()
    assert "*0     runs" in shown and "3.25" in shown and "G_reg_interval" in shown
    assert shown.count("\x1b[J") == shown.count("0 of 4 trials done") - 1, "each table takes the place of the last"


class FakeMailbox:
    """Hears that the run should stop."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.stop = SimpleNamespace(remote=self.asked.set)


def fitting_of(monkeypatch, fit, objective="Loss/D/loss"):
    """A trial whose run is `fit(view, mailbox)`; what run.json would be told at its end stands in the list."""
    mailbox, told = FakeMailbox(), []
    monkeypatch.setattr("stylegan_ray.cluster.channel.mailbox_here", lambda: mailbox)
    monkeypatch.setattr(sweep_trial, "write_beginnings", lambda *_: None)
    monkeypatch.setattr(sweep_trial, "write_end", lambda _, text: told.append(text))
    monkeypatch.setattr(sweep_trial, "keep_fitting", lambda _run, _share, view, box, _interrupted: fit(view, box))
    run = SimpleNamespace(cfg=load_config("tiny"))
    order = SimpleNamespace(objective=objective, share=None, waits_for_checkpoints=False)
    return sweep_trial.Fitting(run, order), told


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        (("done", None), ("finished", "")),
        (("stopped", None), ("interrupted", "")),
        (("stopped", "worker 0 diverged: no numbers"), ("diverged", "worker 0 diverged: no numbers")),
        (("stopped", "worker 1 failed: diverged files"), ("failed", "worker 1 failed: diverged files")),
    ],
)
def test_how_a_run_ends_is_how_its_trial_ends(monkeypatch, outcome, ending):
    def fit(view, _mailbox):
        view.tick({"Progress/kimg": 2.0, "Timing/total_sec": 9.0, "Loss/D/loss": 0.5})
        view.message("metrics at 2 kimg: nothing that a sweep needs to hear")
        view.message("fault: worker 0 was killed")
        return outcome

    fitting, told = fitting_of(monkeypatch, fit)
    reports = list(reports_of(Storage.at("/nowhere"), fitting.order, fitting))
    assert reports[0] == {"kimg": 2.0, "value": 0.5, "sec": 9.0}
    assert reports[1] == {"said": "fault: worker 0 was killed"}
    assert reports[2:] == [{"done": True, "ended": ending[0], "why": ending[1]}]
    assert told[0].startswith(ending[0])


def test_a_trial_that_is_let_go_ends_its_run(monkeypatch):
    def fit(_view, mailbox):
        assert mailbox.asked.wait(10)
        return "stopped", None

    fitting, told = fitting_of(monkeypatch, fit)
    fitting.start()
    fitting.end()
    assert not fitting.is_alive() and told == ["interrupted"]


def test_an_objective_that_no_tick_has_is_refused_with_the_nearest(monkeypatch):
    def fit(view, _mailbox):
        view.tick({"Progress/kimg": 2.0, "Timing/total_sec": 9.0, "Loss/D/loss": 0.5, "Loss/scores/real": 1.0})
        return "done", None

    fitting, _ = fitting_of(monkeypatch, fit, "Loss/score/real")
    fitting.start()
    assert "did you mean 'Loss/scores/real'?" in fitting.next_report()["refused"]


def test_a_trial_that_has_ended_already_cannot_crash(tmp_path):
    course = course_in(tmp_path, at_once=1)
    course.deal("0")
    course.ends("0", {"ended": "finished"})
    course.crashes("0")
    assert course.judge.ledger.trials[0].state == "finished"
