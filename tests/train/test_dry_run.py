"""What a dry run says of growing runs."""

import pytest

from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.train import dry_run

SMALL = {"model.fmap_max": 8, "model.z_dim": 8, "model.w_dim": 8, "model.mapping_fmaps": 8}


@pytest.fixture
def data(monkeypatch):
    class Shape:
        path, num_images, resolution, num_channels, label_size = "somewhere", 7, (16, 16), 3, 0

    monkeypatch.setattr(dry_run, "open_dataset", lambda cfg, seed, progress: Shape())
    return Shape


@pytest.mark.parametrize("preset", ["config-a", "config-b"])
def test_every_layer_of_a_growing_network_has_a_row(preset, data):
    said = dry_run.describe(load_config(preset, SMALL))
    rows = [line.split() for line in said.splitlines()]
    totals = [int(row[1].replace(",", "")) for row in rows if row[:1] == ["total"]]
    counted = [int(row[1].replace(",", "")) for row in rows if len(row) == 4 and row[1].replace(",", "").isdigit()]
    assert len(totals) == 2 and sum(totals) == sum(counted)
    names = [row[0] for row in rows if len(row) == 4]
    assert {"synthesis.b4.torgb", "synthesis.b8.torgb", "b4.fromrgb", "b8.fromrgb"} <= set(names)


def test_the_schedule_shows_where_the_resolution_changes(data):
    said = dry_run.describe(load_config("config-a", SMALL))
    rows = {row[0]: row for row in (line.split() for line in said.splitlines()) if len(row) == 9}
    assert rows["0"][1:5] == ["1.00", "8", "256", "32"]
    assert rows["600"][1:5] == ["1.00", "8", "256", "32"] and rows["1200"][1:5] == ["0.00", "16", "128", "16"]


def test_growing_that_cannot_be_is_refused(data):
    data.resolution = (24, 16)
    with pytest.raises(ConfigError, match="lod_initial_resolution=8 must be"):
        dry_run.describe(load_config("config-a", SMALL))
