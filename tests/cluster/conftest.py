"""One small local Ray for all tests of the folder, and pictures for those that train."""

from __future__ import annotations

import pytest
from support.jobs import write_pictures
from support.local_ray import ray_local  # noqa: F401


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of random pictures in two classes."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))
