"""What may change from version to version: run names stay, deleted keys are dropped or refused."""

import pytest
import yaml

from stylegan_ray import config
from stylegan_ray.config import ConfigError, DeletedKey, RunConfig, load_config, preset_names, validated
from stylegan_ray.options import train_options

DIGESTS = {
    "config-a": "88adc26d",
    "config-b": "491f0a39",
    "config-c": "37b047d7",
    "config-d": "031cda41",
    "config-e": "54295103",
    "config-e-Gorig-Dorig": "ee2a7baf",
    "config-e-Gorig-Dresnet": "04307d9c",
    "config-e-Gorig-Dskip": "37d7fcfc",
    "config-e-Gresnet-Dorig": "c19676fe",
    "config-e-Gresnet-Dresnet": "b638ab38",
    "config-e-Gresnet-Dskip": "6cdd072b",
    "config-e-Gskip-Dorig": "fcd650d3",
    "config-e-Gskip-Dresnet": "54295103",
    "config-e-Gskip-Dskip": "7310a01c",
    "config-f": "b2b986a0",
}
"""Digests that version 0.1 (commit 018a58d) computed. A key that was added since belongs in config.ADDED_KEYS."""
DIGESTS_SINCE = {
    "auto": "6bbe213d",
    "cifar": "f11a297d",
    "paper1024": "c23af56c",
    "paper256": "0cda372b",
    "paper512": "def66cc1",
    "stylegan2": "8633c355",
    "tiny": "4f0ba9fb",
}
"""Of presets added or changed since."""

GONE = config.DELETED_KEYS | {
    "train.old_switch": DeletedKey(False, "leave it out: the faster way is always used"),
    "cluster.old_gb": DeletedKey(4.0, "set another_gb"),
}


@pytest.mark.parametrize("preset", preset_names())
def test_the_name_of_a_preset_stays(preset):
    assert load_config(preset).digest() == (DIGESTS | DIGESTS_SINCE)[preset]


@pytest.mark.parametrize(
    ("preset", "overrides", "digest"),
    [
        ("tiny", {"loss.r1_gamma": 5}, "797ab2d1"),
        ("tiny", {"run.seed": 1}, "9f4a5063"),
        ("config-f", {"data.path": "/data/ffhq.zip", "data.resolution": 1024, "cluster.num_workers": 8}, "b01560d5"),
        ("config-e", {"schedule.G_lrate_dict": {128: 0.0015}, "train.grid_size": (5, 4)}, "2662ec30"),
        ("config-f", {"data.mirror_augment": True, "train.lazy_regularization": False}, "4d067322"),
        ("config-f", {"train.total_kimg": 1, "metrics.names": ("fid5k",), "cluster.read_ahead": 7}, "b2b986a0"),
    ],
)
def test_the_name_of_a_changed_preset_stays(preset, overrides, digest):
    assert load_config(preset, overrides).digest() == digest


def test_an_added_key_changes_the_name_only_away_from_its_default():
    default, changed, other = (load_config("config-f", {"loss.wgan_lambda": value}) for value in (10, 20, 30))
    added = config.ADDED_KEYS | {"loss.wgan_lambda"}
    without = default.digest(added=added)
    assert without != default.digest(), "left out of the digest at its default"
    assert changed.digest(added=added) == changed.digest()
    assert len({without, changed.digest(), other.digest()}) == 3


def test_a_deleted_key_stays_in_the_name_at_its_former_default():
    """A version without the key computes what a version with it computed."""
    cfg = load_config("config-f")
    before = cfg.digest(deleted=config.DELETED_KEYS | {"train.old_switch": GONE["train.old_switch"]})
    assert before == cfg.digest(deleted=GONE), "cluster.* is in no name"
    assert before != cfg.digest()
    assert cfg.digest(deleted=config.DELETED_KEYS | {"loss.r1_gamma": DeletedKey(3, "")}) == cfg.digest(), (
        "a key that exists has its value"
    )


@pytest.mark.parametrize(
    "key", ["report.tensorboard", "report.any", "train.stop_when", "metrics.names", "cluster.num_workers", "run.name"]
)
def test_keys_that_may_differ_on_resume_are_in_no_name(key):
    assert config.may_differ_on_resume(key)
    assert load_config("tiny").digest(deleted=config.DELETED_KEYS | {key: DeletedKey(7, "")}) == DIGESTS_SINCE["tiny"]


@pytest.mark.parametrize("key", ["run.seed", "loss.r1_gamma", "data.path", "train.G_reg_interval", "train.dtype"])
def test_other_keys_are_in_the_name(key):
    assert not config.may_differ_on_resume(key)


def saved_by_an_earlier_version(**gone):
    """config.yaml with all keys of today and deleted ones."""
    tree = load_config("tiny").model_dump(mode="json")
    for key, value in gone.items():
        section, name = key.split("__")
        tree[section][name] = value
    return yaml.safe_load(yaml.safe_dump(tree))


