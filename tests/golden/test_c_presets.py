"""The presets of configurations A to F against the settings that the original trains them with."""

import json
import re

import pytest

from stylegan_ray.config import VARIANTS, load_config, validated
from stylegan_ray.interop.tensorflow import model_config
from stylegan_ray.metrics.names import parse_metric

pytestmark = pytest.mark.golden

SCHED = {
    f"{key}_base": f"schedule.{key}" for key in ("G_lrate", "D_lrate", "minibatch_size", "minibatch_gpu", "tick_kimg")
}
LOSS = {
    "gamma": "r1_gamma",
    "pl_minibatch_shrink": "pl_minibatch_shrink",
    "pl_decay": "pl_decay",
    "pl_weight": "pl_weight",
}
LOSS |= {key: key for key in ("wgan_epsilon", "wgan_lambda", "wgan_target")}
D_KEYS = ("D_architecture", "mbstd_group_size", "mbstd_num_features")
NOT_OURS = ("tf_config",)
"""Settings of TensorFlow alone; its seed means other numbers here."""


@pytest.fixture
def configs(golden_folder):
    path = golden_folder / "c_schedule" / "schedule.json"
    assert path.is_file(), f"no golden file {path}"
    return json.loads(path.read_text())["configs"]


def settings(original: dict) -> dict:
    """Our dotted keys and their values for all that `training_loop` of the original is given."""
    keys = {}
    for name, value in original.items():
        if name in ("G_args", "D_args", "metric_arg_list", *NOT_OURS):
            continue
        if name == "sched_args":
            keys |= {SCHED.get(key, f"schedule.{key}"): _table(number) for key, number in value.items()}
        elif name == "grid_args":
            keys |= {f"train.grid_{key}": choice for key, choice in value.items()}
        elif name in ("G_opt_args", "D_opt_args"):
            keys |= {f"optim.{key}": number for key, number in value.items()}
        elif name in ("G_loss_args", "D_loss_args"):
            options = dict(value)
            keys[f"loss.{name[0]}"] = options.pop("func_name").rpartition(".")[2][2:]
            keys |= {f"loss.{LOSS[key]}": number for key, number in options.items()}
        else:
            keys["data.mirror_augment" if name == "mirror_augment" else f"train.{name}"] = value
    return keys


def _table(value):
    return {int(key): number for key, number in value.items()} if isinstance(value, dict) else value


def models(original: dict):
    """Our `model` sections for G and for D of the original."""
    for part in ("G_args", "D_args"):
        kwargs = dict(original[part])
        yield model_config(kwargs.pop("func_name").removeprefix("training."), kwargs)


def test_every_setting_of_every_configuration(configs):
    assert configs
    for name, original in configs.items():
        cfg = load_config(name)
        G, D = models(original)
        model = G.model_copy(update={key: getattr(D, key) for key in D_KEYS})
        assert cfg.model == model, name
        assert (D.family, D.fmap_base, D.fmap_max) == (G.family, G.fmap_base, G.fmap_max), name
        # What the original leaves out has its defaults, which are ours: so all sections agree, not only these keys.
        expected = validated({"run": {"preset": name}, "model": model.model_dump()}).with_overrides(settings(original))
        assert cfg == expected, name
        for metric in original.get("metric_arg_list", ()):
            assert parse_metric(metric["name"]).num_gen == metric["num_images"]


@pytest.mark.parametrize("name", VARIANTS)
def test_configuration_e_with_other_architectures(name):
    G, D = re.fullmatch(r"config-e-G(\w+)-D(\w+)", name).groups()
    changed = {"run.preset": name, "model.G_architecture": G, "model.D_architecture": D}
    assert load_config(name) == load_config("config-e").with_overrides(changed)
