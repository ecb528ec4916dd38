"""What the train command says of runs that end before anything is trained, or have ended; no Ray is started."""

import numpy as np
import pytest
from safetensors.numpy import save
from support.data_sets import numbered, write_folder

pytest.importorskip("ray")

from stylegan_ray import cli
from stylegan_ray.cluster import run as run_module
from stylegan_ray.cluster.resources import Share
from stylegan_ray.config import load_config


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A run that has reached 2 kimg; returns the words that trained it, without a total."""
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    data = str(write_folder(tmp_path / "data", numbered(4)))
    run = run_module.prepare(load_config("config-f", {"data.path": data, "run.name": "run", "train.total_kimg": 2}))
    run_module.write_start(run, Share(1, 1.0, 0, 1))
    run.storage.write("checkpoints/ckpt-000000002000/COMPLETE", b"{}")
    run.storage.write("network-final.safetensors", save({"w": np.zeros(1)}, {"cur_nimg": "2000"}))
    return ["config-f", data, "--run.name", "run"]


@pytest.mark.parametrize("total", ["1", "2"])
def test_a_finished_run_given_a_smaller_total_advises_one_that_continues_it(finished, capsys, total):
    assert cli.run(cli.train, [*finished, "--train.total_kimg", total]) == 0
    said = capsys.readouterr().out
    assert "is finished at 2 kimg" in said
    (way_on,) = [line for line in said.splitlines() if line.startswith("  Continue")]
    assert float(way_on.rpartition(" ")[2]) > 2 and way_on.count("--train.total") == 1
