"""The convert command: suffixes, folders for the Hub, mistakes, and what other commands read back."""

import json
import os

import pytest
import torch
import yaml
from support.networks import built

from stylegan_ray import cli
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.images.training_data import class_names_of
from stylegan_ray.interop import hub, load_network, read_networks, save_network
from stylegan_ray.train.transfer import check_start

KEYS = {
    "model.z_dim": 6, "model.w_dim": 5, "model.mapping_layers": 2, "model.mapping_fmaps": 7, "model.fmap_base": 32,
    "model.fmap_max": 6, "data.path": "s3://KEY:SECRET@bucket/private/cats", "run.name": "mine", "run.seed": 3,
}  # fmt: skip


def make(label_size=0):
    cfg = load_config("config-f", KEYS)
    return cfg, built(cfg, 16, 3, label_size)


@pytest.fixture
def run(tmp_path):
    """A run folder with one network, its metrics and its data."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    cfg, networks = make()
    networks[2].w_avg.normal_()
    (folder / "config.yaml").write_text(cfg.to_yaml())
    (folder / "network-snapshot-000002.safetensors").write_bytes(save_network(*networks, cfg, 2000))
    rows = [
        {"metric": "fid5k_tiny", "value": value, "kimg": kimg, "num_gen": 5000, "detector": "tiny"}
        for value, kimg in ((9.5, 1.0), (7.25, 2.0), (None, 2.0))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "path": "s3://KEY:SECRET@bucket/private/cats",
        "num_images": 4321,
        "attribution": "Cats by\x1b[1m Ann\n# Ha",
    }
    (folder / "run.json").write_text(json.dumps({"data": data}))
    return folder


def convert(*argv):
    return cli.run(cli.convert, [str(word) for word in argv])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pkl"])
def test_out_and_in_again(run, tmp_path, suffix, capsys):
    dest = tmp_path / f"out{suffix}"
    assert convert(run, dest) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(dest)
    ours, theirs = load_network(run), load_network(dest)
    assert theirs.keys() == {"G", "D", "G_ema"}
    z = torch.randn(2, 6)
    with torch.no_grad():
        tolerance = {"atol": 1e-5, "rtol": 1e-4} if suffix == ".pkl" else {"atol": 0, "rtol": 0}
        torch.testing.assert_close(theirs["G_ema"](z, psi=0.7), ours["G_ema"](z, psi=0.7), **tolerance)
    assert convert(dest, tmp_path / "again.safetensors") == 0
    again = load_network(tmp_path / "again.safetensors")
    assert all(torch.equal(v, theirs["D"].state_dict()[name]) for name, v in again["D"].state_dict().items())


def test_a_folder_for_the_hub(run, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    dest = tmp_path / "cats-16"
    assert convert(run, dest) == 0
    assert {path.name for path in dest.iterdir()} == {"README.md", "config.json", "model.safetensors", "samples.png"}
    hub.validate_repository(f"someone/{dest.name}")
    card = huggingface_hub.ModelCard.load(dest / "README.md", ignore_metadata_errors=False)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("fid5k_tiny", 7.25, "cats")
    assert card.data.library_name == "stylegan-ray" and "stylegan2" in card.data.tags
    for words in ("4,321 images of `cats`", "Cats by", "| fid5k_tiny | 7.25 | 5000 |", "samples.png", "load_network"):
        assert words in card.text, words
    assert "\n# Ha" not in card.text and "\x1b" not in card.text
    described = json.loads((dest / "config.json").read_text())
    assert described["resolution"] == [16, 16] and described["cur_nimg"] == 2000
    for name in ("README.md", "config.json", "model.safetensors"):
        assert not any(word in (dest / name).read_bytes() for word in (b"SECRET", b"bucket", b"mine"))
    z = torch.randn(2, 6)
    for source in (dest, f"{dest}/"):
        assert torch.equal(load_network(source)["G_ema"](z), load_network(run)["G_ema"](z))
    assert read_networks(dest).cur_nimg == 2000
    assert convert(dest, tmp_path / "back.safetensors") == 0, "by the command line too"
    assert convert(run, dest) == 0, "a folder is written again"


def evaluated(network, value, **other):
    """A row of the evaluate command, about a network of the run."""
    plain = {"psi": 1.0, "cutoff": None, "noise": "random", "dialect": "original", "data": "s3://bucket/private/cats"}
    row = {"metric": "kid5k_tiny", "kimg": 2.0, "checkpoint": str(network), "data_path": plain["data"], "value": value}
    return json.dumps({**plain, **row, **other}) + "\n"


@pytest.mark.parametrize(
    "other",
    [
        {"psi": 0.5},
        {"noise": "const"},
        {"dialect": "ada"},
        {"cutoff": 2},
        {"checkpoint": "/elsewhere/network-snapshot-000002.safetensors"},
        {"data": "s3://bucket/dogs", "data_path": "s3://bucket/dogs"},
        {"class": "tabby"},
    ],
)
def test_a_card_shows_rows_of_its_network_only_and_none_with_other_options(run, tmp_path, other):
    (run / "run.json").write_text(json.dumps({"data": {"path": "s3://bucket/private/cats"}}))
    network = run / "network-snapshot-000002.safetensors"
    for first in (other, {}):
        rows = [evaluated(network, 0.25), evaluated(network, 0.125, **other)]
        (run / "evaluations.jsonl").write_text("".join(rows[::-1] if first else rows))
        assert convert(run, tmp_path / "cats") == 0
        card = (tmp_path / "cats" / "README.md").read_text()
        assert "| fid5k_tiny | 7.25 |" in card and "| kid5k_tiny | 0.25 |" in card and "0.125" not in card


def test_two_networks_in_one_folder_have_a_card_each(tmp_path):
    cfg, networks = make()
    for name, value in (("a", 1.5), ("b", 2.5)):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(save_network(*networks, cfg, 0))
        with open(tmp_path / "evaluations.jsonl", "a") as file:
            file.write(evaluated(path, value, kimg=0.0))
    for name, value in (("a", 1.5), ("b", 2.5)):
        assert convert(tmp_path / f"{name}.safetensors", tmp_path / name) == 0
        assert f"| kid5k_tiny | {value} |" in (tmp_path / name / "README.md").read_text()


def test_the_code_of_the_card_runs(run, tmp_path):
    convert(run, tmp_path / "cats")
    text = (tmp_path / "cats" / "README.md").read_text()
    code = text.partition("```python")[2].partition("```")[0].replace("path/to/this/folder", str(tmp_path / "cats"))
    found = {}
    exec(code, found)
    assert found["images"].shape == (4, 3, 16, 16)
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "unconditional-image-generation"


def test_parts_that_are_absent_stay_absent(run, tmp_path):
    cfg, (_, _, G_ema) = make()
    (tmp_path / "ema.safetensors").write_bytes(save_network(None, None, G_ema, cfg, 0))
    assert load_network(tmp_path / "ema.safetensors").keys() == {"G_ema"}
    for dest in ("ema.pt", "ema-folder"):
        assert convert(tmp_path / "ema.safetensors", tmp_path / dest) == 0
        assert load_network(tmp_path / dest).keys() == {"G_ema"}


def test_mistakes(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.pt")
    cfg, (G, _, _) = make()
    (tmp_path / "g.safetensors").write_bytes(save_network(G, None, None, cfg, 0))
    conditional, networks = make(2)
    (tmp_path / "labels.safetensors").write_bytes(save_network(*networks, conditional, 0))
    for argv, words in (
        ((run, tmp_path / "x.pth"), "suffix .pth"),
        ((run, tmp_path / "full"), "is not empty"),
        ((run, run), "is a run"),
        ((run, tmp_path / "pipe.pt"), "DEST"),
        ((run, tmp_path / "pipe.pt"), "is a folder, device, pipe or socket"),
        ((tmp_path / "g.safetensors", tmp_path / "g.safetensors"), "same file"),
        ((tmp_path / "g.safetensors", tmp_path / "x.onnx"), "no G_ema"),
        ((tmp_path / "g.safetensors", tmp_path / "x"), "no G_ema"),
        ((tmp_path / "g.safetensors", tmp_path / "x.pkl"), "no D and no G_ema"),
        ((tmp_path / "labels.safetensors", tmp_path / "x.pt"), "labels of 2 numbers"),
        ((run, tmp_path / "x.pt", "--push", "a/b"), "leave its suffix out"),
        ((run, tmp_path / "x", "--push", "a/b/c"), "a/b/c"),
        ((tmp_path / "gone.pt", tmp_path / "x.pkl"), "gone.pt"),
    ):
        assert convert(*argv) == 2, argv
        assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))


def test_a_hub_that_cannot_be_reached(run, tmp_path):
    pytest.importorskip("huggingface_hub")
    assert convert(run, tmp_path / "cats") == 0
    with pytest.raises(ConfigError, match=r"--push someone/cats: .*hf upload someone/cats"):
        hub.push(str(tmp_path / "cats"), "someone/cats", endpoint="http://127.0.0.1:9")


def test_what_needs_other_networks_says_so(run, tmp_path, capsys):
    cfg, (G, _, _) = make()
    (tmp_path / "g.safetensors").write_bytes(save_network(G, None, None, cfg, 0))
    assert cli.run(cli.generate, [str(tmp_path / "g.safetensors"), "--seeds", "0"]) == 2
    assert "holds G and no G_ema" in capsys.readouterr().err


def test_a_training_starts_from_a_pt_file_that_holds_all_three(run, tmp_path):
    cfg, (_, _, G_ema) = make()
    assert convert(run, tmp_path / "all.pt") == 0
    table = check_start(cfg, 16, 3, 0, str(tmp_path / "all.pt"))
    assert "G.mapping" in table and "new" not in table
    (tmp_path / "ema.safetensors").write_bytes(save_network(None, None, G_ema, cfg, 0))
    assert convert(tmp_path / "ema.safetensors", tmp_path / "ema.pt") == 0
    with pytest.raises(ConfigError, match=r"ema\.pt holds G_ema and no G and no D"):
        check_start(cfg, 16, 3, 0, str(tmp_path / "ema.pt"))


def test_a_folder_does_not_say_where_a_run_was_reported():
    cfg = load_config("tiny", {"report.wandb": "mine/secret", "report.notify": "https://hooks.example/secret"})
    assert hub.public_config(cfg).report == load_config("tiny").report


def test_a_folder_keeps_the_names_of_classes(tmp_path):
    cfg, networks = make(label_size=2)
    (tmp_path / "network-final.safetensors").write_bytes(save_network(*networks, cfg, 0))
    (tmp_path / "run.json").write_text(json.dumps({"data": {"class_names": ["cat", "d\nog"]}}))
    for source, dest in (("network-final.safetensors", "first"), ("first", "second")):
        assert convert(tmp_path / source, tmp_path / dest) == 0
        assert json.loads((tmp_path / dest / "config.json").read_text())["class_names"] == ["cat", "d og"]
        assert "Classes: 0 cat, 1 d og" in (tmp_path / dest / "README.md").read_text()
        assert class_names_of(str(tmp_path / dest / "model.safetensors"), 2) == ["cat", "d og"]
