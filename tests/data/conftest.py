"""A cache of its own for every test of data sets."""

import shutil

import pytest

from stylegan_ray.config import DataConfig
from stylegan_ray.data import openmoji


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def drawn_emoji(tmp_path_factory):
    """A cache folder in which the built-in images are drawn at 16 px."""
    folder = tmp_path_factory.mktemp("emoji")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_RAY_CACHE", str(folder))
        openmoji.prepare(DataConfig(resolution=16))
    return folder


@pytest.fixture
def all_emoji(cache, drawn_emoji):
    """The built-in images at 16 px in the cache of the test."""
    shutil.copytree(drawn_emoji, cache)
