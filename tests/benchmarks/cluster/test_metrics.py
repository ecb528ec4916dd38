"""The metrics benchmark measures what it says."""

import json

import pytest
from support.jobs import Job

pytest.importorskip("ray")

from benchmarks.cluster import metrics
from benchmarks.cluster.metrics import METRICS, TICKS, Arrivals, Options, rates_by_way
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


def test_ticks_are_counted_wholly_inside_or_outside_the_time_of_a_metric():
    """Ticks of one kimg end at 0, 10, 20, ...; metrics asked for at 0 and 30 have their rows at 15 and 55."""
    seen = Arrivals()
    for number in range(8):
        seen.rows[TICKS].append({"Progress/kimg": number, "Timing/sec_per_kimg": number})
        seen.times[TICKS].append(10.0 * number)
    seen.rows[METRICS] = [{"kimg": 0}, {"kimg": 3}]
    seen.times[METRICS] = [15.0, 55.0]
    # The ticks to 10 and 20 begin before the first row; the one to 60 lies half inside the time of the second metric.
    assert rates_by_way(seen) == {"alone": [1000 / 3, 1000 / 7], "beside": [250, 200]}
    seen.rows[METRICS], seen.times[METRICS] = [], []
    assert rates_by_way(seen) == {"alone": [], "beside": []}, "no metric has ended, so nothing can be compared"


def test_rows_are_seen_once_and_whole(tmp_path):
    seen = Arrivals()
    seen.look(tmp_path)
    (tmp_path / TICKS).write_text('{"a": 1}\n{"a": 2}\n{"a"')
    seen.look(tmp_path)
    (tmp_path / TICKS).write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    seen.look(tmp_path)
    assert [row["a"] for row in seen.rows[TICKS]] == [1, 2, 3] and seen.rows[METRICS] == []
    assert seen.times[TICKS][0] == seen.times[TICKS][1] < seen.times[TICKS][2]
