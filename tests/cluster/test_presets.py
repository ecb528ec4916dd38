"""Configurations A to D under Ray with two workers, through a transition, killed and resumed in the middle of it."""

import os

import pytest
from safetensors.torch import load_file
from support.jobs import Job, rows_without_times, small_model, write_pictures

GROWING = {
    # Two groups at 8x8, a fade to 16x16 of eight, and four at 16x16; another minibatch at each resolution.
    "schedule.lod_training_kimg": 0.064, "schedule.lod_transition_kimg": 0.256, "train.total_kimg": 0.448,
    "schedule.minibatch_size_dict": "{8: 16}", "schedule.minibatch_gpu_dict": "{8: 4}", "schedule.tick_kimg": 0.032,
    "schedule.G_lrate_dict": "{16: 0.002}",
}  # fmt: skip
OPTIONS = [*small_model(), *(word for key, value in GROWING.items() for word in (f"--{key}", str(value)))]
OPTIONS += ["--run.name", "run", "--cluster.num_workers", "2", "--data.cond"]

FADE_ENDS = 320
SECONDS = 1200
"""Most that a job may take; on an idle machine it is a fraction of a minute."""


def checkpoints(run):
    """cur_nimg of the complete checkpoints."""
    folder = run / "checkpoints"
    names = os.listdir(folder) if folder.exists() else []
    return [int(name.removeprefix("ckpt-")) for name in names if (folder / name / "COMPLETE").exists()]


@pytest.mark.cluster
@pytest.mark.parametrize("preset", ["config-a", "config-b", "config-c", "config-d"])
def test_a_run_killed_in_a_fade_continues_bit_for_bit(preset, tmp_path):
    pictures = write_pictures(tmp_path / "pictures", side=16)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = ["train", preset, str(pictures), *OPTIONS]
    for storage in (whole, broken):
        storage.mkdir()
    undisturbed = Job(*command, storage=whole, log=whole / "log")
    assert undisturbed.wait(SECONDS) == 0, undisturbed.text()
    first = Job(*command, storage=broken, log=broken / "first.log")
    first.wait_for(lambda: max(checkpoints(broken / "run"), default=0) >= 96, seconds=SECONDS)
    first.kill()
    assert 96 <= max(checkpoints(broken / "run")) < FADE_ENDS, "the kill missed the fade"
    second = Job(*command, storage=broken, log=broken / "second.log")
    assert second.wait(SECONDS) == 0, second.text()
    assert "continuing at 0." in second.text()

    expected, resumed = (load_file(s / "run" / "network-final.safetensors") for s in (whole, broken))
    assert expected.keys() == resumed.keys()
    assert [name for name, value in resumed.items() if not value.equal(expected[name])] == []
    rows = rows_without_times(whole / "run")
    assert rows_without_times(broken / "run") == rows
    lods, sizes = ([row[key] for row in rows] for key in ("Progress/lod", "Progress/minibatch"))
    assert lods[0] == 1 and lods[-1] == 0 and sum(0 < lod < 1 for lod in lods) >= 5
    assert sizes[0] == 16 and sizes[-1] == 8
