"""Blocks that are computed again in backward passes: the same training, bit for bit, in less memory."""

import pytest
import torch
from support.growing import growing_config
from support.laws import undisturbed, whole_run
from support.toy import toy_config

CASES = {
    "config-f": {},
    "other architectures": {"model.D_architecture": "skip", "model.G_architecture": "resnet"},
    "rpgan": {"loss.G": "rpgan", "loss.D": "rpgan"},
    "wgan": {"loss.G": "wgan", "loss.D": "wgan_gp"},
    "augmented": {"augment.mode": "fixed", "augment.p": 0.5},
    "low precision": {"model.num_lowp_res": 1},
}
"""Keys of runs with penalties whose gradients pass through blocks that are computed again."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_no_bit_changes(case, dtype):
    """Four iterations: each penalty is computed twice, the second time of networks that the first one has changed."""
    compare(toy_config(**CASES[case] | {"train.dtype": dtype, "train.total_kimg": 0.032}))


@pytest.mark.parametrize("preset", ["config-a", "config-d"])
def test_no_bit_of_growing_networks_changes(preset):
    compare(growing_config(preset))


def compare(cfg):
    plain, again = undisturbed(cfg), whole_run(cfg.with_overrides({"train.recompute_activations": 2}))
    for name, value in plain["tensors"].items():
        assert torch.equal(value, again["tensors"][name]), name
