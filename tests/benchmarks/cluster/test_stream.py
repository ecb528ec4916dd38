"""Benchmark `stream`: its figures, bars and clocks."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("ray")

from benchmarks.cluster import stream
from stylegan_ray.config import load_config


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_figures_and_bars(tmp_path):
    options = stream.Options(sizes=(16,), formats=("png",), repeats=1, sec=0.5)
    figures = stream.measured(options, load_config("tiny", {"cluster.read_ahead": 2}), tmp_path)
    assert figures["img_s_pillow_core"].keys() == figures["img_s_stream"].keys() == {"png16"}
    assert "1" in figures["img_s_stream"]["png16"] and figures["pass_ends"] >= 1
    assert figures["resolution"] == {"png16": 16}
    assert 0 < figures["object_store_mb"] < 100 and figures["decoder_rss_mb"] > 50
    assert all(figures["img_s_stream_growing"][kind].keys() == {"8", "16"} for kind in ("png", "tfrecords"))
    names = [bar["name"] for bar in stream.bars(figures)]
    assert len(names) == 4 and names[0].startswith("png16: stream over bare Pillow loop")


def test_bars_are_higher_for_large_images():
    def bars_with(resolution, img_s):
        figures = {
            "resolution": {"x": resolution},
            "img_s_pillow_core": {"x": [100.0]},
            "img_s_stream": {"x": {threads: [value] for threads, value in img_s.items()}},
        }
        return [(bar["value"], bar["bar"], bar["holds"]) for bar in stream.bars_of_speed(figures, "x")]

    assert bars_with(64, {"1": 79.0, "2": 99.0}) == [(0.79, 0.5, True)]
    assert bars_with(256, {"1": 80.0, "2": 90.0, "16": 84.0}) == [(0.8, 0.8, True), (1.05, 1.1, False)]
    assert bars_with(256, {"1": 79.0}) == [(0.79, 0.8, False)]


def test_cpu_clock_counts_this_process():
    clock = stream.CpuClock()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert clock.used()["here"] >= 0.15
