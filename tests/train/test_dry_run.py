"""What a dry run shows of growing runs."""

import pytest
from support.data_sets import noise_picture, numbered, write_folder

from stylegan_ray.cluster.run import complete_config
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.train.dry_run import describe

SMALL = {"model.fmap_max": 8, "model.z_dim": 8, "model.w_dim": 8, "model.mapping_fmaps": 8, "model.mapping_layers": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of square images."""
    return str(write_folder(tmp_path_factory.mktemp("square"), numbered(7)))


@pytest.mark.parametrize("preset", ["config-a", "config-b"])
def test_every_layer_of_a_growing_network_has_a_row(preset, data):
    text = describe(load_config(preset, SMALL | {"data.path": data}))
    rows = [line.split() for line in text.splitlines()]
    totals = [int(row[1].replace(",", "")) for row in rows if row[:1] == ["total"]]
    counted = [int(row[1].replace(",", "")) for row in rows if len(row) == 4 and row[1].replace(",", "").isdigit()]
    assert len(totals) == 2 and sum(totals) == sum(counted)
    names = [row[0] for row in rows if len(row) == 4]
    assert {"synthesis.b4.torgb", "synthesis.b8.torgb", "b4.fromrgb", "b8.fromrgb"} <= set(names)


def test_the_schedule_shows_where_the_resolution_changes(data):
    text = describe(load_config("config-a", SMALL | {"data.path": data}))
    rows = {row[0]: row for row in (line.split() for line in text.splitlines()) if len(row) == 9}
    assert rows["0"][1:5] == ["1.00", "8", "256", "32"]
    assert rows["600"][1:5] == ["1.00", "8", "256", "32"] and rows["1200"][1:5] == ["0.00", "16", "128", "16"]


@pytest.mark.parametrize(("keys", "says"), [
    ({"train.freeze_D": 99}, r"train\.freeze_D=99 must be at most 7"),
    ({"model.mbstd_num_features": 3}, r"mbstd_num_features=3 must divide"),
    ({"augment.mode": "ada", "augment.pipe": "bgcf"}, r"filter"),
    ({"train.grid_layout": "row_per_class"}, r"train\.grid_layout=row_per_class needs labels"),
])  # fmt: skip
def test_networks_that_cannot_be_built_are_refused(data, keys, says):
    cfg = load_config("config-f", SMALL | {"data.path": data} | keys)
    with pytest.raises(ConfigError, match=says):
        describe(cfg)
    with pytest.raises(ConfigError, match=says):
        complete_config(cfg)


def test_classes_and_values_without_effect_are_told(tmp_path):
    files = {f"{kind}/{i}.png": noise_picture(i, (16, 16)) for kind in ("cat", "dog") for i in range(2)}
    keys = SMALL | {"data.path": str(write_folder(tmp_path / "d", files)), "augment.p": 0.5}
    assert "2 classes (images): cat 2, dog 2" in describe(load_config("config-f", keys | {"data.cond": True}))
    text = describe(load_config("config-f", keys))
    assert "labels of size 2 are ignored" in text and "note: augment.p has no effect with augment.mode=noaug" in text


def test_layers_of_new_networks_are_not_frozen(data):
    with pytest.raises(ConfigError, match=r"train\.freeze_D=2.*--resume-from"):
        describe(load_config("config-f", SMALL | {"data.path": data, "train.freeze_D": 2}))


def test_growing_from_a_resolution_that_is_no_block_is_refused(tmp_path):
    path = str(write_folder(tmp_path, numbered(2, size=(24, 16))))
    with pytest.raises(ConfigError, match=r"lod_initial_resolution=8.*use 6 or 12 or 24"):
        describe(load_config("config-a", SMALL | {"data.path": path}))
