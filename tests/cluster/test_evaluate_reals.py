"""Which reals metrics compare with: those of a class, and all where a run trains on a subset."""

import json
from copy import deepcopy

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from support.data_sets import noise_picture, write_folder

pytest.importorskip("ray")

from stylegan_ray import cli
from stylegan_ray.cluster.metrics import metrics_of_run
from stylegan_ray.config import load_config
from stylegan_ray.data import open_dataset
from stylegan_ray.interop import save_network
from stylegan_ray.metrics.detectors import read_weights
from stylegan_ray.metrics.reals_cache import reals_name
from stylegan_ray.metrics.row_files import compare_stored
from stylegan_ray.networks import build_discriminator, build_generator

SMALL = {"z_dim": 4, "w_dim": 4, "mapping_fmaps": 4, "mapping_layers": 2, "fmap_max": 4}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes, of 100, 101 and 5 images."""
    folder, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(1)
    for name, num in (("cats", 100), ("dogs", 101), ("owls", 5)):
        (folder / name).mkdir()
        for i in range(num):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i:03d}.png")
    return folder


def network(folder, images, cond):
    return write_network(folder / "network.safetensors", small_config(images, {"data.cond": cond}))


def write_run(folder, images, keys):
    """A run of these keys, as far as evaluate looks at it."""
    cfg = small_config(images, {**keys, "run.name": "run"})
    (folder / "config.yaml").write_text(cfg.to_yaml())
    write_network(folder / "network-final.safetensors", cfg)


def small_config(images, keys):
    cfg = load_config("config-f", {f"model.{key}": value for key, value in SMALL.items()})
    return cfg.with_overrides({"data.path": str(images), **keys})


def write_network(file, cfg):
    G, D = (build(cfg.model, 8, 3, 3 if cfg.data.cond else 0) for build in (build_generator, build_discriminator))
    file.write_bytes(save_network(G, D, deepcopy(G), cfg, 1000))
    return str(file)


def test_the_images_of_a_class_are_a_data_set(images):
    data = open_dataset(
        load_config("tiny", {"data.path": str(images), "data.cond": True, "data.resolution": 8}).data, 0
    )
    dogs = data.of_class(1)
    assert dogs.num_images == 101 and dogs.fingerprint != data.fingerprint
    assert (dogs.labels(np.arange(101)) == [0, 1, 0]).all()
    assert all("dogs" in dogs.name(index) for index in range(101))
    assert (dogs.read(7) == data.read(107)).all() and [len(own) for own in data.images_by_class] == [100, 101, 5]


def test_metrics_are_computed_for_classes_that_are_large_enough(images, tmp_path, capsys):
    file = network(tmp_path, images, cond=True)
    words = ["--metrics", "fid100_tiny", "--by-class", "--num-tasks", "0", "--out", str(tmp_path / "rows.jsonl")]
    assert cli.run(cli.evaluate, [file, str(images), *words]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row.get("class"), row["num_real"]) for row in rows] == [(None, 100), ("cats", 100), ("dogs", 100)]
    assert len({row["value"] for row in rows}) == 3
    out = capsys.readouterr().out
    assert "fid100_tiny of cats" in out and "owls" not in out
    pairs = compare_stored(*[str(tmp_path / "rows.jsonl")] * 2)
    assert [pair.metric for pair in pairs] == ["fid100_tiny", "fid100_tiny of cats", "fid100_tiny of dogs"]


def test_a_run_on_a_subset_can_be_compared_with_all_images(images):
    cfg = load_config("tiny", {"data.path": str(images), "data.resolution": 8, "data.subset": 20})
    cfg = cfg.with_overrides({"metrics.names": ["fid100_tiny"]})
    data = open_dataset(cfg.data, 0)
    for all_images, num in ((False, 20), (True, 206)):
        keys = cfg.with_overrides({"metrics.all_images": all_images})
        metrics = metrics_of_run(keys, data, "", torch.device("cpu"), None, "inline")
        assert metrics.group.dataset.num_images == num


def test_features_of_a_class_are_stored_apart(images):
    """They lie in a cache on disk, which all commands share."""
    cfg = load_config("tiny", {"data.path": str(images), "data.cond": True, "data.resolution": 8})
    data, detector = open_dataset(cfg.data, 0), read_weights("tiny").build()
    names = {reals_name(part, detector, 100, False) for part in (data, data.of_class(0), data.of_class(1))}
    assert len(names) == 3


def test_a_run_is_compared_as_in_its_training(images, tmp_path, capsys):
    keys = {"data.subset": 20, "metrics.all_images": True, "metrics.num_images": 4}
    write_run(tmp_path, images, {**keys, "metrics.names": ["fid64_full_tiny"]})
    assert cli.run(cli.evaluate, [str(tmp_path), "--num-tasks", "0"]) == 0
    (row,) = map(json.loads, (tmp_path / "evaluations.jsonl").read_text().splitlines())
    assert (row["metric"], row["num_gen"], row["num_real"]) == ("fid4_full_tiny", 4, 206)


def test_mirror_images_are_compared_where_the_run_or_the_command_says(images, tmp_path):
    write_run(tmp_path, images, {"data.mirror_augment": True})
    for words in ([], ["--mirror", "no"], ["--mirror", "yes"]):
        told = [str(tmp_path), "--metrics", "fid64_full_tiny", "--num-tasks", "0", *words]
        assert cli.run(cli.evaluate, told) == 0
    rows = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [(row["mirror"], row["num_real"]) for row in rows] == [(True, 412), (False, 206), (True, 412)]
    assert rows[0]["value"] == rows[2]["value"] != rows[1]["value"]


def test_a_published_folder_does_not_name_its_data(images, tmp_path, capsys):
    file = network(tmp_path, images, cond=False)
    assert cli.run(cli.convert, [file, str(tmp_path / "published")]) == 0
    assert cli.run(cli.evaluate, [str(tmp_path / "published"), "--metrics", "fid16_tiny", "--num-tasks", "0"]) == 2
    assert "does not record its training data" in capsys.readouterr().err


def test_a_network_file_does_not_decide_what_is_opened(images, tmp_path, capsys):
    """Not even one that was written to: its configuration names a place, as those of this program never do."""
    file = network(tmp_path, images, cond=False)
    with safetensors.safe_open(file, "pt") as stored:
        metadata, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}
    config = json.loads(metadata["config"])
    config["data"]["path"] = str(images)
    safetensors.torch.save_file(tensors, file, metadata | {"config": json.dumps(config)})
    assert cli.run(cli.evaluate, [file, "--metrics", "fid16_tiny", "--num-tasks", "0"]) == 2
    assert "does not record its training data" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_weights_whose_images_are_not_finite_end_a_command(images, tmp_path, capsys, monkeypatch, command):
    """The weights are finite, so that the file is read."""
    monkeypatch.chdir(tmp_path)
    file = network(tmp_path, images, cond=False)
    with safetensors.safe_open(file, "pt") as stored:
        metadata, tensors = stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}
    tensors["G_ema.synthesis.b8.conv1.weight"].fill_(3e38)
    safetensors.torch.save_file(tensors, file, metadata)
    words = {
        "generate": ["--seeds", "0-3", "--grid", "grid.png"],
        "evaluate": [str(images), "--metrics", "fid16_tiny", "--num-tasks", "0"],
    }
    assert cli.run(getattr(cli, command), [file, *words[command]]) == 1
    assert "NaN or infinite values" in capsys.readouterr().err
    assert not (tmp_path / "grid.png").exists() and not (tmp_path / "evaluations.jsonl").exists()


def test_data_that_does_not_fit_is_explained_without_options_of_others(images, tmp_path, capsys):
    file, words = network(tmp_path, images, cond=True), ["--metrics", "fid16_tiny", "--num-tasks", "0"]
    large = write_folder(tmp_path / "large", {f"{name}/0.png": noise_picture(0, (24, 16)) for name in "abc"})
    unlabeled = write_folder(tmp_path / "unlabeled", {"0.png": noise_picture(0, (8, 8))})
    for data, says in (
        (large, "the network makes images of 8x8, but DATA {} holds images of 24x16"),
        (unlabeled, "a conditional network needs labels, but DATA {}"),
        (tmp_path / "absent", "DATA {}"),
    ):
        assert cli.run(cli.evaluate, [file, str(data), *words]) == 2
        error = capsys.readouterr().err
        assert says.format(data) in error and "--data." not in error and "data.path" not in error
        assert ("prepare_data.py DATA DEST" in error) == (" --" in error) == (data == large)


@pytest.mark.parametrize("words", [["--repeat", "0"], ["--seed", "-1"], ["--trunc", "nan"], ["--num-tasks", "-1"]])
def test_numbers_out_of_bounds_are_refused(images, tmp_path, capsys, words):
    assert cli.run(cli.evaluate, [network(tmp_path, images, cond=False), "--metrics", "fid16_tiny", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_classes_that_are_all_small_are_refused(images, tmp_path, capsys):
    words = ["--metrics", "fid16_tiny", "--by-class", "--num-tasks", "0"]
    few = images.parent / "few"
    write_folder(
        few, {f"{kind}/{i}.png": noise_picture(i, (8, 8)) for kind in ("cats", "dogs", "owls") for i in range(3)}
    )
    assert cli.run(cli.evaluate, [network(tmp_path, images, cond=True), str(few), *words]) == 2
    assert "no class of" in (said := capsys.readouterr().err) and "the largest one has 3" in said


def test_a_network_without_classes_has_no_metrics_by_class(images, tmp_path, capsys):
    file = network(tmp_path, images, cond=False)
    words = ["--metrics", "fid100_tiny", "--by-class", "--num-tasks", "0"]
    assert cli.run(cli.evaluate, [file, str(images), *words]) == 2
    assert "--by-class" in capsys.readouterr().err
