"""The metrics benchmark measures what it says."""

import json

import pytest
from support.jobs import Job

pytest.importorskip("ray")

from stylegan_ray.cluster.bench import metrics
from stylegan_ray.cluster.bench.metrics import Options, measured_sec
from stylegan_ray.config import ConfigError, load_config


@pytest.mark.cluster
def test_tasks_agree_and_have_their_bar(tmp_path):
    words = ["metrics", "--metric", "fid500_tiny", "--repeats", "1", "--train-repeats", "0"]
    job = Job("benchmark", *words, "--json", str(tmp_path / "f.json"), storage=tmp_path, log=tmp_path / "log")
    assert job.wait() == 0, job.text()
    found = json.loads((tmp_path / "f.json").read_text())
    figures, bars = found["figures"], found["bars"]
    assert figures["different_values"] == 1 and figures["pictures"] == 500
    assert figures["speedup"] == figures["sec_one_task"][0] / figures["sec_two_tasks"][0] > 0
    assert [(bar["name"], bar["bar"]) for bar in bars] == [("two tasks / one task, at least", 1.7)]


def test_weights_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("STYLEGAN_RAY_DETECTORS", str(tmp_path))
    with pytest.raises(ConfigError, match="prefetch inception"):
        metrics.measure(Options(metric="fid500", train_repeats=0), load_config("tiny"))


def test_the_first_two_ticks_are_not_measured():
    ticks = [{"Timing/total_sec": sec} for sec in (1.0, 5.0, 12.0, 20.0)]
    assert measured_sec(ticks) == 15.0
