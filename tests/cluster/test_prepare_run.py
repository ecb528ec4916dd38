"""What the driver refuses before a worker starts."""

from copy import deepcopy

import pytest
from support.data_sets import numbered, write_folder

pytest.importorskip("ray")

from stylegan_ray.cluster.launch import prepare
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.interop import save_network
from stylegan_ray.networks import build_discriminator, build_generator

SMALL = {"z_dim": 4, "w_dim": 4, "mapping_fmaps": 4, "mapping_layers": 2, "fmap_max": 4}


@pytest.fixture
def configured(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    data = write_folder(tmp_path / "images", numbered(4))
    keys = {f"model.{key}": value for key, value in SMALL.items()}
    keys |= {"data.path": str(data), "run.storage": str(tmp_path / "runs"), "run.name": "run"}
    return lambda preset, **changes: load_config(preset, keys | changes)


@pytest.fixture
def networks(configured, tmp_path):
    """A network file of configuration F."""
    cfg = configured("config-f")
    G, D = build_generator(cfg.model, 16, 3, 0), build_discriminator(cfg.model, 16, 3, 0)
    path = tmp_path / "networks.safetensors"
    path.write_bytes(save_network(G, D, deepcopy(G), cfg, 1000))
    return str(path)


def test_an_impossible_first_resolution_is_refused(configured):
    assert prepare(configured("config-b")).dataset.resolution == (16, 16)
    with pytest.raises(ConfigError, match=r"schedule.lod_initial_resolution=32 .*use 4 or 8 or 16"):
        prepare(configured("config-b", **{"schedule.lod_initial_resolution": 32}))
    with pytest.raises(ConfigError, match=r"model\.family=stylegan2 do not grow"):
        prepare(configured("config-f", **{"schedule.lod_initial_resolution": 8}))


def test_networks_of_another_shape_are_refused(configured, networks):
    prepare(configured("config-f"), networks)
    wider = {"model.fmap_max": 5}
    with pytest.raises(ConfigError, match=r"\(1, 5, 4, 4\) here, \(1, 4, 4, 4\) there"):
        prepare(configured("config-f", **wider), networks)
    prepare(configured("config-f", **wider, **{"train.resume_with_new_nets": True}), networks)
    with pytest.raises(ConfigError, match="nowhere"):
        prepare(configured("config-f"), networks.replace("networks", "nowhere"))
