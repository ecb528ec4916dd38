"""The stream benchmark measures what it says."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("ray")

from stylegan_ray.cluster.bench import stream
from stylegan_ray.config import load_config


@pytest.mark.usefixtures("ray_local")
def test_figures_and_bars(tmp_path):
    options = stream.Options(sizes=(16,), formats=("png",), repeats=1, sec=0.5)
    figures = stream.measured(options, load_config("tiny", {"cluster.read_ahead": 2}), tmp_path)
    assert figures["img_s_pillow_core"].keys() == figures["img_s_stream"].keys() == {"png16"}
    assert "1" in figures["img_s_stream"]["png16"] and figures["pass_ends"] >= 1
    assert 0 < figures["object_store_mb"] < 100 and figures["decoder_rss_mb"] > 50
    assert all(figures["img_s_stream_growing"][kind].keys() == {"8", "16"} for kind in ("png", "tfrecords"))
    names = [bar["name"] for bar in stream.bars(figures)]
    assert len(names) == 3 and names[0].startswith("png16: stream over bare Pillow loop")


def test_cpu_clock_counts_this_process():
    clock = stream.CpuClock()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert clock.used()["here"] >= 0.15 and clock.used()["executor"] == 0
