"""Which networks a word means."""

import pytest
import torch
import yaml

from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.interop import save_network
from stylegan_ray.interop.source import load, locate
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.train.state import TrainState

CFG = load_config("tiny", {"model.fmap_max": 4, "model.w_dim": 4, "model.mapping_fmaps": 4, "data.resolution": 8})


@pytest.fixture(scope="module")
def state():
    return TrainState.create(CFG, 8, 3, 0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder that can be filled with networks of some moments, told apart by their w_avg."""
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path))
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CFG.to_yaml())
    return folder


def add(run, state, name, nimg):
    """Writes networks of a moment as a checkpoint or a file."""
    state.cur_nimg = nimg
    state.G_ema.w_avg.fill_(nimg)
    if name == "checkpoint":
        write_checkpoint(Snapshot.of(state, CFG), Storage.at(run / "checkpoints"))
    else:
        (run / name).write_bytes(save_network(state.G, state.D, state.G_ema, CFG, nimg))


def moment(checkpoint):
    return int(load(str(checkpoint)).G_ema.w_avg[0])


def test_the_newest_networks_of_a_run(run, state):
    add(run, state, "network-snapshot-000000.250.safetensors", 250)
    assert moment(run) == 250
    add(run, state, "checkpoint", 8000)
    assert moment(run) == 8000
    add(run, state, "network-final.safetensors", 12_000)
    assert moment(run) == 12_000
    add(run, state, "network-snapshot-000020.safetensors", 20_000)
    assert moment(run) == 20_000, "a run that was continued is newer than its former end"
    assert moment("my-run") == 20_000, "a run by its name"


def test_a_network_file_before_a_checkpoint_of_the_same_moment(run, state):
    add(run, state, "checkpoint", 12_000)
    add(run, state, "network-final.safetensors", 12_000)
    assert locate(str(run)).endswith("network-final.safetensors")


def test_one_checkpoint_and_one_file(run, state):
    for nimg in (4000, 8000):
        add(run, state, "checkpoint", nimg)
    add(run, state, "network-final.safetensors", 9000)
    assert moment(run / "checkpoints" / "ckpt-000000004000") == 4000
    assert moment(run / "network-final.safetensors") == 9000


def test_incomplete_checkpoints_do_not_count(run, state):
    for nimg in (4000, 8000):
        add(run, state, "checkpoint", nimg)
    broken = run / "checkpoints" / "ckpt-000000008000"
    (broken / "COMPLETE").unlink()
    assert moment(run) == 4000
    with pytest.raises(ConfigError, match="not complete"):
        load(str(broken))


def test_mistakes_name_a_way_out(run, state, tmp_path):
    with pytest.raises(ConfigError, match="no networks yet"):
        load(str(run))
    with pytest.raises(ConfigError, match="did you mean 'my-run'"):
        load("my-rum")
    with pytest.raises(ConfigError, match=r"gone\.safetensors"):
        load(str(tmp_path / "gone.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"bad\.safetensors"):
        load(str(tmp_path / "bad.safetensors"))


def test_configuration_comes_with_the_networks(run, state):
    add(run, state, "checkpoint", 4000)
    networks = load(str(run))
    assert networks.config == CFG == load_config("tiny", {**{k: v for k, v in flat(run).items() if v is not None}})
    z = torch.zeros(1, networks.G_ema.z_dim)
    assert networks.G_ema(z).shape == (1, 3, 8, 8)


def flat(run):
    return {
        f"{s}.{k}": v
        for s, values in yaml.safe_load((run / "config.yaml").read_text()).items()
        for k, v in values.items()
    }
