"""The benchmark of preparing data makes what it measures, and takes it away again."""

import numpy as np
import pytest
from support.data_sets import opened

from benchmarks.cluster import prepare
from stylegan_ray.config import ConfigError, RunConfig


@pytest.mark.cluster
def test_small_inputs_are_measured_and_deleted(tmp_path):
    options = prepare.Options(parts=("files",), files=30, repeats=1, folder=tmp_path)
    figures, bars = prepare.measure(options, RunConfig())
    assert figures["files"]["sec"][0] > 0 and figures["files"]["peak_rss_gb"][0] > 0.01
    assert [bar["bar"] for bar in bars] == [10.0] and not list(tmp_path.iterdir())


def test_rows_of_parquet(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "GROUP_ROWS", 8)
    data = opened(prepare.write_parquet(tmp_path / "d.parquet", 20), shuffle="blocks", cond=True)
    assert data.num_images == 20 and data.shape() == (3, 32, 32)
    assert data.labels(np.arange(20)).argmax(axis=1).tolist() == list(range(20))
    assert len({data.read(i).tobytes() for i in range(20)}) == 8


def test_images_are_links_to_a_few(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "DIFFERENT", 2)
    files = sorted(prepare.write_images(tmp_path / "d", 5, 32).iterdir())
    assert [path.stat().st_nlink for path in files] == [3, 2, 3, 2, 3]


def test_unknown_parts():
    with pytest.raises(ConfigError, match="cores, files, rows"):
        prepare.measure(prepare.Options(parts=("speed",)), RunConfig())


@pytest.mark.cluster
def test_everything_small(tmp_path):
    options = prepare.Options(images=6, side=32, resolution=16, files=20, rows=200, repeats=1, folder=tmp_path)
    figures, bars = prepare.measure(options, RunConfig())
    assert len(bars) == 4 and figures["cores"]["ratio"][0] > 0 and set(figures["rows"]) == {"20", "200"}
    assert not list(tmp_path.iterdir())
