"""What rank 0 stores at the pauses of a run."""

import io
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from support.growing import growing_config
from support.measured import Pictures
from support.reports import events
from support.toy import toy_config, toy_minibatches, toy_state

from stylegan_ray.images.grid import image_grid, pil_uint8
from stylegan_ray.interop import read_networks
from stylegan_ray.networks.growing import enlarge
from stylegan_ray.report.snapshots import Snapshots
from stylegan_ray.storage import Storage
from stylegan_ray.train.background_writer import BackgroundWriter
from stylegan_ray.train.loop import training_loop


def train(cfg, folder, resolution=(8, 8), pauses=None):
    """Trains a run into a folder; returns its snapshots and its state."""
    source, state = Pictures(resolution), toy_state(cfg, resolution)
    writer = BackgroundWriter(Storage.at(folder), 3, print)
    snapshots = Snapshots(cfg, source, state, writer)
    snapshots.begin()
    loop = training_loop(state, cfg, toy_minibatches(cfg, 0, source), source)
    for number, pause in enumerate(loop, 1):
        snapshots.at_pause(pause)
        if number == pauses:
            break
    snapshots.save_checkpoint()
    writer.flush(60)
    snapshots.sinks.close()
    return snapshots, state


def pixels_of(path):
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


SMALL_GRID = {"train.grid_size": (3, 2), "train.image_snapshot_ticks": 1, "train.network_snapshot_ticks": 1}


def test_images_and_networks_of_a_growing_run_have_its_lod(tmp_path):
    cfg = growing_config("config-b", **SMALL_GRID)
    snapshots, state = train(cfg, tmp_path, pauses=1)
    assert (state.prev_lod, state.cur_nimg) == (1, 24)
    latest = "000000.024"
    for name in ("fakes_init", f"fakes{latest}"):
        pixels = pixels_of(tmp_path / f"{name}.png")
        assert pixels.shape == (16, 24, 3)
        blocks = torch.from_numpy(pixels[::2, ::2].copy()).permute(2, 0, 1)[None]
        assert np.array_equal(enlarge(blocks)[0].permute(1, 2, 0).numpy(), pixels), f"{name} is not at lod 1"
    reals = pixels_of(tmp_path / "reals.png")
    assert len(np.unique(reals[:2, :2].reshape(-1, 3), axis=0)) == 4, "reals are not at full resolution"
    networks = read_networks(tmp_path / f"network-snapshot-{latest}.safetensors")
    assert (networks.lod, networks.cur_nimg) == (1, 24)
    fakes = networks.G_ema(snapshots.z, snapshots.labels, lod=networks.lod)
    expected = image_grid(pil_uint8(fakes), 3, 2).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels_of(tmp_path / f"fakes{latest}.png"), expected)


def test_networks_before_the_first_iteration_have_the_lod_of_the_schedule(tmp_path):
    cfg = growing_config("config-b", **SMALL_GRID)
    writer = BackgroundWriter(Storage.at(tmp_path), 3, print)
    snapshots = Snapshots(cfg, Pictures((8, 8)), toy_state(cfg, (8, 8)), writer)
    snapshots.save_network("best.safetensors")
    assert writer.flush(30) and read_networks(tmp_path / "best.safetensors").lod == 1


def test_networks_and_checkpoints_in_a_fade_carry_its_lod(tmp_path):
    cfg = growing_config("config-b", **SMALL_GRID)
    _, state = train(cfg, tmp_path, pauses=2)
    assert 0 < state.prev_lod < 1
    assert read_networks(tmp_path / "checkpoints" / f"ckpt-{state.cur_nimg:012d}").lod == state.prev_lod
    assert read_networks(tmp_path / f"network-snapshot-000000.{state.cur_nimg:03d}.safetensors").lod == state.prev_lod


@pytest.mark.parametrize("resolution", [(24, 16), (16, 24)])
def test_non_square_images_through_the_whole_loop(resolution, tmp_path):
    cfg = toy_config(**SMALL_GRID, **{"train.total_kimg": 0.016})
    snapshots, state = train(cfg, tmp_path, resolution)
    height, width = resolution
    for name in ("reals", "fakes_init", "fakes000000.016"):
        assert pixels_of(tmp_path / f"{name}.png").shape == (2 * height, 3 * width, 3)
    tile = pixels_of(tmp_path / "reals.png")[:height, :width]
    assert np.array_equal(tile.transpose(2, 0, 1), snapshots.dataset.read(int(snapshots.indices[0])))
    final = read_networks(tmp_path / "network-final.safetensors")
    assert final.G_ema.resolution == final.D.resolution == resolution
    assert all(value.isfinite().all() for value in state.tensors().values())


