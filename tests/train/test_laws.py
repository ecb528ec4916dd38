"""The laws of the training loop: any number of workers, any cut into micro-batches, any restart trains the same run."""

import copy

import pytest
import torch
from support.laws import largest_difference, run, trained_by, undisturbed
from support.toy import ToySet, toy_config, toy_minibatches, toy_state

from stylegan_ray.rng import SeededDraws
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, newest_checkpoint, write_checkpoint
from stylegan_ray.train.loop import training_loop
from stylegan_ray.train.step import train_iteration


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_workers_trains_the_same_run(tmp_path, world_size):
    """24 iterations in float64, four micro-batches a minibatch: three workers do not divide them."""
    cfg = toy_config(**{"train.dtype": "float64"})
    one, other = undisturbed(cfg), trained_by(world_size, tmp_path, cfg)
    assert len(one["rows"]) > 3
    assert largest_difference(one["tensors"], other["tensors"]) < 1e-9
    for ours, theirs in zip(one["rows"], other["rows"], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9) for key in ours)


@pytest.mark.slow
def test_float32_differs_by_rounding_that_training_amplifies(tmp_path, record_property):
    cfg = toy_config()
    one, two = undisturbed(cfg), trained_by(2, tmp_path, cfg)
    difference = largest_difference(one["tensors"], two["tensors"], ("G.", "D.", "G_ema."))
    record_property("float32_difference", difference)
    print(f"float32, 24 iterations, 1 against 2 workers: largest relative difference {difference:.1e}")
    assert 0 < difference < 0.2


def test_the_cut_into_micro_batches_is_part_of_the_run():
    """Minibatch-std groups and mixing belong to the micro-batch, so another minibatch_gpu is another run."""
    states = []
    for minibatch_gpu in (2, 4):
        cfg = toy_config(**{"train.dtype": "float64", "schedule.minibatch_gpu": minibatch_gpu})
        states.append(toy_state(cfg))
        run(cfg, states[-1], pauses=1)
    assert largest_difference(states[0].tensors(), states[1].tensors()) > 1e-6


def test_gradients_are_averaged_over_slices():
    """Without what binds a micro-batch together, the same minibatch in one slice or four has the same gradient."""
    plain = {
        "train.dtype": "float64", "model.mbstd_group_size": 0, "model.style_mixing_prob": 0.0,
        "loss.pl_minibatch_shrink": 1, "loss.G": "logistic_ns",
    }  # fmt: skip
    states = []
    for minibatch_gpu in (2, 8):
        cfg = toy_config(**plain, **{"schedule.minibatch_gpu": minibatch_gpu, "model.use_noise": False})
        state = toy_state(cfg)
        train_iteration(state, cfg, next(toy_minibatches(cfg)), SeededDraws(0, 0, ToySet()))
        states.append(state)
    assert largest_difference(states[0].tensors(), states[1].tensors()) < 1e-9


def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(tmp_path):
    cfg = toy_config(**{"train.total_kimg": 0.096})
    straight = toy_state(cfg)
    rows = run(cfg, straight)

    checkpoints = Storage.at(tmp_path)
    first, resumed = toy_state(cfg), toy_state(cfg)
    rows_before = run(cfg, first, pauses=2)
    write_checkpoint(Snapshot.of(first, cfg), checkpoints)
    run(cfg, first, pauses=1)  # lost in the crash
    newest_checkpoint(checkpoints).restore(resumed)
    rows_after = run(cfg, resumed)

    assert rows_before + rows_after == rows
    assert len(rows_after) > 1
    for name, value in straight.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
    assert straight.counters() | {"elapsed_sec": 0} == resumed.counters() | {"elapsed_sec": 0}


def test_a_checkpoint_inside_a_tick_changes_no_row(tmp_path):
    cfg = toy_config(**{"schedule.tick_kimg": 0.064, "train.total_kimg": 0.096})
    rows = run(cfg, toy_state(cfg))
    state, resumed, after = toy_state(cfg), toy_state(cfg), []
    loop = training_loop(state, cfg, toy_minibatches(cfg), ToySet(), interrupted=lambda: state.cur_nimg == 48)
    for pause in loop:
        if pause.stats is None:
            Snapshot.of(state, cfg).restore(resumed)
            break
        after.append({k: v for k, v in pause.stats.items() if not k.startswith(("Timing/", "Resources/"))})
    assert resumed.cur_nimg == 48
    assert after + run(cfg, resumed) == rows


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_counted():
    cfg = toy_config(**{"train.G_reg_interval": 4})
    state = toy_state(cfg)
    run(cfg, state, pauses=1)
    before = copy.deepcopy(state.tensors())
    micro_batches = next(toy_minibatches(cfg, state.cur_nimg))
    with torch.no_grad():
        next(state.D.parameters()).view(-1)[0] = float("nan")
    train_iteration(state, cfg, micro_batches, SeededDraws(0, 0, ToySet()))
    assert state.nonfinite.item() >= 2
    for name, value in state.G.state_dict().items():
        assert torch.equal(value, before[f"G.{name}"]), name
    assert torch.equal(state.pl_mean, before["pl_mean"])
    assert all(value.isfinite().all() for value in state.G_ema.state_dict().values())


def test_on_nonfinite_error_stops():
    cfg = toy_config(**{"train.on_nonfinite": "error"})
    state = toy_state(cfg)
    with torch.no_grad():
        next(state.G.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"nimg 0.*on_nonfinite=error.*on_nonfinite=skip"):
        train_iteration(state, cfg, next(toy_minibatches(cfg)), SeededDraws(0, 0, ToySet()))
