"""One small local Ray for all tests of the folder, and pictures for those that train."""

from __future__ import annotations

import os

import pytest
from support.jobs import write_pictures


@pytest.fixture(scope="session")
def ray_local():
    """A Ray of this test run's own with two CPUs."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=100 << 20)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of random pictures in two classes."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))
