"""The end of a training worker: what it saves, and what it says where it has to leave; no Ray is started."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from support.measured import Pictures
from support.toy import toy_config, toy_minibatches

pytest.importorskip("ray")

import torch

from stylegan_ray.cluster import signals
from stylegan_ray.cluster.channel import Sender
from stylegan_ray.cluster.faults import FaultLog, Terminated
from stylegan_ray.cluster.worker import Worker, WorkerConfig
from stylegan_ray.interop import read_networks
from stylegan_ray.run_folder import complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.stats import StopWatch

SMALL = {"train.grid_size": (2, 1), "train.checkpoint_ticks": 100, "metrics.names": ()}


class Silent(Sender):
    """Remembers its messages and posts nothing."""

    def __init__(self):
        super().__init__(None)

    def post(self, kind, content):
        pass

    def recover_messages(self):
        pass

    def note_logged(self, messages):
        pass


class ToyWorker(Worker):
    """A worker of a toy run, alone and in this process."""

    def __init__(self, folder, **keys):
        cfg, device = toy_config(**SMALL | keys), torch.device("cpu")
        clearance = SimpleNamespace(check_here=lambda _: None, placement="inline")
        config = WorkerConfig(cfg.model_dump(mode="json"), Pictures(), str(folder), 1, None, clearance, in_process=True)
        faults = FaultLog(Storage.at(folder))
        super().__init__(cfg, config, device, Silent(), faults, StopWatch(device), SimpleNamespace())

    @contextmanager
    def _reals(self, state):
        yield ToyReals(toy_minibatches(self.cfg, state.cur_nimg, self.worker.dataset))


class ToyReals:
    decoders = staticmethod(list)

    def __init__(self, minibatches):
        self.minibatches = minibatches

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.minibatches)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody asks Ray Train for notices of preemption, and this process keeps its threads."""
    monkeypatch.setattr(signals, "PREEMPTION_SEC", float("inf"))
    monkeypatch.setattr("stylegan_ray.cluster.worker.prepare_process", lambda *_: None)


def trained(folder, **keys):
    worker = ToyWorker(folder, **keys)
    try:
        return worker.run()
    finally:
        worker.close()


def test_a_run_of_one_group_has_the_metrics_of_its_start_and_of_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    keys = {"train.total_kimg": 0.016, "metrics.names": ("fid100_tiny",)}
    for _ in range(2):  # the second finds all that it needs
        assert trained(tmp_path, **keys) == "done"
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [(row["Progress/tick"], row["kimg"]) for row in rows] == [(0, 0.0), (0, 0.016)]


def final_nimg(folder):
    return read_networks(folder / "network-final.safetensors").cur_nimg


def test_a_run_of_no_images_has_a_final_network(tmp_path):
    assert trained(tmp_path, **{"train.total_kimg": 0}) == "done"
    assert final_nimg(tmp_path) == 0 and (tmp_path / "fakes000000.png").exists()
    assert trained(tmp_path, **{"train.total_kimg": 0.016}) == "done" and final_nimg(tmp_path) == 16


def test_a_run_that_was_stopped_at_its_new_total_gets_its_final_network(tmp_path):
    keys = {"train.total_kimg": 0.032}
    assert trained(tmp_path, **keys) == "done"
    (tmp_path / "network-final.safetensors").unlink()
    assert trained(tmp_path, **keys) == "done" and final_nimg(tmp_path) == 32


@pytest.fixture
def leaves_at_the_end(monkeypatch):
    """SIGTERM comes in the last group of a run of 32 images."""

    def arrange(worker):
        monkeypatch.setattr(signals, "is_terminated", lambda: worker.heart.state.cur_nimg >= 32)
        return worker

    return arrange


def test_sigterm_in_the_last_group_ends_a_run_only_where_the_storage_has_it(tmp_path, leaves_at_the_end):
    keys = {"train.total_kimg": 0.032}
    slow = leaves_at_the_end(ToyWorker(tmp_path / "slow", **keys))
    slow._flush = lambda *_: False
    with pytest.raises(Terminated, match=r"that is not stored, at 0\.032 kimg"):
        slow.run()
    slow.close()
    fast = leaves_at_the_end(ToyWorker(tmp_path / "fast", **keys))
    assert fast.run() == "done" and final_nimg(tmp_path / "fast") == 32
    fast.close()


def test_sigterm_in_the_last_group_leaves_metrics_to_the_next_start(tmp_path, leaves_at_the_end, monkeypatch):
    keys = {"train.total_kimg": 0.032, "metrics.names": ("fid100_tiny",), "metrics.ticks": 100}
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    worker = leaves_at_the_end(ToyWorker(tmp_path, **keys))
    with pytest.raises(Terminated, match=r"after a checkpoint at 0\.032 kimg"):
        worker.run()
    worker.close()
    metrics = tmp_path / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == 1, "that of the start"
    assert complete_checkpoints(Storage.at(tmp_path / "checkpoints"))[-1] == "ckpt-000000000032"
    monkeypatch.setattr(signals, "is_terminated", lambda: False)
    assert trained(tmp_path, **keys) == "done" and len(metrics.read_text().splitlines()) == 2
