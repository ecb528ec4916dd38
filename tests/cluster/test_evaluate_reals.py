"""Which reals metrics compare with: those of a class, and all where a run trains on a subset."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ray")

from stylegan_ray import cli
from stylegan_ray.cluster.metrics import metrics_of_run
from stylegan_ray.config import load_config
from stylegan_ray.data import open_dataset
from stylegan_ray.interop import save_network
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
    cfg = load_config("config-f", {f"model.{key}": value for key, value in SMALL.items()})
    cfg = cfg.with_overrides({"data.path": str(images), "data.cond": cond})
    G, D = (build(cfg.model, 8, 3, 3 if cond else 0) for build in (build_generator, build_discriminator))
    file = folder / "network.safetensors"
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


def test_a_network_without_classes_has_no_metrics_by_class(images, tmp_path, capsys):
    file = network(tmp_path, images, cond=False)
    words = ["--metrics", "fid100_tiny", "--by-class", "--num-tasks", "0"]
    assert cli.run(cli.evaluate, [file, str(images), *words]) == 2
    assert "--by-class" in capsys.readouterr().err
