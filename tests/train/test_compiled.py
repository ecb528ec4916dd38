"""Compiled losses: the same numbers; without a compiler, one line in the log and the same run."""

import logging
import os

import pytest
import torch
from support.laws import largest_difference, run, trained_by, undisturbed
from support.toy import placed, toy_config, toy_state

from stylegan_ray.config import ConfigError
from stylegan_ray.train.compiled import Compiled, force_compile
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.step import accumulate, phases_of

DOUBLE = {"train.dtype": "float64"}
COMPILED = {"train.compile": True, **DOUBLE}


def test_a_penalty_is_compiled_whole_with_its_second_derivatives():
    cfg = toy_config(**DOUBLE, **{"model.fmap_max": 4})
    flats = []
    for compiled in (False, True):
        state = toy_state(cfg)
        phase = phases_of(cfg, "D", training_schedule(cfg, 0, 3))[1]
        for batch in placed(cfg, state)[:1]:
            if compiled:
                with force_compile("aot_eager"):
                    accumulate(phase, state, batch)
            else:
                accumulate(phase, state, batch)
        flats.append(state.gradients["D"].flat)
    assert flats[0].any()
    torch.testing.assert_close(flats[1], flats[0], rtol=1e-9, atol=1e-12)


def refuse(function, **options):
    """A compiler that cannot compile."""

    def program(*args):
        raise RuntimeError("no C++ compiler was found\nand much more")

    return program


def test_without_a_compiler_the_run_continues_and_logs_one_line(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", refuse)
    plain, compiled = (toy_config(**{"train.total_kimg": 0.032, "train.compile": value}) for value in (False, True))
    expected, state = toy_state(plain), toy_state(compiled)
    rows = run(plain, expected)
    with caplog.at_level(logging.WARNING, logger="stylegan_ray"):
        assert run(compiled, state) == rows
    assert largest_difference(expected.tensors(), state.tensors()) == 0
    assert len(state.compiled.reasons) == len(state.compiled.programs) > 1
    (record,) = caplog.records
    message = record.getMessage()
    assert "train.compile" in message and "no C++ compiler was found" in message and "\n" not in message


def test_each_program_of_a_loss_is_tried_before_it_is_used(monkeypatch, caplog):
    """In mode ada a loss gets parameters of augmentations once p has risen, which is another program."""

    def only_without(compute, **options):
        def program(networks, tensors):
            if any(name.startswith("augment") for name in tensors):
                raise RuntimeError("cannot compile this one")
            return compute(networks, tensors)

        return program

    monkeypatch.setattr(torch, "compile", only_without)
    keys = {"train.total_kimg": 0.048, "augment.mode": "ada", "augment.ada_kimg": 0.001, "augment.target": -1}
    expected, state = (toy_state(toy_config(**keys, **{"train.compile": value})) for value in (False, True))
    rows = run(toy_config(**keys), expected)
    assert rows[-1]["Progress/augment_p"] > 0
    with caplog.at_level(logging.WARNING, logger="stylegan_ray"):
        assert run(toy_config(**keys, **{"train.compile": True}), state) == rows
    assert 0 < len(state.compiled.reasons) < len(state.compiled.programs), "the others stay compiled"
    assert "cannot compile this one" in caplog.text


def test_forced_raises_where_a_loss_cannot_be_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", refuse)
    cfg = toy_config()
    with force_compile("aot_eager"), pytest.raises(RuntimeError, match="no C"):
        run(cfg, toy_state(cfg), pauses=1)
    assert len(run(cfg, toy_state(cfg), pauses=1)) == 1


def test_only_when_asked_and_never_while_networks_grow():
    assert not toy_config().train.compile
    with pytest.raises(ConfigError, match=r"train\.compile=true.*use train\.compile=false"):
        toy_config("config-d", **{"schedule.lod_initial_resolution": 4, "train.compile": True})


def test_a_restarted_worker_finds_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path))
    Compiled(wanted=False)
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    Compiled(wanted=True)
    assert os.environ.pop("TORCHINDUCTOR_CACHE_DIR") == str(tmp_path / "compiled")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_compiled_run_on_a_gpu_is_the_run():
    keys = {"train.total_kimg": 0.048, **DOUBLE}
    cfg, compiled = toy_config(**keys), toy_config(**keys, **{"train.compile": True})
    expected, state = toy_state(cfg, device="cuda"), toy_state(compiled, device="cuda")
    run(cfg, expected), run(compiled, state)
    assert not state.compiled.reasons and largest_difference(expected.tensors(), state.tensors()) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_run_is_the_run(backend):
    cfg = toy_config(**{"train.total_kimg": 0.048, **DOUBLE})
    expected, state = toy_state(cfg), toy_state(cfg)
    rows = run(cfg, expected)
    with force_compile(backend):
        found = run(cfg, state)
    for ours, theirs in zip(found, rows, strict=True):
        assert all(ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9) for key in theirs)
    assert largest_difference(expected.tensors(), state.tensors()) < 1e-9


@pytest.mark.slow
def test_compiled_on_two_workers_is_the_run_of_one(tmp_path):
    cfg = toy_config(**COMPILED, **{"train.total_kimg": 0.032})
    one = undisturbed(toy_config(**DOUBLE, **{"train.total_kimg": 0.032}))
    assert largest_difference(one["tensors"], trained_by(2, tmp_path, cfg)["tensors"]) < 1e-9
