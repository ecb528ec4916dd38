"""Training with augmentation: the laws hold while p moves, and D alone sees augmented images."""

import pytest
import torch
from support.laws import largest_difference, run, trained_by, undisturbed
from support.toy import ToySet, placed, toy_config, toy_minibatches, toy_state

from stylegan_ray.config import ConfigError
from stylegan_ray.rng import SeededDraws
from stylegan_ray.train import compiled
from stylegan_ray.train.augment_p import INTERVAL, adapt_augment_p
from stylegan_ray.train.checkpoint import Snapshot
from stylegan_ray.train.losses import losses_of
from stylegan_ray.train.step import train_iteration

ADA = {"augment.mode": "ada", "augment.pipe": "bgc", "augment.p": 0.3, "augment.ada_kimg": 0.2, "augment.target": 0.1}


def ps_of(rows):
    return [row["Progress/augment_p"] for row in rows]


@pytest.mark.parametrize("world_size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_any_number_of_workers_trains_the_same_run_while_p_moves(tmp_path, world_size):
    cfg = toy_config(**ADA | {"train.dtype": "float64", "train.total_kimg": 0.096})
    one, other = undisturbed(cfg), trained_by(world_size, tmp_path, cfg)
    assert len(set(ps_of(one["rows"]))) > 2
    assert ps_of(one["rows"]) == ps_of(other["rows"])
    assert largest_difference(one["tensors"], other["tensors"]) < 1e-9


DIFFAUG = {"augment.mode": "diffaug"}


@pytest.mark.parametrize("keys", [ADA, pytest.param(DIFFAUG, marks=pytest.mark.slow)], ids=["ada", "diffaug"])
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(keys):
    cfg = toy_config(**keys | {"train.total_kimg": 0.096})
    straight, first, resumed = toy_state(cfg), toy_state(cfg), toy_state(cfg)
    rows = run(cfg, straight)
    rows_before = run(cfg, first, pauses=2)
    Snapshot.of(first, cfg).restore(resumed)
    assert rows_before + run(cfg, resumed) == rows
    for name, value in straight.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
    assert straight.counters() | {"elapsed_sec": 0} == resumed.counters() | {"elapsed_sec": 0}


def test_p_0_trains_the_run_without_augmentation_bit_for_bit():
    half = {"train.total_kimg": 0.096}
    plain, fixed = toy_config(**half), toy_config(**half, **{"augment.mode": "fixed", "augment.p": 0.0})
    one, other = undisturbed(plain), undisturbed(fixed)
    assert one["rows"] == other["rows"]
    for name, value in one["tensors"].items():
        assert torch.equal(value, other["tensors"][name]), name


@pytest.mark.parametrize(
    "keys",
    [
        {"loss.G": "rpgan", "loss.D": "rpgan"},
        {"loss.D": "wgan_gp", "loss.G": "wgan"},
        {"loss.D": "logistic_r2"},
        {"model.num_lowp_res": 1},
        {"train.lazy_regularization": False},
    ],
    ids=lambda keys: "-".join(str(value) for value in keys.values()),
)
def test_every_loss_trains_with_augmented_images(keys):
    cfg = toy_config(
        **keys | {"augment.mode": "fixed", "augment.p": 0.8, "augment.pipe": "bgc", "train.total_kimg": 0.032}
    )
    augmented, plain = toy_state(cfg), toy_state(cfg)
    rows = run(cfg, augmented)
    assert ps_of(rows) == [0.8] * len(rows) and not any(row["nonfinite"] for row in rows)
    run(toy_config(**keys | {"train.total_kimg": 0.032}), plain)
    assert largest_difference(augmented.tensors(), plain.tensors(), "D.") > 1e-3


@pytest.mark.parametrize("resolution", [(8, 16), (24, 24)])
def test_other_sizes_and_pipes_train(resolution):
    pipe = "bgcfnc" if min(resolution) > 21 else "bgc"
    cfg = toy_config(**{"augment.mode": "fixed", "augment.p": 0.8, "augment.pipe": pipe, "train.total_kimg": 0.016})
    state = toy_state(cfg, resolution if pipe == "bgc" else (32, 32))
    rows = run(cfg, state, source=ToySet(state.image_shape[1:]))
    assert not any(row["nonfinite"] for row in rows)


def test_the_gradient_of_r1_is_that_of_the_reals_before_augmentation():
    """Against finite differences of D composed with the augmentation, without what ties samples together."""
    keys = {"augment.mode": "fixed", "augment.p": 0.9, "train.dtype": "float64", "model.mbstd_group_size": 0}
    cfg = toy_config(**keys)
    state = toy_state(cfg)
    _, r1 = losses_of(cfg, "D")
    tensors = r1.draw(placed(cfg, state)[0])
    augment, reals, labels = r1.augment(tensors, "reals"), tensors["reals"], tensors["real_labels"]
    squares, step = torch.zeros(len(reals), dtype=torch.float64), 1e-5
    for pixel in range(reals[0].numel()):
        delta = torch.zeros_like(reals).flatten(1)
        delta[:, pixel] = step
        above, below = (state.D(augment(reals + way * delta.view_as(reals)), labels) for way in (1, -1))
        squares += ((above - below).detach().squeeze(1) / (2 * step)).square()
    penalty = r1.compute(state.networks, tensors).loss
    torch.testing.assert_close(penalty.detach(), squares * (cfg.loss.r1_gamma / 2), rtol=1e-4, atol=1e-8)


def test_p_moves_towards_the_target_every_four_minibatches_and_stays_within_0_and_1():
    cfg = toy_config(**ADA)
    state = toy_state(cfg)
    state.augment_p = 0.98
    for signs, nimg, expected in (((8, 8), 8, 1.0), ((0, 8), 16, 0.96), ((8, 8), 160, 1.0), ((-8, 8), 380, 0.0)):
        state.iteration += INTERVAL
        state.cur_nimg = nimg
        state.augment_signs[0], state.augment_signs[1] = signs
        adapt_augment_p(state, cfg.augment)
        assert state.augment_p == pytest.approx(expected)
        assert not state.augment_signs.any() and state.augment_nimg == nimg
    state.iteration += 1
    state.augment_signs[1] = 8
    adapt_augment_p(state, cfg.augment)
    assert state.augment_signs[1] == 8, "between two changes the scores are counted"


def test_signs_of_all_reals_are_counted():
    cfg = toy_config(**ADA | {"train.G_reg_interval": 4})
    state = toy_state(cfg)
    minibatches = toy_minibatches(cfg)
    for _ in range(3):
        train_iteration(state, cfg, next(minibatches), SeededDraws(0, 0, ToySet()))
    assert state.augment_signs[1] == 3 * cfg.schedule.minibatch_size
    assert state.augment_signs[0] == state.augment_signs[0].round()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"augment.mode": "ada", "loss.D": "rpgan", "loss.G": "rpgan"}, r"augment\.mode=ada.*loss\.D=rpgan.*fixed"),
        ({"augment.mode": "ada", "loss.D": "wgan_gp"}, r"augment\.mode=ada.*wgan_gp"),
        ({"augment.mode": "fixed", "schedule.lod_initial_resolution": 4}, r"grow.*lod_initial_resolution=4.*noaug"),
        ({"augment.mode": "diffaug", "augment.policy": []}, r"augment\.policy.*noaug"),
        ({"augment.pipe": "bgq"}, r"augment\.pipe"),
    ],
)
def test_what_cannot_work_is_refused(keys, named):
    with pytest.raises(ConfigError, match=named):
        toy_config(**keys)


def test_filters_of_small_images_are_refused_before_networks_are_built():
    cfg = toy_config(**{"augment.mode": "ada", "augment.pipe": "bgcf"})
    with pytest.raises(ValueError, match=r"augment\.pipe.*21.*8x8"):
        toy_state(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{"augment.mode": "fixed", "augment.p": 0.8}, {"augment.mode": "diffaug"}])
def test_compiled_losses_augment_as_eager_ones_do(keys):
    """Whole losses with their penalties, traced forward and backward."""
    cfg = toy_config(**keys | {"train.dtype": "float64", "train.total_kimg": 0.016})
    eager, traced = toy_state(cfg), toy_state(cfg)
    run(cfg, eager)
    with compiled.force_compile("aot_eager"):
        run(cfg, traced)
    assert largest_difference(eager.tensors(), traced.tensors()) < 1e-9
