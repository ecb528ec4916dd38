"""Starting a run from the networks of another run."""

import pytest
import torch
from support.laws import run
from support.toy import CHANNELS, LABELS, RESOLUTION, toy_config, toy_state

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import save_network
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.train.resume import check_start, start_from


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A trained state, its configuration, its network file and its checkpoint."""
    folder = tmp_path_factory.mktemp("other")
    cfg = toy_config(**{"train.total_kimg": 0.032})
    state = toy_state(cfg)
    run(cfg, state)
    file = folder / "network.safetensors"
    file.write_bytes(save_network(state.G, state.D, state.G_ema, cfg, state.cur_nimg))
    name = write_checkpoint(Snapshot.of(state, cfg), Storage.at(folder))
    return state, str(file), str(folder / name)


def tensors(state, part):
    return getattr(state, part).state_dict()


def check(cfg, source):
    check_start(cfg, RESOLUTION, CHANNELS, LABELS, source)


@pytest.mark.parametrize("kind", ["network file", "checkpoint"])
def test_all_tensors_of_the_networks_are_copied(other, kind):
    theirs, file, checkpoint = other
    source = file if kind == "network file" else checkpoint
    cfg = toy_config(**{"run.seed": 5})
    state = toy_state(cfg)
    check(cfg, source)
    lines = start_from(state, cfg, source)
    for part in ("G", "D", "G_ema"):
        assert all(torch.equal(value, tensors(theirs, part)[name]) for name, value in tensors(state, part).items())
    counts = [len(tensors(theirs, part)) for part in ("G", "D", "G_ema")]
    assert lines == [f"{p}: copied {n} of {n} tensors" for p, n in zip(("G", "D", "G_ema"), counts, strict=True)]
    assert (state.cur_nimg, state.iteration, state.tick, state.elapsed_sec) == (theirs.cur_nimg, 0, 0, 0)


def test_cur_nimg_and_time_start_where_the_keys_say(other):
    cfg = toy_config(**{"train.resume_kimg": 0.1, "train.resume_time": 3600, "train.total_kimg": 0.132})
    state = toy_state(cfg)
    start_from(state, cfg, other[1])
    assert (state.cur_nimg, state.tick_start_nimg, state.elapsed_sec) == (100, 100, 3600)
    rows = run(cfg, state)
    assert [row["Progress/kimg"] for row in rows] == [0.116, 0.132] and state.elapsed_sec > 3600
    from_zero = toy_config(**{"train.resume_kimg": 0})
    state = toy_state(from_zero)
    start_from(state, from_zero, other[1])
    assert state.cur_nimg == 0


def test_other_networks_are_refused_with_the_differences(other):
    cfg = toy_config(**{"model.fmap_max": 5, "model.mapping_layers": 3})
    state = toy_state(cfg)
    before = {name: value.clone() for name, value in tensors(state, "G").items()}
    for attempt in (lambda: check(cfg, other[1]), lambda: start_from(state, cfg, other[1])):
        with pytest.raises(ConfigError) as error:
            attempt()
        text = str(error.value)
        assert "G.synthesis.b4.constant: (1, 5, 4, 4) here, (1, 6, 4, 4) there" in text or "more" in text
        assert "G.mapping.dense2.weight: (6, 6) here, absent there" in text
        assert "train.resume_with_new_nets=true" in text
    assert all(torch.equal(value, before[name]) for name, value in tensors(state, "G").items()), "nothing was copied"


def test_with_new_nets_what_matches_is_copied_and_the_rest_is_listed(other):
    theirs = other[0]
    cfg = toy_config(**{"run.seed": 5, "model.mapping_layers": 3, "model.D_architecture": "orig"})
    cfg = cfg.with_overrides({"train.resume_with_new_nets": True})
    state, untouched = toy_state(cfg), toy_state(cfg)
    check(cfg, other[1])
    lines = start_from(state, cfg, other[1])
    new = ["mapping.dense2.weight", "mapping.dense2.bias"]
    for name, value in tensors(state, "G").items():
        assert torch.equal(value, tensors(untouched if name in new else theirs, "G")[name]), name
    assert "  G.mapping.dense2.weight: (6, 6) here, absent there" in lines
    assert any(line.startswith("  D.b8.skip.weight: absent here") for line in lines)
    num = len(tensors(state, "G"))
    assert f"G: copied {num - 2} of {num} tensors, but not" in lines
    run(toy_config(**{**cfg.flat(), "train.total_kimg": 0.048}), state, pauses=1)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors"):
        check(toy_config(), str(tmp_path / "nowhere.safetensors"))
