"""The network of a run is that of the largest cur_nimg among its complete checkpoints, snapshots and the final network.

At a tie it is the network file; it is never best-*. `generate RUN` and `load_network(RUN)` agree.
"""

import json

import pytest
import safetensors.torch

from stylegan_ray.config import load_config
from stylegan_ray.interop import load_network, save_network
from stylegan_ray.interop.loading import load, locate
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.train.state import TrainState

CFG = load_config("tiny", {"model.fmap_max": 4, "model.w_dim": 4, "model.mapping_fmaps": 4, "data.resolution": 8})
FINAL, BEST = "network-final.safetensors", "best-fid5k_tiny.safetensors"


@pytest.fixture(scope="module")
def state():
    return TrainState.create(CFG, 8, 3, 0)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text(CFG.to_yaml())
    return tmp_path


def add(run, state, name, nimg, complete=True):
    """Stores networks that are told apart by their w_avg, which is nimg."""
    state.cur_nimg = nimg
    state.G_ema.w_avg.fill_(nimg)
    if name != "checkpoint":
        (run / name).write_bytes(save_network(state.G, state.D, state.G_ema, CFG, nimg))
        return
    stored = write_checkpoint(Snapshot.of(state, CFG), Storage.at(run / "checkpoints"))
    if not complete:
        (run / "checkpoints" / stored / "COMPLETE").unlink()


def snapshot(kimg):
    return f"network-snapshot-{kimg:06d}.safetensors"


CASES = {
    "a final network": ({FINAL: 12_000, snapshot(10): 10_000, "checkpoint": 11_000}, 12_000),
    "a checkpoint ahead of snapshots": ({snapshot(10): 10_000, "checkpoint": 11_000}, 11_000),
    "a snapshot ahead of checkpoints": ({snapshot(12): 12_000, "checkpoint": 11_000}, 12_000),
    "a continued run: checkpoint": ({FINAL: 12_000, "checkpoint": 16_000}, 16_000),
    "a continued run: snapshot": ({FINAL: 12_000, snapshot(20): 20_000, "checkpoint": 16_000}, 20_000),
    "a fraction of a kimg": ({"network-snapshot-000000.500.safetensors": 500, snapshot(0): 0}, 500),
    "a best network that is newer": ({snapshot(10): 10_000, BEST: 20_000}, 10_000),
}


@pytest.mark.parametrize(("stored", "newest"), CASES.values(), ids=CASES.keys())
def test_the_newest_network(run, state, stored, newest):
    for name, nimg in stored.items():
        add(run, state, name, nimg)
    assert int(load(str(run)).G_ema.w_avg[0]) == newest, "generate RUN"
    assert int(load_network(run)["G_ema"].w_avg[0]) == newest, "load_network(RUN)"


def test_of_several_checkpoints_the_newest_complete_one(run, state):
    for nimg, complete in ((4000, True), (8000, True), (9000, False)):
        add(run, state, "checkpoint", nimg, complete)
    assert int(load(str(run)).G_ema.w_avg[0]) == 8000
    assert int(load_network(run)["G_ema"].w_avg[0]) == 8000


@pytest.mark.parametrize("name", [FINAL, snapshot(12)])
def test_at_a_tie_the_network_file(run, state, name):
    """The checkpoint of the same moment holds another w_avg here, to tell them apart."""
    add(run, state, name, 12_000)
    tensors = safetensors.torch.load_file(run / name)
    tensors["G_ema.w_avg"].fill_(-1)
    content = (run / name).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:header])["__metadata__"]
    (run / name).write_bytes(safetensors.torch.save(tensors, metadata))
    add(run, state, "checkpoint", 12_000)
    assert locate(str(run)).endswith(name)
    assert int(load(str(run)).G_ema.w_avg[0]) == -1
    assert int(load_network(run)["G_ema"].w_avg[0]) == -1


def test_only_best_networks_are_no_network_of_the_run(run, state):
    add(run, state, BEST, 20_000)
    with pytest.raises(ValueError, match=str(run)):
        load(str(run))
    with pytest.raises(ValueError, match=str(run)):
        load_network(run)
