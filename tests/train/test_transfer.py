"""Starting a run from the networks of another run."""

from copy import deepcopy

import pytest
import torch
from support.laws import run
from support.toy import CHANNELS, LABELS, RESOLUTION, toy_config, toy_state

from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.interop import save_network
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.transfer import check_start, start_from


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
    return check_start(cfg, RESOLUTION, CHANNELS, LABELS, source)


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


def test_another_model_is_refused_with_the_keys_that_differ(other):
    cfg = toy_config(**{"model.fmap_max": 5, "model.mapping_layers": 3})
    with pytest.raises(ConfigError) as error:
        check(cfg, other[1])
    text = str(error.value)
    assert "model.fmap_max=6 (here 5)" in text and "model.mapping_layers=2 (here 3)" in text
    assert other[1] in text and "train.resume_with_new_nets=true" in text


def test_the_error_names_the_preset_that_the_networks_are_of(tmp_path):
    cfg = load_config("tiny")
    G, D = build_generator(cfg.model, 32, 3, 0), build_discriminator(cfg.model, 32, 3, 0)
    file = tmp_path / "network.safetensors"
    file.write_bytes(save_network(G, D, deepcopy(G), cfg, 0))
    for size, preset in ((32, "cifar"), (64, "config-f")):
        with pytest.raises(ConfigError, match=r"model\.z_dim=128 \(here 512\).*use preset tiny"):
            check_start(load_config(preset), size, 3, 0, str(file))


def test_keys_that_the_preset_chose_for_other_images_are_named(tmp_path):
    """`auto` makes wider networks for 512 pixels than those of 256 pixels that it starts from."""
    cfg = load_config("auto", {"model.fmap_base": 8192})
    small = {"model.fmap_max": 8, "model.z_dim": 8, "model.w_dim": 8, "model.mapping_fmaps": 8}
    source = cfg.with_overrides({**small, "model.fmap_base": 32})
    G, D = build_generator(source.model, 16, 3, 0), build_discriminator(source.model, 16, 3, 0)
    file = tmp_path / "network.safetensors"
    file.write_bytes(save_network(G, D, deepcopy(G), source, 0))
    with pytest.raises(ConfigError, match=r"model\.fmap_base=32 \(here 64\); give those values \(--model\.KEY VALUE\)"):
        check_start(cfg.with_overrides({**small, "model.fmap_base": 64}), 32, 3, 0, str(file))


def test_layers_that_are_not_copied_are_not_frozen(other):
    cfg = toy_config(**{"train.freeze_D": 2, "train.total_kimg": 1})
    check(cfg, other[1])
    with pytest.raises(ConfigError, match=r"train\.freeze_D=2: D\.b16\.fromrgb\..*--train\.freeze_D 0"):
        check_start(cfg, 2 * RESOLUTION, CHANNELS, LABELS, other[1])


def test_with_new_nets_what_matches_is_copied_and_the_rest_is_listed(other):
    theirs = other[0]
    cfg = toy_config(**{"run.seed": 5, "model.mapping_layers": 3, "model.D_architecture": "orig"})
    cfg = cfg.with_overrides({"train.resume_with_new_nets": True, "train.total_kimg": 1})
    state, untouched = toy_state(cfg), toy_state(cfg)
    table = check(cfg, other[1])
    lines = start_from(state, cfg, other[1])
    new = ["mapping.dense2.weight", "mapping.dense2.bias"]
    for name, value in tensors(state, "G").items():
        assert torch.equal(value, tensors(untouched if name in new else theirs, "G")[name]), name
    (mapping,) = [line for line in table.splitlines() if line.startswith("G.mapping ")]
    assert "5 of 7" in mapping and "dense2.weight (new)" in mapping and "keys of model" in mapping
    (block,) = [line for line in table.splitlines() if line.startswith("D.b8 ")]
    assert "skip.weight (not here)" in block
    num = len(tensors(state, "G"))
    assert f"G: copied {num - 2} of {num} tensors" in lines


