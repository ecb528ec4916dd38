"""Metrics beside the training: what is computed, what is dropped, and what a killed process leaves behind."""

import json
import os
import signal
import sys
import time
from dataclasses import replace

import pytest
from support import measured, toy
from support.measured import Pictures, numbers
from support.toy import toy_config, toy_minibatches, toy_state

ray = pytest.importorskip("ray")

import torch  # noqa: E402

from stylegan_ray.cluster.async_metrics import AsyncMetrics, at_idle_priority, pending_requests  # noqa: E402
from stylegan_ray.cluster.nodes import Node  # noqa: E402
from stylegan_ray.cluster.preflight import placement_of_metrics  # noqa: E402
from stylegan_ray.cluster.resources import Share  # noqa: E402
from stylegan_ray.config import ConfigError, load_config  # noqa: E402
from stylegan_ray.interop import read_networks  # noqa: E402
from stylegan_ray.metrics.compute import evaluate  # noqa: E402
from stylegan_ray.report.snapshots import Snapshots  # noqa: E402
from stylegan_ray.run_folder import PENDING_METRICS  # noqa: E402
from stylegan_ray.storage import Storage  # noqa: E402
from stylegan_ray.train.background_writer import BackgroundWriter  # noqa: E402
from stylegan_ray.train.checkpoint import newest_checkpoint  # noqa: E402
from stylegan_ray.train.loop import training_loop  # noqa: E402

for module in (sys.modules[__name__], measured, toy):
    ray.cloudpickle.register_pickle_by_value(module)

KEYS = {
    "metrics.names": ("fid100_tiny",), "metrics.ticks": 1, "train.grid_size": (2, 1), "schedule.tick_kimg": 0.016,
    "train.total_kimg": 0.064,
}  # fmt: skip
"""Four ticks of two iterations."""


class Deadly(Pictures):
    """A data set that kills the first `deaths` processes that read it, or raises an error."""

    def __init__(self, folder, deaths=0, error=None):
        super().__init__()
        self.folder, self.deaths, self.error = folder, deaths, error

    def read(self, index, level=0):
        if self.error:
            raise RuntimeError(self.error)
        dead = self.folder / "dead"
        dead.touch()
        if len(dead.read_text()) < self.deaths:
            dead.write_text(dead.read_text() + "x")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


class Sender:
    """Remembers what rank 0 sends."""

    def __init__(self):
        self.messages, self.posted = [], []

    def message(self, text):
        self.messages.append(text)

    def post(self, kind, content):
        self.posted.append(content)


