"""Frozen layers of D stay as they are; all others train."""

import pytest
import torch
from support.laws import run
from support.toy import toy_config, toy_state

from stylegan_ray.config import ConfigError


@pytest.mark.parametrize(
    ("architecture", "num", "frozen"),
    [
        ("resnet", 3, ["b8.fromrgb", "b8.conv0", "b8.conv1"]),
        ("resnet", 4, ["b8.fromrgb", "b8.conv0", "b8.conv1", "b8.skip"]),
        ("skip", 3, ["b8.fromrgb", "b8.conv0", "b8.conv1"]),
        ("orig", 0, []),
    ],
)
def test_layers_are_counted_from_the_highest_resolution(architecture, num, frozen):
    cfg = toy_config(**{"train.freeze_D": num, "model.D_architecture": architecture, "train.total_kimg": 0.032})
    state = toy_state(cfg)
    before = {name: value.clone() for name, value in state.D.named_parameters()}
    run(cfg, state)
    for name, value in state.D.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(tuple(f"{layer}." for layer in frozen)), name


def test_more_layers_than_there_are_and_growing_networks_are_refused():
    with pytest.raises(ValueError, match=r"train\.freeze_D=9.*at most 4"):
        toy_state(toy_config(**{"train.freeze_D": 9}))
    with pytest.raises(ConfigError, match=r"train\.freeze_D=2.*grow"):
        toy_config(**{"train.freeze_D": 2, "schedule.lod_initial_resolution": 4})
