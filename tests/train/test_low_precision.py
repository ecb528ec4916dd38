"""Training in low precision: finite, near the run in float32, D's penalties in full precision, resumable."""

import pytest
import torch
from support.laws import largest_difference, run
from support.toy import ToySet, placed, toy_config, toy_state

from stylegan_ray.distributed import prepare_process
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, newest_checkpoint, write_checkpoint
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.stats import StopWatch
from stylegan_ray.train.step import phases_of, run_phase

LOW = {"model.num_lowp_res": 2, "model.conv_clamp": 256.0}
SIZE = (16, 16)


def phases(**keys):
    """Means and gradients of each phase of the first iteration, each on a new state."""
    cfg = toy_config(**{"model.conv_clamp": 256.0, **keys})
    source, found = ToySet(SIZE), {}
    for phase in (phase for network in ("G", "D") for phase in phases_of(cfg, network, training_schedule(cfg, 0, 4))):
        state = toy_state(cfg, SIZE)
        means = run_phase(phase, state, placed(cfg, state, source), StopWatch(state.device))
        grads = state.gradients[phase.network]
        found[phase.part] = means, grads.flat[: grads.num_values].clone()
    return found


def test_gradients_are_near_and_the_penalty_of_D_is_exact():
    low, precise = phases(**LOW), phases()
    for part, most in {"G": 0.03, "G_reg": 0.1, "D": 0.03, "D_reg": 0.0}.items():
        (stats, grads), (precise_stats, precise_grads) = low[part], precise[part]
        error = (grads - precise_grads).norm() / precise_grads.norm()
        assert error <= most, (part, float(error))
        for name in stats:
            assert stats[name] == pytest.approx(float(precise_stats[name]), rel=0.05, abs=0.01), name


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_a_run_is_finite_and_resumes_bit_for_bit(dtype, tmp_path):
    cfg = toy_config(**LOW, **{"model.lowp_dtype": dtype, "train.total_kimg": 0.048})
    source, straight, resumed = ToySet(SIZE), toy_state(cfg, SIZE), toy_state(cfg, SIZE)
    rows = run(cfg, straight, source=source)
    assert sum(row["nonfinite"] for row in rows) == 0
    assert all(value.isfinite().all() for value in straight.tensors().values())
    first = toy_state(cfg, SIZE)
    run(cfg, first, pauses=1, source=source)
    write_checkpoint(Snapshot.of(first, cfg), Storage.at(tmp_path))
    newest_checkpoint(Storage.at(tmp_path)).restore(resumed)
    run(cfg, resumed, source=source)
    assert largest_difference(straight.tensors(), resumed.tensors()) == 0


@pytest.fixture
def backends():
    """The settings for TF32, restored afterwards."""
    found = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in found]
    yield found
    for backend, value in zip(found, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_what_the_key_says(allowed, backends):
    for backend in backends:
        backend.allow_tf32 = not allowed
    prepare_process(toy_config(**{"train.allow_tf32": allowed, "train.deterministic": False}), None)
    assert all(backend.allow_tf32 is allowed for backend in backends)