class Training:
    """The training of a toy network with metrics beside it, as a worker runs it."""

    def __init__(self, folder, dataset=None, waits=False, **keys):
        self.folder, self.waits, self.sender = folder, waits, Sender()
        self.cfg = toy_config(**{**KEYS, **keys})
        self.run, self.source, self.state = Storage.at(folder), Pictures(), toy_state(self.cfg)
        newest = newest_checkpoint(self.run.folder("checkpoints"))
        if newest:
            newest.restore(self.state)
        self.writer = BackgroundWriter(self.run, 3, print)
        self.snapshots = Snapshots(self.cfg, self.source, self.state, self.writer)
        self.snapshots.begin()
        self.metrics = AsyncMetrics(self.cfg, dataset or Pictures(), str(folder), torch.device("cpu"), self.sender)

    def train(self, pauses=None):
        """Trains to the end, or for some pauses and then stops as a killed process does."""
        self.metrics.begin(self.state, self.snapshots)
        minibatches = toy_minibatches(self.cfg, self.state.cur_nimg, self.source)
        loop = training_loop(self.state, self.cfg, minibatches, self.source, self._look)
        for number, pause in enumerate(loop, 1):
            self.snapshots.at_pause(pause)
            self.metrics.at_pause(pause, self.state, self.snapshots)
            self.snapshots.save_checkpoint()
            self.writer.flush(60)
            if number == pauses:
                return self
        self.writer.flush(60)
        self.snapshots.sinks.close()
        return self

    def _look(self):
        while self.waits and not self.metrics.is_idle:
            time.sleep(0.05)
            self.metrics.poll(self.snapshots)
        self.metrics.poll(self.snapshots)
        return False

    def rows(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test finds the cached features of another."""
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def patient(ray_local, tmp_path_factory):
    """A run that waits for each of its metrics."""
    folder = tmp_path_factory.mktemp("patient")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_RAY_CACHE", str(folder / "cache"))
        return Training(folder, waits=True).train()


def test_every_row_is_that_of_the_network_of_its_tick(patient):
    rows = patient.rows()
    assert [(row["Progress/tick"], row["kimg"]) for row in rows] == [(0, 0), (1, 0.032), (2, 0.048), (3, 0.064)]
    assert all(row["placement"] == "async" and row["value"] > 0 for row in rows)
    final = read_networks(patient.folder / "network-final.safetensors").G_ema
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert rows[-1]["value"] == evaluate(final, Pictures(), ["fid100_tiny"])[0]["value"]
    torch.set_num_threads(threads)
    best = min(rows, key=lambda row: row["value"])
    assert read_networks(patient.folder / "best-fid100_tiny.safetensors").cur_nimg == round(best["kimg"] * 1000)
    assert [post["Metrics/fid100_tiny"] for post in patient.sender.posted] == [row["value"] for row in rows]
    assert not pending_requests(patient.run) and not os.listdir(patient.folder / PENDING_METRICS)


def test_the_newest_request_wins_and_the_end_has_its_row(patient, tmp_path):
    """A run that does not wait: it says what it drops, and each of its rows is one of a run that waits."""
    run = Training(tmp_path).train()
    expected = {row["Progress/tick"]: row for row in numbers(patient.rows())}
    found = {row["Progress/tick"]: row for row in numbers(run.rows())}
    assert 3 in found and all(row == expected[tick] for tick, row in found.items())
    dropped = [text for text in run.sender.messages if "are dropped" in text]
    assert len(dropped) == 4 - len(found) and not pending_requests(run.run)
    assert all(torch.equal(value, run.state.tensors()[name]) for name, value in patient.state.tensors().items()), (
        "metrics changed the training"
    )


@pytest.mark.cluster
def test_a_killed_task_runs_again(patient, tmp_path):
    run = Training(tmp_path, Deadly(tmp_path, deaths=2), **{"metrics.ticks": 9}).train()
    assert (tmp_path / "dead").read_text() == "xx"
    assert {row["Progress/tick"]: row["value"] for row in run.rows()}[3] == patient.rows()[-1]["value"]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param({"deaths": 99}, "the task was lost 4 times", marks=pytest.mark.cluster),
        ({"error": "torn"}, "RuntimeError: torn"),
    ],
)
def test_a_task_that_cannot_succeed_does_not_touch_the_training(patient, tmp_path, trouble, reason):
    run = Training(tmp_path, Deadly(tmp_path, **trouble), **{"metrics.ticks": 9}).train()
    assert all(row["value"] is None and reason in row["unavailable"] for row in run.rows())
    assert run.state.cur_nimg == 64 and any(text.startswith("fault: metrics at") for text in run.sender.messages)
    assert not (tmp_path / "best-fid100_tiny.safetensors").exists() and not pending_requests(run.run)


@pytest.mark.cluster
def test_what_was_pending_when_everything_died_is_computed_after_the_restart(patient, tmp_path):
    died = Training(tmp_path).train(pauses=3)
    died.metrics.cancel()
    left = {request.tick for request in pending_requests(died.run)}
    assert left, "nothing was pending"
    again = Training(tmp_path, waits=True)
    assert again.state.tick == 3
    again.train()
    ticks = [row["Progress/tick"] for row in again.rows()]
    assert max(left) in ticks and ticks == sorted(set(ticks)) and ticks[-1] == 3
    expected = {row["Progress/tick"]: row for row in numbers(patient.rows())}
    assert all(row == expected[row["Progress/tick"]] for row in numbers(again.rows()))


def test_a_request_of_a_tick_that_comes_again_is_deleted(patient, tmp_path):
    run = Training(tmp_path, waits=True, **{"metrics.ticks": 2})
    run.run.write(f"{PENDING_METRICS}/000002.json", json.dumps([{"Progress/tick": 2, "kimg": 7.0}, {}]).encode())
    run.train()
    assert [row["kimg"] for row in run.rows()] == [0, 0.048, 0.064] and not pending_requests(run.run)


@pytest.mark.parametrize(
    ("keys", "share", "expected"),
    [
        ({}, Share(1, 1.0, 0, 1), "async"),
        ({}, Share(1, 2.0, 0, 2), "inline"),
        ({"cluster.num_workers": 2}, Share(2, 1.0, 0, 1), "inline"),
        ({"cluster.num_workers": "1:2"}, Share((1, 2), 1.0, 0, 1), "inline"),
        ({}, Share(1, 2.0, 1, 2), "async"),
        ({"cluster.num_workers": 2}, Share(2, 1.0, 1, 1), "inline"),
        ({"metrics.placement": "inline"}, Share(1, 1.0, 0, 1), "inline"),
        ({"metrics.names": ()}, Share(1, 1.0, 0, 1), "inline"),
    ],
)
def test_metrics_are_placed_on_what_the_workers_leave_free(keys, share, expected):
    cfg = load_config("tiny", {"cluster.num_workers": 1, "metrics.names": ("fid100_tiny",), **keys})
    nodes = [Node("a", "1.2.3.4", {"CPU": 2.0, "GPU": 2.0})]
    assert placement_of_metrics(cfg, share, nodes, print) == expected
    if keys and expected == "inline" and "cluster.num_workers" in keys:
        wanted = cfg.with_overrides({"metrics.placement": "async"})
        with pytest.raises(ConfigError, match=r"metrics.placement=async: 2 workers leave no .PU free"):
            placement_of_metrics(wanted, share, nodes, print)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such policy")
def test_idle_priority_is_that_of_a_thread_and_not_of_the_process():
    assert at_idle_priority(lambda: os.sched_getscheduler(0)) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    with pytest.raises(ValueError, match="invalid literal"):
        at_idle_priority(lambda: int("no number"))


def test_a_run_of_one_group_requests_the_metrics_of_its_start_and_of_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "remote", lambda **_: lambda function: function)
    run = Training(tmp_path)
    run.metrics.begin(run.state, run.snapshots)
    loop = training_loop(run.state, run.cfg, toy_minibatches(run.cfg, 0, run.source), run.source)
    pause = next(loop)
    run.metrics.at_pause(replace(pause, done=False), run.state, run.snapshots)
    run.metrics._request(run.state, pause.stats["Progress/tick"], run.snapshots)
    run.writer.flush(60)
    requests = pending_requests(run.run)
    assert [request.place for request in requests] == [(0, 0), (0, 16)]
    networks = [read_networks(tmp_path / request.network).cur_nimg for request in requests]
    assert networks == [0, 16]
    run.snapshots.save_checkpoint()
    run.writer.flush(60)
    again = Training(tmp_path)
    again.metrics.begin(again.state, again.snapshots)
    assert [request.place for request in again.metrics.written] == [(0, 0), (0, 16)]


def test_requests_of_earlier_versions_are_found(tmp_path):
    run = Storage.at(tmp_path)
    run.write(f"{PENDING_METRICS}/000012.json", json.dumps([{"Progress/tick": 12, "kimg": 7.0}, {}]).encode())
    (request,) = pending_requests(run)
    assert request.place == (12, 7000) and request.network == f"{PENDING_METRICS}/000012.safetensors"
