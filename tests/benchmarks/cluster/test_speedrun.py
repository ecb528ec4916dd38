"""The speedrun: its clock, what counts as reached, and a run of two seeds on toy networks."""

import json

import pytest
from support.toy import toy_config

from benchmarks.cluster import speedrun
from benchmarks.cluster.speedrun import Curve, Options, Point, figures_of, first_at, is_over, read_points
from stylegan_ray.config import ConfigError


def write_rows(folder, name, rows):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_clock_leaves_maintenance_out(tmp_path):
    ticks = [
        {"Progress/kimg": kimg, "Timing/total_sec": total, "Timing/maintenance_sec": maintenance}
        for kimg, total, maintenance in ((0.1, 3.0, 0.0), (2.1, 33.0, 7.0), (4.1, 60.0, 5.0))
    ]
    values = [(0, 200.0), (0.1, 190.0), (2.1, None), (4.1, 33.5), (6.1, 20.0)]
    write_rows(tmp_path, "stats.jsonl", ticks)
    rows = [{"metric": "fid5k_tiny", "kimg": kimg, "value": value} for kimg, value in values]
    write_rows(tmp_path, "metrics.jsonl", [*rows, {"metric": "fid500_tiny", "kimg": 4.1, "value": 1.0}])
    assert read_points(tmp_path) == [Point(0.1, 3.0, 190.0), Point(4.1, 48.0, 33.5)]
    assert read_points(tmp_path / "absent") == []


CURVE = [Point(2, 20.0, 90.0), Point(4, 40.0, 34.0), Point(6, 60.0, 36.0), Point(8, 110.0, 19.0)]


def test_the_first_value_at_or_below_counts_within_the_cap():
    assert first_at(CURVE, 34, 1800) == CURVE[1] and first_at(CURVE, 20, 1800) == CURVE[3]
    assert first_at(CURVE, 20, 100) is None and first_at(CURVE, 12, 1800) is None
    assert not is_over(CURVE, Options()) and is_over(CURVE, Options(fids=(34.0, 19.0)))
    assert is_over(CURVE, Options(cap_sec=110)) and not is_over([], Options())


def test_medians_are_missing_where_most_seeds_did_not_reach_the_fid():
    late = [Point(2, 30.0, 30.0)]
    curves = {seed: Curve(points, 50.0) for seed, points in enumerate((CURVE, late, CURVE[:1]))}
    figures, bars = figures_of(curves, Options(fids=(34.0, 20.0)))
    assert figures["fid5k_tiny <= 34: median sec"] == 40 and figures["fid5k_tiny <= 34: median kimg"] == 4
    assert figures["fid5k_tiny <= 34: median sec at 100 images/s"] == 20
    assert figures["fid5k_tiny <= 20: sec, kimg by seed"] == [[110.0, 8], "not reached", "not reached"]
    assert figures["fid5k_tiny <= 20: median sec"] == "not reached"
    assert [(bar["holds"], bar["value"]) for bar in bars] == [(True, 40), (False, "not reached")]


def test_times_are_scaled_by_the_speed_of_their_own_sitting():
    curves = {0: Curve([Point(2, 10.0, 30.0)], 50.0), 1: Curve([Point(2, 20.0, 30.0)], 100.0)}
    assert figures_of(curves, Options(fids=(34.0,)))[0]["fid5k_tiny <= 34: median sec at 100 images/s"] == 12.5


@pytest.mark.parametrize("keys", [{"data.mirror_augment": True}, {"schedule.G_lrate": 0.01}])
def test_other_settings_are_refused(tmp_path, keys):
    cfg = toy_config(**{"data.path": None})
    seed = cfg.with_overrides({"run.seed": 0, "run.name": "seed-0", "run.storage": str(tmp_path)})
    (tmp_path / "seed-0.yaml").write_text(seed.to_yaml())
    with pytest.raises(ConfigError, match=r"mirrored images|run with other settings; give another --folder"):
        speedrun.measure(Options(folder=tmp_path), cfg.with_overrides(keys))


@pytest.mark.cluster
def test_seeds_are_trained_until_they_are_over_and_the_same_command_adds_one(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun, "METRIC", "fid50_tiny")
    monkeypatch.setattr(speedrun, "EVERY_KIMG", 0.064)
    monkeypatch.setattr(speedrun, "step_rate", lambda cfg, threads: 10.0)
    cfg = toy_config(**{"data.resolution": 32, "data.path": None, "cluster.gpus_per_worker": 0})
    found = speedrun.measure(Options(seeds=(0,), fids=(1e6,), folder=tmp_path), cfg)[0]
    assert found["fid50_tiny <= 1e+06: sec, kimg by seed"][0][1] < 1
    before = (tmp_path / "seed-0" / "stats.jsonl").stat().st_mtime_ns
    both = speedrun.measure(Options(seeds=(0, 1), fids=(1e6,), folder=tmp_path), cfg)[0]
    assert list(both["curves"]) == ["0", "1"] and both["curves"]["0"] == found["curves"]["0"]
    assert (tmp_path / "seed-0" / "stats.jsonl").stat().st_mtime_ns == before
    assert (tmp_path / "speedrun.png").stat().st_size > 0
