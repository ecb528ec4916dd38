"""Networks are found in files, checkpoints and run folders."""

import json
import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch

from stylegan_ray.checkpoint_files import completion
from stylegan_ray.config import ConfigError
from stylegan_ray.images.convert import WRITERS
from stylegan_ray.interop import load_network, read_networks, save_network, tf_pickle
from stylegan_ray.interop.loading import load, locate
from stylegan_ray.interop.native import Networks


@pytest.fixture
def run(tmp_path, made):
    """A run folder with a snapshot; returns what else a test may put there."""
    cfg, G, D, G_ema = made()
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "network-snapshot-000001.safetensors").write_bytes(save_network(G, D, G_ema, cfg, 1000))
    (folder / "network-snapshot-000002.safetensors").write_bytes(save_network(G, D, G_ema, cfg, 2000))
    return folder, (cfg, G, D, G_ema)


def write_checkpoint(folder, cfg, G, D, G_ema, nimg, complete=True):
    folder.mkdir(parents=True)
    parts = {"G": G, "D": D, "G_ema": G_ema}
    tensors = {f"{part}.{name}": t for part, network in parts.items() for name, t in network.state_dict().items()}
    tensors |= {"pl_mean": torch.zeros(()), "G_opt.exp_avg.0": torch.zeros(3)}
    (folder / "state.safetensors").write_bytes(safetensors.torch.save(tensors))
    (folder / "state.json").write_text(json.dumps({"cur_nimg": nimg}))
    (folder / "config.yaml").write_text(cfg.to_yaml())
    if complete:
        files = ("state.safetensors", "state.json", "config.yaml")
        (folder / "COMPLETE").write_bytes(completion({name: (folder / name).read_bytes() for name in files}))


def test_a_file_by_absolute_and_relative_path(run, same, monkeypatch):
    folder, (_, G, D, G_ema) = run
    path = folder / "network-snapshot-000001.safetensors"
    for address in (path, str(path)):
        networks = load_network(address)
        same(networks["G"], G), same(networks["D"], D), same(networks["G_ema"], G_ema)
    monkeypatch.chdir(folder)
    same(load_network(path.name)["G"], G)
    same(load_network(os.path.join("..", folder.name, path.name))["G"], G)


def test_a_run_gives_its_newest_networks_however_it_is_asked(run, made, monkeypatch):
    folder, parts = run
    cfg, *networks = parts
    (folder / "config.yaml").write_text(cfg.to_yaml())
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(folder.parent))

    def newest():
        """cur_nimg by folder and by name, on the command line and in Python."""
        (nimg,) = {read_networks(folder).cur_nimg, read_networks(f"{folder}/").cur_nimg, load("run").cur_nimg}
        return nimg

    assert newest() == 2000
    write_checkpoint(folder / "checkpoints/ckpt-000000003000", *parts, nimg=3000)
    write_checkpoint(folder / "checkpoints/ckpt-000000004000", *parts, nimg=4000, complete=False)
    assert newest() == 3000
    (folder / "network-final.safetensors").write_bytes(save_network(*networks, cfg, 5000))
    assert newest() == 5000
    (folder / "network-snapshot-000006.safetensors").write_bytes(save_network(*networks, cfg, 6000))
    assert newest() == 6000, "a continued run is newer than its former end"
    write_checkpoint(folder / "checkpoints/ckpt-000000006000", *parts, nimg=6000)
    assert locate(str(folder)).endswith("network-snapshot-000006.safetensors"), "of equals the smaller file"
    assert load(str(folder / "network-final.safetensors")).cur_nimg == 5000
    assert load(str(folder / "checkpoints/ckpt-000000003000")).cur_nimg == 3000


def test_an_incomplete_checkpoint_is_refused(run):
    folder, parts = run
    checkpoint = folder / "checkpoints/ckpt-000000004000"
    write_checkpoint(checkpoint, *parts, nimg=4000, complete=False)
    for read, error in ((load, ConfigError), (load_network, ValueError)):
        with pytest.raises(error, match=r"ckpt-000000004000.*not complete.*run itself"):
            read(str(checkpoint))