def test_every_network_snapshot_has_histograms_of_the_weights(tmp_path):
    keys = {"train.save_weight_histograms": True, "train.network_snapshot_ticks": 2, "train.total_kimg": 0.08}
    keys |= {"schedule.tick_kimg": 0.016}
    train(toy_config(**SMALL_GRID | keys), tmp_path)
    steps = [
        event.step for event in events(Storage.at(tmp_path)) for value in event.summary.value
        if value.tag == "D/b4.out.weight"
    ]  # fmt: skip
    names = sorted(path.name for path in tmp_path.glob("network-snapshot-*"))
    assert [f"network-snapshot-000000.{step:03d}.safetensors" for step in steps] == names and len(names) == 3


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the graph needs TensorBoard")
def test_a_new_run_saves_its_graph_once(tmp_path):
    cfg = toy_config(**SMALL_GRID, **{"train.save_tf_graph": True, "train.total_kimg": 0.032})
    train(cfg, tmp_path)
    assert sum(bool(event.graph_def) for event in events(Storage.at(tmp_path))) == 1


def test_a_resume_deletes_what_is_ahead_of_its_checkpoint(tmp_path):
    """Killed after a tick that no checkpoint has."""
    cfg = toy_config(**SMALL_GRID, **{"train.total_kimg": 0.064})
    snapshots, state = train(cfg, tmp_path)
    assert state.cur_nimg == 64
    state.cur_nimg, state.tick = 48, 2
    snapshots.begin()
    left = {path.name for path in tmp_path.iterdir()}
    assert not {"fakes000000.064.png", "network-snapshot-000000.064.safetensors", "network-final.safetensors"} & left
    assert {"fakes000000.016.png", "network-snapshot-000000.016.safetensors", "reals.png", "fakes_init.png"} <= left
    assert len((tmp_path / "stats.jsonl").read_bytes().splitlines()) == 2


def test_a_run_continues_when_a_full_disk_has_room_again(tmp_path):
    train(toy_config(**{"train.total_kimg": 0.016}), tmp_path)
    before = (tmp_path / "stats.jsonl").read_bytes()
    (tmp_path / "stats.jsonl").write_bytes(before + b'{"Progress/tick": 99}\n')  # of a tick that no checkpoint has
    attempts, messages = [], []

    class FullAtFirst(Storage):
        def write(self, name, content):
            attempts.append(name)
            if len(attempts) < 3:
                raise OSError(28, "No space left on device")
            super().write(name, content)

    here, cfg = Storage.at(tmp_path), toy_config()
    state = toy_state(cfg, (8, 8))
    state.iteration, state.cur_nimg, state.tick = 1, 16, len(before.splitlines())
    writer = BackgroundWriter(FullAtFirst(here.filesystem, here.root), 1, messages.append, pauses_sec=[0.01])
    Snapshots(cfg, Pictures((8, 8)), state, writer).begin()
    assert (tmp_path / "stats.jsonl").read_bytes() == before
    assert attempts == ["stats.jsonl"] * 3, "files that stay as they are need no room"
    (message,) = messages
    assert message.startswith("fault: ") and "No space left on device" in message


@pytest.mark.parametrize("tick, ticks", [(1, None), (1, 1), (None, 1)])
def test_an_end_that_a_metric_decides_leaves_what_every_end_leaves(tmp_path, tick, ticks):
    """Each file is written once: what the tick has saved already is not saved again."""
    keys = {"train.image_snapshot_ticks": ticks, "train.network_snapshot_ticks": ticks, "train.total_kimg": 9}
    snapshots, state = train(toy_config(**{"train.grid_size": (3, 2), **keys}), tmp_path, pauses=2)
    stamp = f"000000.{state.cur_nimg:03d}"
    names = {f"fakes{stamp}.png", f"network-snapshot-{stamp}.safetensors"}
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names if (tmp_path / name).exists()}
    assert set(before) == (names if ticks else set())
    snapshots.finish(tick)
    snapshots.writer.flush(60)
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert read_networks(tmp_path / "network-final.safetensors").cur_nimg == state.cur_nimg
    if tick is not None:
        assert before == {name: (tmp_path / name).stat().st_mtime_ns for name in before}
