"""Progressive growing in training: what is computed, when Adam is reset, and the laws through a transition."""

from contextlib import nullcontext

import pytest
import torch
from support.growing import PRESETS, growing_config, lods
from support.laws import largest_difference, run, trained_by, undisturbed
from support.toy import ToySet, toy_config, toy_minibatches, toy_state

from benchmarks.flops import ArithmeticCounter
from stylegan_ray.config import VARIANTS
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, newest_checkpoint, write_checkpoint
from stylegan_ray.train.loop import training_loop


def groups(cfg, state):
    """Trains group by group; yields the lod of each."""
    loop = training_loop(state, cfg, toy_minibatches(cfg, state.cur_nimg), ToySet(), interrupted=lambda: True)
    for _ in loop:
        yield state.prev_lod


def test_the_toy_goes_through_a_transition():
    assert lods(growing_config("config-a")) == pytest.approx([1, 26 / 30, 10 / 30, 0])


@pytest.mark.parametrize("preset", PRESETS)
def test_only_layers_in_use_are_computed_and_trained(preset):
    cfg = growing_config(preset)
    state = toy_state(cfg)
    used = set()
    for network in (state.G.synthesis, state.D):
        for name, block in network.named_children():
            for layer in block.children():
                layer.register_forward_hook(lambda module, *_, name=name: used.add(name))
    per_image, trained = {}, {}
    large = state.G.synthesis.b8.get_parameter("conv0.weight" if cfg.model.family == "revised" else "up.weight")
    before = large.detach().clone()
    loop, expected = groups(cfg, state), lods(cfg)
    for index, lod in enumerate(expected):
        nimg = state.cur_nimg
        # Counting takes four times as long as training: it is done once at each end.
        with ArithmeticCounter() if index in (0, len(expected) - 1) else nullcontext() as counter:
            assert next(loop) == pytest.approx(lod)
        assert used == ({"b4"} if lod == 1 else {"b4", "b8"}), lod
        if counter:
            per_image[lod] = counter.flops / (state.cur_nimg - nimg)
        trained[lod] = not torch.equal(large, before)
        used.clear()
    assert trained[1] is False and trained[0] is True
    assert per_image[1] < 0.45 * per_image[0], "the first resolution costs less than half of the last one"
    assert all(value.isfinite().all() for value in state.tensors().values())


@pytest.mark.parametrize("reset", [True, False])
def test_adam_is_reset_where_a_resolution_begins_to_fade_in_or_has_faded_in(reset):
    longer = {"schedule.lod_training_kimg": 0.04, "schedule.lod_transition_kimg": 0.056, "train.total_kimg": 0.144}
    cfg = growing_config("config-b", **longer, **{"train.reset_opt_for_new_lod": reset})
    assert lods(cfg) == pytest.approx([1, 1, 48 / 56, 32 / 56, 16 / 56, 0, 0, 0])
    state = toy_state(cfg)
    steps = [(lod, state.optimizers["D"].num_steps) for lod in groups(cfg, state)]
    per_group = cfg.schedule.minibatch_repeats
    if not reset:
        assert [num for _, num in steps] == [per_group * i for i in range(1, 9)]
        return
    # floor(lod) changes in the third group, ceil(lod) in the sixth.
    assert [num for _, num in steps] == [2, 4, 2, 4, 6, 2, 4, 6]
    counts = {value.item() for name, value in state.optimizers["D"].tensors().items() if name.startswith("step.")}
    assert counts == {6.0}


@pytest.mark.parametrize("preset", [pytest.param("config-a", marks=pytest.mark.slow), "config-d"])
def test_two_workers_train_the_same_run_through_a_transition(preset, tmp_path):
    """Minibatch and micro-batch change with the resolution: three micro-batches at 4x4, four at 8x8."""
    cfg = growing_config(preset, **{"train.dtype": "float64"})
    one, two = undisturbed(cfg), trained_by(2, tmp_path, cfg)
    assert [row["Progress/minibatch"] for row in one["rows"]][:: len(one["rows"]) - 1] == [12, 8]
    shift = "synthesis.b4.layer0.bias"  # instance normalization undoes it: its gradient is nothing but rounding
    shifts = [name for name in one["tensors"] if name.endswith(shift) and preset == "config-a"]
    assert all((one["tensors"][name] - two["tensors"][name]).abs().max() < 1e-9 for name in shifts)
    assert largest_difference({k: v for k, v in one["tensors"].items() if k not in shifts}, two["tensors"]) < 1e-9
    for ours, theirs in zip(one["rows"], two["rows"], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9) for key in ours)


@pytest.mark.parametrize(
    ("preset", "nimg"),
    [("config-d", 24), *(pytest.param(preset, 40, marks=pytest.mark.slow) for preset in PRESETS)],
    ids=lambda value: str(value),
)
def test_a_run_resumed_across_a_transition_equals_the_undisturbed_one(preset, nimg, tmp_path):
    """Stopped before the groups of the fade, the first of which begins at 24, or between them."""
    cfg = growing_config(preset, **{"schedule.tick_kimg": 0.001})
    straight, first, resumed = toy_state(cfg), toy_state(cfg), toy_state(cfg)
    rows = run(cfg, straight)
    before = run(cfg, first, pauses=1 if nimg == 24 else 2)
    assert first.cur_nimg == nimg
    write_checkpoint(Snapshot.of(first, cfg), Storage.at(tmp_path))
    newest_checkpoint(Storage.at(tmp_path)).restore(resumed)
    assert before + run(cfg, resumed) == rows
    unequal = [name for name, value in straight.tensors().items() if not torch.equal(value, resumed.tensors()[name])]
    assert unequal == []
    assert straight.counters() | {"elapsed_sec": 0} == resumed.counters() | {"elapsed_sec": 0}


def test_non_square_images_grow_too():
    keys = {"schedule.lod_initial_resolution": 6, "schedule.minibatch_size_dict": {6: 12}}
    cfg = growing_config("config-b", **keys, **{"schedule.minibatch_gpu_dict": {6: 4}})
    state = toy_state(cfg, (12, 8))
    rows = run(cfg, state, source=ToySet((12, 8)))
    assert rows[0]["Progress/lod"] == 1 and rows[0]["Progress/minibatch"] == 12
    assert rows[-1]["Progress/lod"] == 0 and rows[-1]["Progress/minibatch"] == 8
    assert all(value.isfinite().all() for value in state.tensors().values())


@pytest.mark.parametrize("preset", VARIANTS)
def test_every_variant_of_configuration_e_trains(preset):
    cfg = toy_config(preset, **{"train.total_kimg": 0.016})
    state = toy_state(cfg)
    rows = run(cfg, state)
    assert (state.D.architecture, cfg.loss.r1_gamma) == (cfg.model.D_architecture, 100)
    assert len(rows) == 1 and all(value.isfinite().all() for value in state.tensors().values())
