"""A run of commit 018a58d (version 0.1) continues: its name, its state and the images that come next are the same.

`fixtures/run_018a58d` holds the folder of a finished run of 96 images on OpenMoji at 8x8, as that commit wrote it but
for images and network snapshots that were left out, and its preset, which has changed since.
tests/cluster/test_run_018a58d.py continues it by the command.
"""

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml

from stylegan_ray.config import differences, load_config, validated
from stylegan_ray.data.reals import RealsSource
from stylegan_ray.interop import load_network
from stylegan_ray.options import train_options
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import newest_checkpoint
from stylegan_ray.train.schedule import walk
from stylegan_ray.train.state import TrainState

RUN = Path(__file__).parent / "fixtures" / "run_018a58d" / "tiny-openmoji-0a021540"
PRESET = RUN.parent / "tiny.yaml"
CHECKPOINT = RUN / "checkpoints" / "ckpt-000000000096"


def saved_config():
    return validated(yaml.safe_load((RUN / "config.yaml").read_text()))


def command():
    """The configuration that the command of the run describes today, with the preset of that time."""
    words = shlex.split(json.loads((RUN / "run.json").read_text())["command"])
    assert words[2] == PRESET.stem
    return train_options([str(PRESET), *words[3:]]).cfg


@pytest.fixture(scope="module")
def state():
    """Today's state of the run, restored from its checkpoint."""
    data = json.loads((RUN / "run.json").read_text())["data"]
    cfg = saved_config()
    state = TrainState.create(cfg, tuple(data["resolution"]), data["num_channels"], data["label_size"])
    snapshot = newest_checkpoint(Storage.at(RUN / "checkpoints"))
    assert snapshot is not None
    snapshot.restore(state)
    return state


def test_the_same_command_finds_the_run():
    cfg = command()
    assert f"tiny-openmoji-{cfg.digest()}" == RUN.name
    assert train_options([str(RUN / "config.yaml")]).cfg.run.name == RUN.name, "whatever the preset is today"


@pytest.mark.parametrize("file", [RUN / "config.yaml", CHECKPOINT / "config.yaml"], ids=["run", "checkpoint"])
def test_the_same_command_continues_the_run(file):
    """Resolution and channels are completed from the data before a command is compared with its run."""
    completed = command().with_overrides({"data.resolution": 8, "data.channels": 3, "train.total_kimg": 1})
    assert differences(validated(yaml.safe_load(file.read_text())), completed) == {}
    assert load_config(str(file)) == saved_config()


def test_every_tensor_and_counter_of_the_state_is_restored(state):
    stored = safetensors.torch.load_file(CHECKPOINT / "state.safetensors")
    counters = json.loads((CHECKPOINT / "state.json").read_text())
    restored = state.tensors()
    assert restored.keys() - stored.keys() == {"augment_signs"} and stored.keys() <= restored.keys()
    assert all(torch.equal(restored[name], value) for name, value in stored.items())
    assert state.counters() == counters | {"augment_p": 0.0, "augment_nimg": 0}
    assert (state.cur_nimg, state.iteration, state.tick) == (96, 12, 4)


class SixtyFour:
    """As much of the data set as the order of images depends on."""

    num_images, block_rows = 64, 128


def test_the_next_images_are_the_same(state):
    cfg = saved_config()
    group = next(walk(cfg, state.cur_nimg, math.log2(max(state.G.resolution))))
    assert group.minibatch_nimgs() == [96, 104] and group.schedule.G_smoothing_beta == 0.5612310241546865
    reals = RealsSource(SixtyFour(), cfg.run.seed, state.stream_salt, cfg.data.mirror_augment)
    positions = np.arange(96, 112)
    assert reals.indices(positions).tolist() == [26, 10, 19, 16, 49, 51, 30, 7, 47, 53, 32, 58, 60, 24, 43, 50]
    assert reals.mirrored(positions).astype(int).tolist() == [1, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    "file", ["network-final.safetensors", "best-fid64_tiny.safetensors", "checkpoints/" + CHECKPOINT.name]
)
def test_its_networks_are_read(file):
    networks = load_network(RUN / file)
    assert {name: network.resolution for name, network in networks.items() if name != "D"} == {
        "G": (8, 8),
        "G_ema": (8, 8),
    }
    assert networks["G_ema"](torch.zeros(1, 4), torch.eye(12)[:1]).isfinite().all()