def test_a_saved_file_with_deleted_keys_at_their_default_is_read():
    saved = saved_by_an_earlier_version(train__old_switch=False, cluster__old_gb=4)
    assert validated(saved, GONE) == load_config("tiny")
    assert saved["train"]["old_switch"] is False, "the caller's mapping is not changed"


def test_a_saved_file_with_another_value_of_a_deleted_key_is_refused():
    with pytest.raises(ConfigError, match=r"train\.old_switch=True.*deleted.*False.*leave it out"):
        validated(saved_by_an_earlier_version(train__old_switch=True), GONE)


def test_a_deleted_key_that_may_differ_on_resume_is_dropped_whatever_its_value():
    """Else a run that had set it could not continue."""
    assert validated(saved_by_an_earlier_version(cluster__old_gb=0), GONE) == load_config("tiny")


def test_the_configuration_of_an_earlier_run_serves_as_a_preset(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(saved_by_an_earlier_version(train__old_switch=False)))
    assert load_config(str(path), {}, GONE) == load_config("tiny")


@pytest.mark.parametrize("text", ["train: {old_switch: false}", "train.old_switch: false", "train: {old_switch: true}"])
def test_a_preset_file_with_a_deleted_key_is_refused(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"train\.old_switch.*leave it out: the faster way is always used"):
        load_config(str(path), {}, GONE)


@pytest.mark.parametrize(
    "words", ["--train.old_switch", "--train.old-switch=false", "--train.no_old_switch", "--train.old_switch false"]
)
def test_a_deleted_key_on_the_command_line_is_refused(words):
    with pytest.raises(ConfigError, match=r"train\.old_switch.*leave it out: the faster way is always used"):
        train_options(["tiny", *words.split()], deleted=GONE)
    with pytest.raises(ConfigError, match=r"train\.old_switch.*leave it out"):
        load_config("tiny", {"train.old_switch": False}, GONE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("loss: {r1_gamma: [", "line 1, column 19: expected the node content"),
        ("- loss", "mapping"),
        ("1.5: 3", "unknown key '1.5'"),
        ("r1_gamma: 3", r"unknown key 'r1_gamma'; did you mean 'loss\.r1_gamma'"),
        ("loss: {r1_gamma: 0,5}", "unknown key 'loss.5'; a number is written with a point"),
        ("data: {resolution: 32x64}", r"data\.resolution='32x64': .*height and width.*--data\.resolution 32 64"),
        ("loss.r1_gama: 3", r"loss\.r1_gamma"),
        ("los: {r1_gamma: 3}", "'loss'"),
        ("loss: {r1_gama: 3}", r"loss\.r1_gamma"),
        ("loss: {r1_gamma: much}", r"loss\.r1_gamma='much'.*default: 10"),
        ("loss: 3", "loss=3"),
    ],
)
def test_mistakes_in_a_preset_file_are_named(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(str(path))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"schedule.minibatch_gpu": 6, "schedule.minibatch_size": 12}, r"minibatch_gpu=6 must be a multiple.*use 4"),
        (
            {"schedule.minibatch_gpu_dict": {16: 10}, "schedule.minibatch_size_dict": {16: 20}},
            r"minibatch_gpu_dict\[16\]",
        ),
        ({"train.drange_net": (0, 1), "augment.mode": "diffaug"}, r"augment\.mode=diffaug.*between -1 and 1"),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        load_config("config-f", keys)
    load_config("config-f", {"schedule.minibatch_gpu": 3, "schedule.minibatch_size": 12})


def test_deleted_and_added_keys_are_what_they_say():
    keys = set(config.known_keys())
    assert keys.isdisjoint(config.DELETED_KEYS) and keys >= config.ADDED_KEYS
    assert all(gone.instead for gone in config.DELETED_KEYS.values())
    assert not any(config.may_differ_on_resume(key) for key in config.ADDED_KEYS), "these need no entry"


def test_every_key_has_a_description():
    for section, field in RunConfig.model_fields.items():
        for name, key in field.annotation.model_fields.items():
            assert key.description, f"{section}.{name}"


def test_errors_are_of_bounded_length(tmp_path):
    (tmp_path / "p.yaml").write_text("model:\n" + "".join(f"  k{i}: 1\n" for i in range(5000)))
    with pytest.raises(ConfigError) as error:
        load_config(str(tmp_path / "p.yaml"))
    assert len(str(error.value).splitlines()) == 21 and "and 4980 more" in str(error.value)


def test_an_empty_path_is_refused():
    """As of a shell variable that is not set; it would be the current folder."""
    with pytest.raises(ConfigError, match=r"data\.path=''"):
        load_config("tiny", {"data.path": ""})
