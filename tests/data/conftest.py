"""Small sets of pictures, and a cache of their own for every test."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from stylegan_ray.config import DataConfig
from stylegan_ray.data import open_dataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(folder))
    return folder


def noise_picture(seed, size=(16, 16), mode="RGB"):
    """A picture of random pixels; size is (height, width)."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8))


def png(image, kind="PNG"):
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Writes a folder of files {name: bytes or picture} and returns its path."""

    def write(files, name="pictures"):
        for file, content in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else png(content))
        return tmp_path / name

    return write


@pytest.fixture
def zipped(tmp_path):
    """Writes a zip of files {name: bytes or picture} and returns its path."""

    def write(files, name="pictures.zip", compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            for file, content in files.items():
                archive.writestr(file, content if isinstance(content, bytes) else png(content))
        return tmp_path / name

    return write


def numbered(count, **kwargs):
    """{name: picture} of so many different pictures."""
    return {f"{i:03d}.png": noise_picture(i, **kwargs) for i in range(count)}


def label_json(labels):
    """The bytes of a dataset.json."""
    return json.dumps({"labels": labels}).encode()


def opened(path, seed=0, progress=None, **keys):
    """The data set at a path with keys of the data section."""
    return open_dataset(DataConfig(path=str(path), **keys), seed, progress)
