"""StyleGAN2-ADA's data set archives: images, labels and subsets as its reader returns them."""

import hashlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from stylegan_ray import cli
from stylegan_ray.config import DataConfig
from stylegan_ray.data import open_dataset

pytestmark = [pytest.mark.golden, pytest.mark.golden_files("h_ada_dataset", "*.npz")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path))


def opened(golden_path, file_name, **keys):
    return open_dataset(DataConfig(path=str(golden_path.parent / file_name), **keys))


def test_images_and_labels(golden, golden_path):
    meta, arrays = golden
    assert meta["datasets"]
    for name, expected in meta["datasets"].items():
        data = opened(golden_path, f"{name}.zip", cond=expected["label_dim"] > 0)
        assert (data.num_images, data.label_size) == (expected["len"], expected["label_dim"])
        assert list(data.shape()) == expected["image_shape"]
        images = [data.read(i) for i in range(data.num_images)]
        hashes = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        assert hashes == expected["sha256_of_CHW_bytes_per_image"]
        for key, wanted in arrays.items():
            if key.startswith(f"out:{name}_images_first"):
                np.testing.assert_array_equal(images[: len(wanted)], wanted)
        np.testing.assert_array_equal(data.labels(np.arange(data.num_images)), arrays[f"out:{name}_labels"])


def test_subset_is_the_original_choice(golden, golden_path):
    """The original doubles a mirrored set; here flips are drawn per position, so only its first half is compared."""
    meta, arrays = golden
    case = meta["subset_case"]
    size, seed = case["max_size"], case["random_seed"]
    cfg = DataConfig(path=str(golden_path.parent / case["path"]), cond=True, subset=size)
    data = open_dataset(cfg, seed)
    key = f"out:sub{size}_{'xflip_' if case['xflip'] else ''}seed{seed}"
    np.testing.assert_array_equal(data.rows, arrays[f"{key}_raw_idx"][:size])
    np.testing.assert_array_equal(data.labels(np.arange(size)), arrays[f"{key}_labels"][:size])


def test_scaling_is_that_of_the_original_tool(golden, tmp_path):
    """`data.resize` scales source images as the original tool did when it wrote the archives."""
    meta, arrays = golden
    sources = arrays["in:source_images_hwc"]
    for i, image in enumerate(sources):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    for name, expected in meta["datasets"].items():
        if expected["image_shape"][0] != 3:
            continue
        resize = "box" if "box" in name else "lanczos"
        cfg = DataConfig(path=str(tmp_path), resolution=expected["resolution"], crop="center", resize=resize)
        data = open_dataset(cfg)
        hashes = [hashlib.sha256(data.read(i).tobytes()).hexdigest() for i in range(len(sources))]
        found = set(hashes) & set(expected["sha256_of_CHW_bytes_per_image"])
        is_whole = expected["len"] == len(arrays["in:source_labels"])  # else the archive holds a part of the sources
        assert len(found) == len(sources) if is_whole else found, name


def test_archives_are_written_as_the_original_tool_wrote_them(golden, golden_path, tmp_path):
    """Every entry has the same bytes; only its date is fixed here."""
    meta, _ = golden
    for name in meta["datasets"]:
        source, dest = golden_path.parent / f"{name}.zip", tmp_path / f"{name}.zip"
        assert cli.run(cli.prepare_data, [str(source), str(dest), "--workers", "0"]) == 0
        with zipfile.ZipFile(source) as wanted, zipfile.ZipFile(dest) as written:
            assert written.namelist() == wanted.namelist()
            for entry in wanted.infolist():
                assert written.getinfo(entry.filename).compress_type == entry.compress_type == zipfile.ZIP_STORED
                assert written.read(entry.filename) == wanted.read(entry.filename)