def test_mistakes_on_the_command_line_name_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path))
    (tmp_path / "my-run").mkdir()
    (tmp_path / "my-run" / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"my-run.*first checkpoint"):
        load("my-run")
    with pytest.raises(ConfigError, match="did you mean 'my-run'"):
        load("my-rum")
    with pytest.raises(ConfigError, match=r"gone\.safetensors"):
        load(str(tmp_path / "gone.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"bad\.safetensors"):
        load(str(tmp_path / "bad.safetensors"))


def test_the_configuration_comes_with_the_networks(run):
    folder, (cfg, G, *_) = run
    networks = read_networks(folder)
    assert networks.config == cfg
    z, labels = torch.zeros(1, G.z_dim), torch.zeros(1, G.label_size)
    assert networks.G_ema(z, labels).shape == (1, G.num_channels, *G.resolution)


@pytest.mark.parametrize("family", ["stylegan2", "revised", "stylegan1"])
@pytest.mark.parametrize(("resolution", "channels", "labels"), [((16, 12), 3, 2), (16, 1, 0)])
def test_a_checkpoint_knows_the_shape_of_its_networks(tmp_path, made, same, family, resolution, channels, labels):
    parts = made(resolution, channels, labels, **{"model.family": family})
    write_checkpoint(tmp_path / "ckpt", *parts, nimg=7)
    loaded = read_networks(tmp_path / "ckpt")
    same(loaded.G, parts[1]), same(loaded.D, parts[2]), same(loaded.G_ema, parts[3])
    assert loaded.G.resolution == parts[1].resolution


def test_a_checkpoint_without_a_constant_input_knows_its_shape(tmp_path, made, same):
    parts = made((32, 24), 3, 0, **{"model.family": "stylegan1", "model.const_input_layer": False})
    write_checkpoint(tmp_path / "ckpt", *parts, nimg=7)
    loaded = read_networks(tmp_path / "ckpt")
    same(loaded.G, parts[1])
    assert loaded.G.resolution == parts[1].resolution == (32, 24)


def test_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        load_network(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="no_such_run"):
        load_network(tmp_path / "no_such_run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "log.txt").write_text("")
    with pytest.raises(ValueError, match="no network file and no complete checkpoint"):
        load_network(tmp_path / "empty")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"G": 1}))
    with pytest.raises(ValueError, match=r"other\.pkl: the pickle holds no networks"):
        load_network(tmp_path / "other.pkl")
    (tmp_path / "hollow.pkl").write_bytes(b"\x80\x02" + b"cdnnlib.tflib.network\nNetwork\n)\x81}b" * 3 + b"\x87.")
    with pytest.raises(ValueError, match=r"hollow\.pkl: the networks in the pickle are incomplete"):
        load_network(tmp_path / "hollow.pkl")
    (tmp_path / "text.pkl").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pkl: expected .*found neither.*hello"):
        load_network(tmp_path / "text.pkl")


def test_imported_networks_can_be_saved_as_ours(golden_pickles, tmp_path, same):
    for path in golden_pickles:
        loaded = read_networks(path)
        content = save_network(loaded.G, loaded.D, loaded.G_ema, loaded.config, 0, D_model=loaded.D_model)
        (tmp_path / "ours.safetensors").write_bytes(content)
        again = load_network(tmp_path / "ours.safetensors")
        for part, network in loaded.parts().items():
            same(again[part], network)
        z = torch.randn(2, loaded.G.z_dim)
        labels = torch.eye(max(loaded.G.label_size, 1))[:1].repeat(2, 1)[:, : loaded.G.label_size]
        torch.testing.assert_close(again["G"](z, labels), loaded.G(z, labels))


@pytest.mark.parametrize("residue", range(0, 256, 8))
def test_a_header_of_any_length_is_read(run, tmp_path, same, residue):
    """The length of a header is what a safetensors file begins with; one byte of it may be that of a pickle."""
    _, (cfg, G, D, G_ema) = run
    content = save_network(G, D, G_ema, cfg, 1000)
    length = int.from_bytes(content[:8], "little")
    padded = length + (residue - length) % 256  # spaces at the end belong to the header
    whole = padded.to_bytes(8, "little") + content[8 : 8 + length].ljust(padded) + content[8 + length :]
    (tmp_path / "network.safetensors").write_bytes(whole)
    same(load_network(tmp_path / "network.safetensors")["G_ema"], G_ema)


@pytest.fixture
def golden_pickles():
    root = os.path.join(os.path.dirname(__file__), "..", "golden")
    found = [
        os.path.join(root, folder, name)
        for folder in ("h_tf_pickles", "h_ada_pickle")
        for name in sorted(os.listdir(os.path.join(root, folder)))
        if name.endswith(".pkl")
    ]
    assert len(found) == 6
    return found


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pkl"])
def test_numbers_too_large_for_the_type_of_the_network_are_refused(made, monkeypatch, tmp_path, ending):
    """That of its first tensor in our files and rosinality's, and else float32."""
    cfg, *parts = made(16, 3, 0)
    parts[0] = parts[0].double() if ending == ".pkl" else parts[0].half()
    last = list(parts[0].parameters())[-1]
    last.data = torch.full_like(last, 1e300, dtype=torch.float64)
    monkeypatch.setattr(tf_pickle, "np", SimpleNamespace(array=np.array, float32=np.float64))
    (tmp_path / f"network{ending}").write_bytes(WRITERS[ending](Networks(*parts, config=cfg)).content)
    with pytest.raises(ValueError, match=rf"network\{ending}: tensor .* of G holds NaN or infinite values"):
        load_network(tmp_path / f"network{ending}")
