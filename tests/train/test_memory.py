"""Peak memory by analysis: the same bytes as a training step that is computed, and nothing is allocated."""

import gc

import pytest
import torch
from support.growing import growing_config
from support.toy import CHANNELS, LABELS, RESOLUTION, placed, toy_config, toy_state

from stylegan_ray.train.memory import LiveBytes, Subject, peak_bytes, schedules
from stylegan_ray.train.step import accumulate, phases_of

WIDE = {"model.fmap_base": 512, "model.fmap_max": 64, "schedule.minibatch_gpu": 8, "schedule.minibatch_size": 16}
CASES = {
    "config-f": {},
    "other architectures": {"model.D_architecture": "skip", "model.G_architecture": "resnet"},
    "neither skips nor residuals": {"model.D_architecture": "orig", "model.G_architecture": "orig"},
    "low precision": {"model.num_lowp_res": 2},
    "float64": {"train.dtype": "float64"},
    "rpgan": {"loss.G": "rpgan", "loss.D": "rpgan"},
    "wgan": {"loss.G": "wgan", "loss.D": "wgan_gp"},
    "augmented": {"augment.mode": "fixed", "augment.p": 0.5},
    "recomputed": {"train.recompute_activations": 2},
    "wide": WIDE,
}


@pytest.mark.parametrize("case", CASES)
def test_analysis_finds_what_a_step_needs(case):
    cfg = toy_config(**WIDE | CASES[case])
    predicted, counted = peak_bytes(subject(cfg)), counted_bytes(cfg)
    assert set(predicted) == {"state", *counted}
    for part, size in counted.items():
        assert predicted[part] == pytest.approx(size, rel=0.01), part
        assert predicted[part] > predicted["state"]


def subject(cfg):
    return Subject(cfg, (RESOLUTION, RESOLUTION), CHANNELS, LABELS)


def counted_bytes(cfg):
    """The most bytes of live tensors, by phase, of the first minibatch."""
    with LiveBytes() as count:
        state = toy_state(cfg)
        for optimizer in state.optimizers.values():
            optimizer.load(optimizer.tensors(), num_steps=1)
        batches, found = placed(cfg, state), {}
        for phase in (phase for network in ("G", "D") for phase in phases_of(cfg, network, batches[0].schedule)):
            found[phase.part] = count.peak_of(lambda phase=phase: accumulate(phase, state, batches[0]))
    return found


def test_bytes_of_tensors_are_counted_while_they_live():
    with LiveBytes() as count:
        a = torch.zeros(1000)
        b = a[:10].view(2, 5)  # shares the memory
        assert count.live == 4000
        del a
        gc.collect()
        assert count.live == 4000, "a view keeps it"
        assert count.peak_of(lambda: torch.ones(500, dtype=torch.float64).sum()) >= 8000
        del b
        gc.collect()
        assert count.live == 0


def test_recomputing_needs_less():
    configs = [toy_config(**WIDE, **{"train.recompute_activations": num}) for num in (0, 2)]
    plain, again = (peak_bytes(Subject(cfg, (32, 32), CHANNELS, LABELS)) for cfg in configs)
    assert again["G"] < 0.9 * plain["G"] and again["D"] < plain["D"]


def test_networks_that_grow_are_analyzed_in_every_transition():
    cfg = growing_config("config-d")
    assert [schedule.lod for schedule in schedules(cfg, 3)] == pytest.approx([0.5, 0])
    assert peak_bytes(subject(cfg))["D_reg"] > 0
