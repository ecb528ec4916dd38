"""Compiling the training step: the same numbers, one line and no harm where there is no compiler."""

import logging

import pytest
import torch
from support.laws import largest_difference, run, trained_by, undisturbed
from support.toy import placed, toy_config, toy_state

from stylegan_ray.config import ConfigError
from stylegan_ray.train import compiled as compiled_module
from stylegan_ray.train.compiled import Programs
from stylegan_ray.train.stats import StopWatch
from stylegan_ray.train.step import Turn, phases_of

COMPILED = {"train.compile": True, "train.dtype": "float64"}


@pytest.fixture
def traced(monkeypatch):
    """Takes the whole way of compiling but for the last step, in which machine code is made."""
    monkeypatch.setattr(compiled_module, "BACKEND", "aot_eager")
    torch.compiler.reset()


def turn(cfg, number):
    """The gradients of a phase's micro-batches in the first iteration, and the state."""
    state = toy_state(cfg)
    phase = [phase for turns in phases_of(cfg) for phase in turns][number]
    Turn(phase, state, placed(cfg, state), StopWatch(state.device)).run()
    return state.gradients[phase.network].flat, state


def test_a_penalty_is_compiled_whole_with_its_second_derivatives(traced):
    whole = {"model.fmap_max": 4, "model.mbstd_group_size": 2}
    flats = [turn(toy_config(**whole, **keys), 3) for keys in ({"train.dtype": "float64"}, COMPILED)]
    torch.testing.assert_close(flats[1][0], flats[0][0], rtol=1e-9, atol=1e-12)
    assert flats[1][1].programs.ready and flats[1][1].programs.compiled


def test_without_a_compiler_the_run_goes_on_and_says_so_in_one_line(monkeypatch, caplog):
    def no_compiler(function, **options):
        def program(*args):
            raise RuntimeError("no C++ compiler was found\nand much more")

        return program

    monkeypatch.setattr(torch, "compile", no_compiler)
    plain, compiled = (toy_config(**{"train.total_kimg": 0.032, "train.compile": value}) for value in (False, True))
    expected, state = toy_state(plain), toy_state(compiled)
    rows = run(plain, expected)
    with caplog.at_level(logging.WARNING, logger="stylegan_ray"):
        assert run(compiled, state) == rows
    assert largest_difference(expected.tensors(), state.tensors()) == 0
    (record,) = caplog.records
    said = record.getMessage()
    assert "train.compile" in said and "no C++ compiler was found" in said and "\n" not in said


def test_only_when_asked_and_never_while_networks_grow():
    assert not toy_config().train.compile
    with pytest.raises(ConfigError, match="are not compiled"):
        toy_config("config-d", **{"schedule.lod_initial_resolution": 4, "train.compile": True})


def test_the_cache_lies_where_a_restarted_worker_finds_it(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path))
    Programs(compiled=False)
    assert "TORCHINDUCTOR_CACHE_DIR" not in compiled_module.os.environ
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    Programs(compiled=True)
    assert compiled_module.os.environ.pop("TORCHINDUCTOR_CACHE_DIR") == str(tmp_path / "compiled")


def test_a_recorded_program_is_tried_up_to_its_replay(monkeypatch):
    """That CUDA graphs are asked for, and that each call begins anew; what they do needs a GPU."""
    calls = []

    def compiler(function, options=None, **_):
        calls.append(options)
        return lambda *args: calls.append("call") or function(*args)

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: calls.append("begin"))
    cfg = toy_config(**COMPILED, **{"train.cuda_graphs": True})
    flat, state = turn(cfg, 3)
    assert state.programs.compiled and torch.equal(flat, turn(toy_config(**{"train.dtype": "float64"}), 3)[0])
    assert calls[:7] == [{"triton.cudagraphs": True}, *["begin", "call"] * 3]
    assert calls[7:] == ["begin", "call"] * ((len(calls) - 7) // 2) and len(calls) > 7
    with pytest.raises(ConfigError, match="only compiled code is recorded"):
        toy_config(**{"train.cuda_graphs": True})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_compiled_run_on_a_gpu_is_the_run(cuda_graphs):
    keys, gpu = {"train.total_kimg": 0.048, "train.dtype": "float64"}, "cuda"
    cfg, compiled = toy_config(**keys), toy_config(**keys, **{"train.compile": True, "train.cuda_graphs": cuda_graphs})
    expected, state = toy_state(cfg, device=gpu), toy_state(compiled, device=gpu)
    run(cfg, expected), run(compiled, state)
    assert len(state.programs.ready) == 4
    assert largest_difference(expected.tensors(), state.tensors()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_run_is_the_run(backend, monkeypatch):
    monkeypatch.setattr(compiled_module, "BACKEND", backend)
    cfg, compiled = (
        toy_config(**{"train.total_kimg": 0.048, **keys}) for keys in ({"train.dtype": "float64"}, COMPILED)
    )
    expected, state = toy_state(cfg), toy_state(compiled)
    rows = run(cfg, expected)
    for ours, theirs in zip(run(compiled, state), rows, strict=True):
        assert all(ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9) for key in theirs)
    assert len(state.programs.ready) == 4
    assert largest_difference(expected.tensors(), state.tensors()) < 1e-9


@pytest.mark.slow
def test_compiled_on_two_workers_is_the_run_of_one(tmp_path):
    cfg = toy_config(**COMPILED, **{"train.total_kimg": 0.032, "train.D_reals_first": True})
    one = undisturbed(toy_config(**{"train.dtype": "float64", "train.total_kimg": 0.032}))
    assert largest_difference(one["tensors"], trained_by(2, tmp_path, cfg)["tensors"]) < 1e-9
