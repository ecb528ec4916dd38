"""A cache of its own for every test of data sets."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(folder))
    return folder
