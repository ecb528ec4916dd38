"""A run with train.stop_when ends at the same value whether it is killed or not, whole, and is then finished."""

import json
import re

import pytest
from safetensors.torch import load_file
from support.jobs import Job, metrics_without_times, rows_without_times, small_model

from stylegan_ray import cli
from stylegan_ray.config import load_config
from stylegan_ray.train.stop_when import why_to_stop

pytestmark = pytest.mark.cluster
OPTIONS = [*small_model(), "--metrics.names", "fid50_tiny", "--metrics.ticks", "1", "--metrics.placement", "inline"]
OPTIONS += ["--train.stop_when", "fid50_tiny:2", "--train.total_kimg", "6.4", "--schedule.G_lrate", "0.05"]


def start(name, storage, pictures):
    words = ["train", "config-f", str(pictures), *OPTIONS, "--run.name", name]
    return Job(*words, storage=storage, log=storage / f"{name}.log")


def metrics_of(run):
    return [{**row, "run": None} for row in metrics_without_times(run)]


def test_a_killed_run_ends_where_the_undisturbed_one_does(tmp_path, pictures, monkeypatch, capsys):
    killed = start("killed", tmp_path, pictures)
    killed.wait_for(lambda: list((tmp_path / "killed" / "checkpoints").glob("*/COMPLETE")), 400)
    killed.kill()
    for name in ("killed", "whole"):
        job = start(name, tmp_path, pictures)
        assert job.wait(600) == 0, job.text()
    assert rows_without_times(tmp_path / "killed") == rows_without_times(tmp_path / "whole")
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    networks = [load_file(tmp_path / name / "network-final.safetensors") for name in ("killed", "whole")]
    assert all(value.equal(networks[1][key]) for key, value in networks[0].items())

    run, cfg = tmp_path / "whole", load_config(str(tmp_path / "whole" / "config.yaml"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert why_to_stop(cfg, rows) and not why_to_stop(cfg, rows[:-1]), "it ends with the value that decides"
    end = rows_without_times(run)[-1]["Progress/kimg"]
    assert rows[-1]["kimg"] == end < 6.4
    assert re.search(r"train\.stop_when=fid50_tiny:2: fid50_tiny has not been better", job.text())
    names = {path.name for path in run.iterdir()}
    nimg = round(1000 * end)
    stamp = f"{nimg // 1000:06d}.{nimg % 1000:03d}"
    assert {f"fakes{stamp}.png", f"network-snapshot-{stamp}.safetensors", "report.html"} <= names
    assert f"ckpt-{nimg:012d}" in {path.name for path in (run / "checkpoints").iterdir()}
    assert json.loads((run / "run.json").read_text())["ended"] == "done"

    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path))
    assert cli.run(cli.train, ["config-f", str(pictures), *OPTIONS, "--run.name", "whole"]) == 0
    assert f"is finished at {end:g} kimg; another train.stop_when" in capsys.readouterr().out
