"""What rank 0 writes at the pauses of a run."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.growing import growing_config
from support.measured import Pictures
from support.toy import toy_config, toy_minibatches, toy_state

from stylegan_ray import storage
from stylegan_ray.images.grid import image_grid, pil_uint8
from stylegan_ray.interop import read_networks
from stylegan_ray.networks.growing import enlarge
from stylegan_ray.report.snapshots import Recorder
from stylegan_ray.storage import Storage
from stylegan_ray.train.background_writer import Outbox
from stylegan_ray.train.loop import training_loop


def recorded(cfg, tmp_path, resolution=(8, 8), pauses=None):
    """Trains and records; returns the run's folder and the state."""
    run, source, state = Storage.at(tmp_path), Pictures(resolution), toy_state(cfg, resolution)
    outbox = Outbox(run, 3, print)
    recorder = Recorder(run, cfg, source, state, outbox)
    recorder.begin()
    loop = training_loop(state, cfg, toy_minibatches(cfg, 0, source), source)
    for number, pause in enumerate(loop, 1):
        recorder.at_pause(pause)
        if number == pauses:
            break
    recorder.save()
    outbox.finish(60)
    recorder.files.close()
    return recorder, state


def picture(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


SMALL_GRID = {"train.grid_size": (3, 2), "train.image_snapshot_ticks": 1, "train.network_snapshot_ticks": 1}


def test_pictures_and_networks_of_a_growing_run_show_its_lod(tmp_path):
    cfg = growing_config("config-b", **SMALL_GRID)
    recorder, state = recorded(cfg, tmp_path, pauses=1)
    assert (state.prev_lod, state.cur_nimg) == (1, 24)
    latest = "000000.024"
    for name in ("fakes_init", f"fakes{latest}"):
        pixels = picture(tmp_path / f"{name}.png")
        assert pixels.shape == (16, 24, 3)
        blocks = torch.from_numpy(pixels[::2, ::2].copy()).permute(2, 0, 1)[None]
        assert np.array_equal(enlarge(blocks)[0].permute(1, 2, 0).numpy(), pixels), f"{name} is not at lod 1"
    assert len(np.unique(picture(tmp_path / "reals.png")[:2, :2].reshape(-1, 3), axis=0)) == 4, "reals are whole"
    networks = read_networks(tmp_path / f"network-snapshot-{latest}.safetensors")
    assert (networks.lod, networks.cur_nimg) == (1, 24)
    fakes = networks.G_ema(recorder.grid_z, recorder.grid_labels, lod=networks.lod)
    expected = image_grid(pil_uint8(fakes), 3, 2).permute(1, 2, 0).numpy()
    assert np.array_equal(picture(tmp_path / f"fakes{latest}.png"), expected)


def test_networks_in_a_fade_carry_its_lod_in_checkpoints_too(tmp_path):
    cfg = growing_config("config-b", **SMALL_GRID)
    _, state = recorded(cfg, tmp_path, pauses=3)
    assert 0 < state.prev_lod < 1
    assert read_networks(tmp_path / "checkpoints" / f"ckpt-{state.cur_nimg:012d}").lod == state.prev_lod
    assert read_networks(tmp_path / f"network-snapshot-000000.{state.cur_nimg:03d}.safetensors").lod == state.prev_lod


@pytest.mark.parametrize("resolution", [(24, 16), (16, 24)])
def test_non_square_pictures_through_the_whole_loop(resolution, tmp_path):
    cfg = toy_config(**SMALL_GRID, **{"train.total_kimg": 0.016})
    recorder, state = recorded(cfg, tmp_path, resolution)
    height, width = resolution
    for name in ("reals", "fakes_init", "fakes000000.016"):
        assert picture(tmp_path / f"{name}.png").shape == (2 * height, 3 * width, 3)
    tile = picture(tmp_path / "reals.png")[:height, :width]
    assert np.array_equal(tile.transpose(2, 0, 1), recorder.dataset.read(int(recorder.shown[0])))
    final = read_networks(tmp_path / "network-final.safetensors")
    assert final.G_ema.resolution == final.D.resolution == resolution
    assert all(value.isfinite().all() for value in state.tensors().values())


def test_histograms_come_with_every_network_snapshot_and_the_graph_once(tmp_path, monkeypatch):
    from stylegan_ray.report import snapshots as module

    graphs, histograms = [], []
    monkeypatch.setattr(module, "save_graph", lambda folder, G, D: graphs.append(folder))
    monkeypatch.setattr(module, "weight_histograms", lambda networks: histograms.append(list(networks)) or [])
    keys = {"train.save_tf_graph": True, "train.save_weight_histograms": True, "train.network_snapshot_ticks": 2}
    recorded(toy_config(**SMALL_GRID | keys | {"train.total_kimg": 0.128}), tmp_path)
    assert graphs == [tmp_path / "tensorboard"]
    assert len(list(tmp_path.glob("network-snapshot-*"))) == len(histograms) == 3  # ticks 0, 2 and 4, the last
    assert histograms[0] == ["G", "D"]


def test_a_run_goes_on_when_a_disk_that_is_full_at_its_start_has_room_again(tmp_path, monkeypatch):
    recorded(toy_config(**{"train.total_kimg": 0.016}), tmp_path)
    run, said, attempts = Storage.at(tmp_path), [], []
    before = run.read("stats.jsonl")
    (tmp_path / "stats.jsonl").write_bytes(before + b'{"Progress/tick": 99}\n')  # of a tick that no checkpoint knows

    def full_at_first(self, name, content):
        attempts.append(name)
        if len(attempts) < 3:
            raise OSError(28, "No space left on device")
        (tmp_path / name).write_bytes(content)

    monkeypatch.setattr(Storage, "write", full_at_first)
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)
    cfg, source = toy_config(), Pictures((8, 8))
    state = toy_state(cfg, (8, 8))
    state.iteration, state.tick = 1, len(before.splitlines())
    Recorder(run, cfg, source, state, Outbox(run, 1, said.append)).begin()
    assert (tmp_path / "stats.jsonl").read_bytes() == before
    assert attempts == ["stats.jsonl"] * 3, "files that stay as they are need no room"
    assert said == ["fault: storage does not respond: [Errno 28] No space left on device; trying again"]
