"""Values without effect are named, and keys that the networks do not have are refused."""

import pytest

from stylegan_ray.config import ConfigError, load_config, preset_names
from stylegan_ray.train.checks import EFFECTIVE, OF_STYLEGAN2, RESUME_FROM, check_new, notes


class Images:
    num_images = 100


def noted(preset, keys, starts_from_others=False):
    return list(notes(load_config(preset, keys), Images(), starts_from_others))


GROWS = {"model.family": "revised", "schedule.lod_initial_resolution": 8}


@pytest.mark.parametrize(("key", "value", "without", "says", "with_"), [
    ("augment.p", 0.5, {}, "with augment.mode=noaug", {"augment.mode": "fixed"}),
    ("augment.pipe", "blit", {"augment.mode": "diffaug"}, "with augment.mode=diffaug", {"augment.mode": "ada"}),
    ("augment.policy", ("color",), {"augment.mode": "ada"}, "with augment.mode=ada", {"augment.mode": "diffaug"}),
    ("augment.target", 0.5, {"augment.mode": "diffaug"}, "with augment.mode=diffaug", {"augment.mode": "ada"}),
    ("augment.ada_kimg", 100, {}, "with augment.mode=noaug", {"augment.mode": "ada"}),
    ("model.D_mapping_layers", 2, {}, "with model.label_mode=joint", {"model.label_mode": "separate"}),
    ("model.cmap_dim", 8, {}, "with model.label_mode=joint", {"model.label_mode": "separate"}),
    ("model.mapping_embed", 8, {}, "with model.label_mode=joint", {"model.label_mode": "separate"}),
    ("loss.r1_gamma", 3, {"loss.D": "wgan_gp"}, "with loss.D=wgan_gp", {"loss.D": "logistic_r2"}),
    ("loss.wgan_epsilon", 0.1, {}, "with loss.D=logistic_r1", {"loss.D": "wgan"}),
    ("loss.wgan_lambda", 5, {"loss.D": "wgan"}, "with loss.D=wgan", {"loss.D": "wgan_gp"}),
    ("loss.wgan_target", 2, {"loss.D": "wgan"}, "with loss.D=wgan", {"loss.D": "wgan_gp"}),
    ("loss.pl_weight", 1, {"loss.G": "logistic"}, "with loss.G=logistic", {}),
    ("loss.pl_decay", 0.5, {"loss.G": "logistic_ns"}, "with loss.G=logistic_ns", {}),
    ("loss.pl_minibatch_shrink", 1, {"loss.G": "wgan"}, "with loss.G=wgan", {}),
    ("train.G_reg_interval", 2, {"train.lazy_regularization": False}, "with train.lazy_regularization=false", {}),
    ("train.D_reg_interval", 2, {"train.lazy_regularization": False}, "with train.lazy_regularization=false", {}),
    ("train.G_reg_interval", 2, {"loss.G": "logistic_ns"}, "with loss.G=logistic_ns", {}),
    ("train.D_reg_interval", 2, {"loss.D": "logistic"}, "with loss.D=logistic", {"loss.D": "wgan_gp"}),
    ("schedule.lod_training_kimg", 5, {}, "without schedule.lod_initial_resolution", GROWS),
    ("schedule.lod_transition_kimg", 5, {}, "without schedule.lod_initial_resolution", GROWS),
    ("metrics.all_images", True, {}, "without data.subset", {"data.subset": 5}),
    ("train.resume_kimg", 5, {}, "without --resume-from", None),
    ("train.resume_time", 5, {}, "without --resume-from", None),
    ("train.resume_with_new_nets", True, {}, "without --resume-from", None),
])  # fmt: skip
def test_a_value_without_effect_is_named_and_one_with_effect_is_not(key, value, without, says, with_):
    assert noted("config-f", {key: value, **without}) == [f"note: {key} has no effect {says}"]
    assert noted("config-f", {key: value, **(with_ or {})}, starts_from_others=with_ is None) == []
    assert (list(EFFECTIVE[key]) == [RESUME_FROM]) == (with_ is None)


@pytest.mark.parametrize("preset", preset_names())
def test_what_a_preset_says_is_not_named(preset):
    loss = {"loss.G": "logistic_ns", "loss.D": "logistic"}
    augment = {} if preset.startswith("config-") else {"augment.mode": "noaug"}
    assert noted(preset, {}) == noted(preset, {**loss, **augment, "train.lazy_regularization": False}) == []
    check_new(load_config(preset), False)


def test_what_a_preset_leaves_to_the_machine_is_not_named():
    cfg = load_config("auto", {"loss.G": "logistic_ns", "loss.pl_decay": 0.04, "loss.r1_gamma": 2})
    assert list(notes(cfg, Images(), False)) == []


@pytest.mark.parametrize(("family", "key", "value"), [
    ("revised", "G_architecture", "resnet"),
    ("revised", "D_architecture", "orig"),
    ("stylegan1", "G_architecture", "orig"),
    ("stylegan1", "D_architecture", "skip"),
    ("stylegan1", "resample_kernel", (1.0, 2.0, 1.0)),
    ("stylegan1", "conv_clamp", 256.0),
    ("stylegan1", "fused_modconv", "grouped"),
])  # fmt: skip
def test_a_new_run_is_refused_keys_that_its_networks_do_not_have(family, key, value):
    assert key in OF_STYLEGAN2[family]
    cfg = load_config("config-f", {"model.family": family, f"model.{key}": value})
    with pytest.raises(ConfigError, match=rf"model\.{key}=.*model\.family={family}; use model\.family=stylegan2, or"):
        check_new(cfg, True)
    check_new(load_config("config-f", {f"model.{key}": value}), True)
    assert load_config("config-f", cfg.flat()) == cfg, "networks and runs that have it are still read"


def test_the_architecture_that_revised_networks_have_may_be_given():
    check_new(load_config("config-b", {"model.D_architecture": "skip"}), True)
