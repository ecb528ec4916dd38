"""TFRecord data sets of the original: read at every level, and written again byte for byte."""

import hashlib
import io

import numpy as np
import pytest

from stylegan_ray.config import DataConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.data.formats import tfrecord_wire
from stylegan_ray.data.formats.tfrecord import write_labels

pytestmark = [pytest.mark.golden, pytest.mark.golden_files("g_dataset", "*_decoded.npz")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path))


@pytest.fixture
def folder(golden_path):
    return golden_path.with_name(golden_path.stem.removesuffix("_decoded"))


def all_images(data, level=0):
    return np.stack([data.read(i, level) for i in range(data.num_images)])


def test_every_level_and_all_labels(golden, folder):
    meta, arrays = golden
    data = open_dataset(DataConfig(path=str(folder), cond=meta["label_size"] > 0))
    assert (list(data.shape()), data.label_size) == (meta["shape"], meta["label_size"])
    compared = set()
    for lod in range(meta["resolution_log2"] - 1):
        images = all_images(data, lod)
        for key, wanted in arrays.items():
            if key == f"out:images_lod{lod}" or key.startswith(f"out:images_lod{lod}_first"):
                np.testing.assert_array_equal(images[: len(wanted)], wanted)
                compared.add(key)
        hashes = meta.get("sha256_of_CHW_bytes_per_image", {}).get(f"images_lod{lod}")
        assert hashes is None or hashes == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    assert compared == {key for key in arrays if key.startswith("out:images")}
    if "out:labels" in arrays:
        np.testing.assert_array_equal(data.labels(np.arange(data.num_images)), arrays["out:labels"])


def test_first_columns_of_the_labels(golden, folder):
    _, arrays = golden
    for key, wanted in arrays.items():
        if key.startswith("out:labels_maxlabel"):
            most = int(key.removeprefix("out:labels_maxlabel"))
            data = open_dataset(DataConfig(path=str(folder), cond=True, max_label_size=most))
            np.testing.assert_array_equal(data.labels(np.arange(data.num_images)), wanted)


def test_written_again_byte_for_byte(golden, folder):
    """From the source images where the golden file has them, else from the largest level as read."""
    meta, arrays = golden
    images = all_images(open_dataset(DataConfig(path=str(folder))))
    if "order" in meta:
        order = tfrecord_wire.export_order(len(images))
        assert order.tolist() == meta["order"]
        images = arrays["in:images"][order] if "in:images" in arrays else images
    levels = zip(*(tfrecord_wire.image_levels(image) for image in images), strict=True)
    written = {}
    for images_of_level in levels:
        name = tfrecord_wire.file_name(folder.name, images_of_level[0].shape[-1])
        written[name] = tfrecord_wire.frame_records([tfrecord_wire.encode_example(image) for image in images_of_level])
    if "in:labels" in arrays or "out:labels" in arrays:
        data, file = open_dataset(DataConfig(path=str(folder), cond=True)), io.BytesIO()
        wanted = arrays["in:labels"][order] if "in:labels" in arrays else arrays["out:labels"]
        np.testing.assert_array_equal(data.labels(np.arange(data.num_images)), wanted)
        write_labels(file, data, np.arange(data.num_images))
        written[f"{folder.name}-rxx.labels"] = file.getvalue()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(written) == sorted(files)
    assert all(written[name] == content for name, content in files.items())
