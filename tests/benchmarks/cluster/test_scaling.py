"""Benchmark scaling: groups of workers as a user runs them, and what a model makes of one step."""

import pytest
from support.jobs import write_pictures
from support.toy import toy_config

from benchmarks.cluster import scaling


def test_efficiency_is_relative_to_the_smallest_group():
    assert scaling.efficiency({"1": [10.0, 12.0, 11.0], "2": [20.0, 18.0, 16.5]}) == {"1": 1.0, "2": 9.0 / 11.0}


def test_groups_keep_the_minibatch_or_the_micro_batches_of_a_worker():
    cfg = toy_config()
    strong, weak = scaling.grouped(cfg, 2, None), scaling.grouped(cfg, 2, 4)
    assert (strong.schedule.minibatch_size, strong.cluster.num_workers) == (8, 2)
    assert (weak.schedule.minibatch_size, weak.cluster.num_workers) == (4, 2)


@pytest.mark.cluster
def test_measures_and_predicts(tmp_path):
    keys = {"data.path": str(write_pictures(tmp_path)), "cluster.gpus_per_worker": 0}
    cfg = toy_config(**keys, **{"cluster.num_workers": 2})
    figures, bars = scaling.measure(scaling.Options(repeats=1, kimg=0.128), cfg)
    assert not bars and figures["micro_batches_per_worker"] == 2
    for kind in ("strong", "weak"):
        assert all(len(figures["img_s_measured"][kind][n]) == 1 for n in ("1", "2"))
        assert all(figures["img_s_predicted"][kind][n] > 0 for n in ("1", "2"))
    assert set(figures["weak_on_many"]["NVLink"]) == {"8", "16", "32", "64", "128", "256", "512"}
    assert all(0 < row["efficiency"] <= 1 for row in figures["weak_on_many"]["25 Gbit/s"].values())
    assert figures["phases"]["G"]["num_bytes"] > 0 and figures["link"]["gb_s"] > 0
