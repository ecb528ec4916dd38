"""What the train command says of runs that end before anything is trained, or have ended; no Ray is started."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save
from support.data_sets import numbered, write_folder

pytest.importorskip("ray")

from stylegan_ray import cli
from stylegan_ray.cluster import run as run_module
from stylegan_ray.cluster.resources import Share
from stylegan_ray.config import load_config
from stylegan_ray.lease import Claim, Owner
from stylegan_ray.storage import Storage


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


def test_a_finished_run_loses_the_lease_of_a_command_that_was_killed(finished, tmp_path):
    lease = tmp_path / "runs" / "run" / ".lease-00000000"
    lease.write_bytes(replace(Owner.of_this_process("train", [Claim("run")]), pid=1).content(1))
    assert cli.run(cli.train, [*finished, "--train.total_kimg", "2"]) == 0
    assert not lease.exists()


def given(words, total):
    """The configuration that these words give with a total."""
    return load_config(words[0], {"data.path": words[1], "run.name": "run", "train.total_kimg": float(total)})


@pytest.fixture
def at_three(finished, tmp_path):
    """The words of that run when it was continued and has reached 3 kimg."""
    Storage.at(tmp_path / "runs" / "run").write("checkpoints/ckpt-000000003000/COMPLETE", b"{}")
    return finished


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
@pytest.mark.parametrize("total", ["0", "2", "2.5"])
def test_a_total_below_what_is_reached_is_an_error_that_names_both(at_three, capsys, total, dry_run):
    assert cli.run(cli.train, [*at_three, "--train.total_kimg", total, *dry_run]) == 2
    said = capsys.readouterr().err
    assert f"train.total_kimg={total} must be at least 3," in said and "--train.total_kimg 3 ends it there" in said


def test_a_run_can_be_ended_where_it_is(at_three):
    run = run_module.prepare(given(at_three, "3"))
    assert not run.is_finished, "its final network is that of 2 kimg"
    run.storage.write("network-final.safetensors", save({"w": np.zeros(1)}, {"cur_nimg": "3000"}))
    assert run.is_finished and run_module.prepare(given(at_three, "2.5")).is_finished