def test_a_run_starts_from_networks_of_another_resolution_and_other_labels(other):
    """The blocks of both resolutions are copied; the layers that see labels and the new resolution are new."""
    theirs = other[0]
    cfg = toy_config(**{"run.seed": 5, "train.total_kimg": 1})
    here, there = 2 * RESOLUTION, RESOLUTION
    table = check_start(cfg, here, CHANNELS, LABELS + 2, other[1])
    state = TrainState.create(cfg, here, CHANNELS, LABELS + 2)
    before = {name: value.clone() for name, value in tensors(state, "G").items()}
    start_from(state, cfg, other[1])
    for name, value in tensors(state, "G").items():
        source = tensors(theirs, "G").get(name)
        copied = source is not None and source.shape == value.shape
        assert torch.equal(value, source if copied else before[name]), name
        if name.startswith("synthesis."):
            assert copied != name.startswith(f"synthesis.b{here}."), name
    rows = {line.split()[0]: line for line in table.splitlines()}
    size = f"resolution {here}x{here} here, {there}x{there} there"
    assert size in rows[f"G.synthesis.b{here}"] and size in rows[f"D.b{here}"] and "0 of" in rows[f"D.b{here}"]
    assert f"label size {LABELS + 2} here, {LABELS} there" in rows["G.mapping"]
    num = len([name for name in tensors(state, "G") if name.startswith(f"synthesis.b{there}.")])
    assert rows[f"G.synthesis.b{there}"].split()[1:] == [str(num), "of", str(num)]


def test_a_run_that_would_end_where_it_starts_is_refused(other):
    cfg = toy_config(**{"train.total_kimg": other[0].cur_nimg / 1000})
    with pytest.raises(ConfigError, match=r"train\.total_kimg=0\.032.*--train\.resume_kimg 0"):
        check(cfg, other[1])
    check(cfg.with_overrides({"train.resume_kimg": 0}), other[1])


def test_the_p_of_the_source_is_shown(tmp_path, other):
    theirs = other[0]
    cfg = toy_config(**{"augment.mode": "ada", "train.total_kimg": 1})
    file = tmp_path / "network.safetensors"
    file.write_bytes(save_network(theirs.G, theirs.D, theirs.G_ema, cfg, 0, augment_p=0.25))
    assert "augment_p 0.25; --augment.p 0.25" in check(cfg, str(file))
    assert "augment_p" not in check(cfg, other[1])
    file.write_bytes(save_network(theirs.G, theirs.D, theirs.G_ema, cfg, 0, augment_p=1.024))
    assert "augment_p 1.02; --augment.p 1 continues" in check(cfg, str(file)), "StyleGAN2-ADA's has no upper bound"


def test_keys_of_training_are_named_where_they_remove_a_layer(other):
    with pytest.raises(ConfigError, match=r"model\.mbstd_group_size=2 \(here 1\)"):
        check(toy_config(**{"model.mbstd_group_size": 1, "train.total_kimg": 1}), other[1])


def test_no_warning_of_keys_that_change_nothing(tmp_path):
    keys = {"model.fmap_base": 64, "model.fmap_max": 4, "train.total_kimg": 1}
    cfg = toy_config(**keys)
    state = TrainState.create(cfg, RESOLUTION, CHANNELS, 0)
    file = tmp_path / "network.safetensors"
    file.write_bytes(save_network(state.G, state.D, state.G_ema, cfg, 0))
    alike = cfg.with_overrides({"model.fmap_base": 128, "model.label_mode": "separate"})
    assert "warning:" not in check_start(alike, RESOLUTION, CHANNELS, 0, str(file))
    other = cfg.with_overrides({"model.resample_kernel": [1, 2, 1]})
    assert "warning: it was made with model.resample_kernel" in check_start(other, RESOLUTION, CHANNELS, 0, str(file))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.safetensors"):
        check(toy_config(), str(tmp_path / "nowhere.safetensors"))
