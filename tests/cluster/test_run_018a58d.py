"""The command of a run of commit 018a58d (version 0.1) continues the run in this version."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from support.jobs import Job, rows_without_times

RUN = Path(__file__).parents[1] / "fixtures" / "run_018a58d" / "tiny-openmoji-0a021540"
PRESET = RUN.parent / "tiny.yaml"
"""As it was; it has changed since."""


@pytest.mark.cluster
def test_the_same_command_with_a_larger_total_continues_the_run(tmp_path):
    run = tmp_path / RUN.name
    shutil.copytree(RUN, run)
    words = shlex.split(json.loads((RUN / "run.json").read_text())["command"])[3:]
    words = [str(PRESET), *words, "--train.total_kimg", "0.16"]
    job = Job("train", *words, storage=tmp_path, log=tmp_path / "log")
    assert job.wait(300) == 0, job.text()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [RUN.name], "no second run is started"
    assert "continuing at 0.096 kimg" in job.text()
    before, after = rows_without_times(RUN), rows_without_times(run)
    assert after[: len(before)] == before
    assert [row["Progress/kimg"] for row in after] == [0.016, 0.048, 0.08, 0.096, 0.128, 0.16]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["kimg"] for row in metrics][:3] == [0, 0.08, 0.096] and metrics[-1]["kimg"] == 0.16
    assert (run / "checkpoints" / "ckpt-000000000160" / "COMPLETE").exists()
    network = (run / "network-final.safetensors").read_bytes()
    assert json.loads(network[8 : 8 + int.from_bytes(network[:8], "little")])["__metadata__"]["cur_nimg"] == "160"
