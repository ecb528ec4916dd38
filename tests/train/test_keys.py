"""Keys of the training, each by what it does to a small run."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.laws import largest_difference, run
from support.toy import LABELS, ToySet, placed, toy_config, toy_minibatches, toy_state

from stylegan_ray.data.process_reals import process_reals
from stylegan_ray.images.grid import pil_uint8
from stylegan_ray.rng import Place, SeededDraws
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.step import accumulate, phases_of, train_iteration

DOUBLE = {"train.dtype": "float64"}


def one_iteration(cfg, state, source=None):
    source = source or ToySet()
    return train_iteration(state, cfg, next(toy_minibatches(cfg, 0, source)), SeededDraws(cfg.run.seed, 0, source))


def gradients_of(cfg, phase):
    """The gradients of a phase in the first iteration."""
    state = toy_state(cfg)
    for batch in placed(cfg, state):
        accumulate(phase, state, batch)
    grads = state.gradients[phase.network]
    return grads.flat[: grads.num_values]


def test_without_lazy_regularization_every_step_has_loss_and_penalty():
    cfg = toy_config(**DOUBLE, **{"train.lazy_regularization": False})
    for network in ("G", "D"):
        (phase,) = phases_of(cfg, network, training_schedule(cfg, 0, 3))
        whole, *parts = (
            gradients_of(cfg, replace(phase, losses=(x,) if x else phase.losses)) for x in (None, *phase.losses)
        )
        assert len(parts) == 2
        torch.testing.assert_close(whole, sum(parts), rtol=1e-10, atol=1e-12)
    state = toy_state(cfg)
    rows = run(cfg, state, pauses=2)
    assert state.optimizers["G"].num_steps == state.optimizers["D"].num_steps == state.iteration
    assert state.optimizers["G"].ratio == 1 and state.optimizers["G"].beta2 == cfg.optim.beta2
    assert all(math.isfinite(row["Loss/G/reg"]) and math.isfinite(row["Loss/D/reg"]) for row in rows)


def test_penalties_are_due_at_their_intervals():
    cfg = toy_config(**{"train.G_reg_interval": 3, "train.D_reg_interval": 2, "train.total_kimg": 0.048})
    state = toy_state(cfg)
    run(cfg, state)
    assert state.iteration == 6
    assert (state.optimizers["G"].num_steps, state.optimizers["D"].num_steps) == (6 + 2, 6 + 3)


@pytest.mark.parametrize("drange", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 3.0)])
def test_drange_net_is_the_range_that_D_sees_and_images_come_back_from(drange):
    cfg = toy_config(**{"train.drange_net": drange})
    state = toy_state(cfg)
    for batch in placed(cfg, state):
        reals = batch.as_D_sees()
        expected = batch.images.float() / 255 * (drange[1] - drange[0]) + drange[0]
        torch.testing.assert_close(reals, expected, atol=1e-5, rtol=0)
        assert torch.equal(pil_uint8(reals, drange), batch.images)
    everything = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(pil_uint8(process_reals(everything, 0.0, None, drange), drange), everything)


def test_drange_net_changes_the_run():
    states = [toy_state(toy_config(**{"train.drange_net": drange})) for drange in ((-1, 1), (0, 1))]
    for state, drange in zip(states, ((-1, 1), (0, 1)), strict=True):
        one_iteration(toy_config(**{"train.drange_net": drange}), state)
    assert largest_difference(states[0].tensors(), states[1].tensors(), "D.") > 1e-4


def test_without_smoothing_G_ema_is_G():
    cfg = toy_config(**{"schedule.G_smoothing_kimg": 0})
    state = toy_state(cfg)
    one_iteration(cfg, state)
    assert all(torch.equal(value, state.G.get_parameter(name)) for name, value in state.G_ema.named_parameters())


def test_with_smoothing_G_ema_follows_with_its_half_life():
    cfg = toy_config(**DOUBLE, **{"schedule.G_smoothing_kimg": 0.016})  # two minibatches of 8
    state = toy_state(cfg)
    begin = {name: value.clone() for name, value in state.G.named_parameters()}
    one_iteration(cfg, state)
    for name, value in state.G_ema.named_parameters():
        expected = torch.lerp(begin[name], state.G.get_parameter(name), 1 - 0.5**0.5)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("beta", [1.0, 0.7, 0.0])
def test_dlatent_avg_beta_weighs_the_past_of_w_avg(beta):
    cfg = toy_config(**DOUBLE, **{"model.dlatent_avg_beta": beta, "model.style_mixing_prob": 0, "loss.D": "logistic"})
    state, seen = toy_state(cfg), []
    state.G.mapping.register_forward_hook(lambda module, inputs, w: seen.append(w.detach().mean(dim=0)))
    one_iteration(cfg, state)
    assert len(seen) == 12, "G, G_reg and D, four micro-batches each"
    expected = torch.zeros(cfg.model.w_dim, dtype=torch.float64)
    for phase in range(3):
        expected = torch.lerp(torch.stack(seen[4 * phase : 4 * phase + 4]).mean(dim=0), expected, beta)
    torch.testing.assert_close(state.G.w_avg, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("prob", "share"), [(0.0, (0, 0)), (1.0, (1, 1)), (0.9, (0.8, 0.97))])
def test_style_mixing_prob_is_the_share_of_mixed_micro_batches(prob, share):
    draws = SeededDraws(0)
    cutoffs = [draws.mixing("G_main", Place(nimg, 0, nimg), prob, 6) for nimg in range(300)]
    mixed = [cutoff for cutoff in cutoffs if cutoff < 6]
    assert share[0] <= len(mixed) / 300 <= share[1]
    assert set(mixed) <= {1, 2, 3, 4, 5} and (not mixed or len(set(mixed)) == 5)


class Weighted(ToySet):
    """Labels that are neither one class nor add up to one."""

    def labels(self, indices):
        return (
            np.random.default_rng(0)
            .normal(size=(self.num_images, LABELS))
            .astype(np.float32)[indices % self.num_images]
        )


@pytest.mark.parametrize("preset", ["config-f", "config-a"])
def test_labels_are_used_as_they_are(preset):
    cfg = toy_config(preset, **DOUBLE)
    state, soft = toy_state(cfg), Weighted()
    images, labels = soft.micro_batch(range(4))
    reals, labels = process_reals(images, dtype=torch.float64), labels.double()
    a, b = labels, labels.flip(0)
    score = state.D(reals, a) + 2 * state.D(reals, b)  # the score is linear in the label
    torch.testing.assert_close(state.D(reals, a + 2 * b), score)
    w = state.G.mapping(torch.ones(1, cfg.model.z_dim).double(), torch.tensor([[0.3, 0.7, 0.0]]).double())
    hard = state.G.mapping(torch.ones(1, cfg.model.z_dim).double(), torch.tensor([[0.0, 1.0, 0.0]]).double())
    assert (w - hard).abs().max() > 1e-4
    stats = one_iteration(cfg, state, soft)
    hard_stats = one_iteration(cfg, toy_state(cfg))
    assert all(value.isfinite() for value in stats.values())
    assert stats["Loss/scores/real"] != hard_stats["Loss/scores/real"]


@pytest.mark.parametrize("G", ["logistic_ns_pathreg", "logistic_ns", "logistic", "wgan", "rpgan"])
@pytest.mark.parametrize("D", ["logistic_r1", "logistic_r2", "logistic", "wgan", "wgan_gp", "rpgan"])
def test_every_pair_of_losses_has_the_phases_that_it_needs(G, D):
    cfg = toy_config(**{"loss.G": G, "loss.D": D})
    state = toy_state(cfg)
    stats = one_iteration(cfg, state)
    assert ("Loss/G/reg" in stats) == (G == "logistic_ns_pathreg")
    assert ("Loss/D/reg" in stats) == (D not in ("logistic", "wgan"))
    assert all(value.isfinite().all() for value in state.tensors().values())


def test_the_learning_rate_ramp_reaches_adam():
    cfg = toy_config(**{"schedule.lrate_rampup_kimg": 1.0})
    state = toy_state(cfg)
    begin = {name: value.clone() for name, value in state.G.named_parameters()}
    one_iteration(cfg, state)
    assert all(torch.equal(value, begin[name]) for name, value in state.G.named_parameters()), "the ramp begins at 0"
    run(cfg, state, pauses=1)
    assert state.optimizers["G"].adam.param_groups[0]["lr"] == pytest.approx(0.002 * 0.008 * 2 / 3)
