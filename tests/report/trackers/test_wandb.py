"""One run in the offline files of Weights & Biases: each row once, also after SIGKILL, with images and the data."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import wandb_files
from support.browser import free_port
from support.grown import GrowingRun, deliver, memory_of

from stylegan_ray.report.trackers import Deliveries
from stylegan_ray.report.trackers import wandb as wandb_tracker

CURVE = [(128, 0.0), (4128, 1.0), (8128, 2.0), (12128, 3.0), (16128, 4.0)]
ROOT = Path(__file__).parents[3]

KILLED = """
import os, signal, sys, time
from support.grown import GrowingRun
from stylegan_ray.report.trackers import Deliveries, delivery
delivery.LOOK_SEC = 0.01
run = GrowingRun(sys.argv[1], **{"report.wandb": "painting"})
run.add_ticks(3)
deliveries = Deliveries(run.cfg, run.folder, run.about, print)
deliveries.all[0].look_sec = 0.01
deliveries.start()
deadline = time.monotonic() + 120
while deliveries.all[0].memory.sent.get("ticks") != 8128:
    assert time.monotonic() < deadline
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def curve(folder):
    rows = [row for row in wandb_files.rows(folder) if "Loss/D/loss" in row]
    return [(row["_step"], row["Loss/D/loss"]) for row in rows]


def test_a_killed_run_has_each_row_once(tmp_path):
    """SIGKILL ends a session before its file is whole; the next command writes its rows again, and goes on."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=env, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    run = GrowingRun(tmp_path, **{"report.wandb": "painting"})
    run.about = replace(run.about, group="my-sweep")
    run.num_ticks = 3
    run.add_metric(1, 7.0)
    run.add_ticks(2)
    assert deliver(run) == []
    assert curve(tmp_path) == CURVE
    metrics = [row for row in wandb_files.rows(tmp_path) if "Metrics/fid5k_tiny" in row]
    values = [(row["Progress/kimg"], row["Metrics/fid5k_tiny"]) for row in metrics]
    assert values == [(0.128, 100.0), (4.128, 7.0), (8.128, 98.0), (16.128, 96.0)]
    images = [row for row in wandb_files.rows(tmp_path) if "fakes/_type" in row]
    assert [(row["fakes/width"], row["fakes/height"]) for row in images] == [(16, 8)] * 3
    (found,) = wandb_files.runs(tmp_path)[-1:]
    assert found.run_id == memory_of(tmp_path, "wandb")["id"]
    assert (found.project, found.display_name, found.run_group) == ("painting", "growing", "my-sweep")
    assert "Painted by nobody" in found.notes


def test_the_same_command_continues_the_same_run_in_another_session(tmp_path):
    run = GrowingRun(tmp_path, **{"report.wandb": "me/painting", "report.artifacts": True})
    run.add_ticks(2)
    deliver(run, "stopped")
    run.add_ticks(3)
    run.folder.write("network-final.safetensors", b"weights of G")
    deliver(run)
    assert curve(tmp_path) == CURVE and len(wandb_files.sessions(tmp_path)) == 2
    found = wandb_files.runs(tmp_path)
    assert len({run.run_id for run in found}) == 1 and {run.entity for run in found} == {"me"}
    kinds = [r.WhichOneof("record_type") for r in wandb_files.records(wandb_files.sessions(tmp_path)[-1])]
    assert "artifact" in kinds or "request" in kinds, "the final network"


def test_without_a_key_rows_are_written_to_files(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    run = GrowingRun(tmp_path / "run", **{"report.wandb": "painting"})
    run.add_ticks(2)
    (warning,) = deliver(run)
    assert "WANDB_API_KEY" in warning and "wandb sync" in warning and str(tmp_path / "run") in warning
    assert curve(tmp_path / "run") == CURVE[:2]


class Online:
    """A session of W&B whose process was killed before the last rows had been sent."""

    def __init__(self, rows, starting_step):
        self.rows, self.starting_step, self.resumed, self.config = rows, starting_step, starting_step > 0, self
        self.summary = {}

    def log(self, row, step):
        self.rows.append((step, row))

    def __getattr__(self, name):
        return lambda *_, **__: None


def test_a_late_metric_that_was_lost_with_the_process_is_sent_again(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "online")
    first, second = [], []
    sessions = iter([Online(first, 0), Online(second, 12129)])
    monkeypatch.setattr(wandb, "init", lambda **_: next(sessions))
    monkeypatch.setattr(wandb, "Image", lambda image: "image")
    run = GrowingRun(tmp_path, **{"report.wandb": "painting"})
    run.add_ticks(4)
    delivery = Deliveries(run.cfg, run.folder, run.about, print).all[0]
    delivery._send(None)
    run.add_metric(3, 7.0)  # computed beside the training, and sent after its tick
    delivery._send(None)
    assert [(step, row.get("Metrics/fid5k_tiny")) for step, row in first][-2:] == [(12128, None), (12129, 7.0)]
    assert deliver(run) == []
    assert [(step, row["Metrics/fid5k_tiny"]) for step, row in second] == [(12129, 7.0)]


def test_the_user_may_switch_it_off(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = GrowingRun(tmp_path, **{"report.wandb": "painting"})
    run.add_ticks(1)
    assert deliver(run) == [] and not (tmp_path / "tracker-wandb.json").exists() and not (tmp_path / "wandb").exists()


def test_a_server_that_is_not_there_costs_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_tracker, "SEC_TO_CONNECT", 3.0)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    run = GrowingRun(tmp_path, **{"report.wandb": "painting"})
    run.add_ticks(1)
    (warning,) = deliver(run)
    assert warning.startswith("warning: Weights & Biases at painting: ")
    assert "the same command sends the rest" in warning
    assert not memory_of(tmp_path, "wandb")["sent"]
