"""The command that prepares data sets writes what the original exporter wrote, byte for byte."""

import json

import numpy as np
import pytest
from PIL import Image

from stylegan_ray import cli
from stylegan_ray.config import DataConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.data.formats import tfrecord_wire

pytestmark = [pytest.mark.golden, pytest.mark.golden_files("g_dataset", "*_decoded.npz")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(golden_path):
    return golden_path.with_name(golden_path.stem.removesuffix("_decoded"))


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def prepare(*words):
    assert cli.run(cli.prepare_data, [*map(str, words), "--workers", "0"]) == 0


def test_from_the_source_images(golden, folder, tmp_path):
    """The images in the order in which the original read them, as PNG files with labels in dataset.json."""
    meta, arrays = golden
    data = open_dataset(DataConfig(path=str(folder), cond=meta["label_size"] > 0))
    written = np.stack([data.read(i) for i in range(data.num_images)])
    order = tfrecord_wire.export_order(data.num_images) if "order" in meta else np.arange(data.num_images)
    place = np.argsort(order)
    images = arrays.get("in:images", written[place])
    labels = arrays.get("in:labels", data.labels(place))
    (tmp_path / "source").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(
            tmp_path / f"source/{i:04d}.png"
        )
    named = [[f"{i:04d}.png", label.tolist()] for i, label in enumerate(labels)]
    (tmp_path / "source/dataset.json").write_text(json.dumps({"labels": named if data.label_size else None}))
    dest = tmp_path / folder.name
    prepare(tmp_path / "source", dest, "--shuffle" if "order" in meta else "--no-shuffle")
    assert content(dest) == content(folder)


def test_from_the_written_data_set(golden, folder, tmp_path):
    prepare(folder, tmp_path / folder.name, "--no-shuffle")
    assert content(tmp_path / folder.name) == content(folder)
