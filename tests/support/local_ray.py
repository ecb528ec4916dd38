"""One small local Ray for the tests of a session."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def ray_local():
    """A Ray of this test session's own with two CPUs."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    if ray.is_initialized():  # by the same fixture of another folder
        yield ray
        return
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", object_store_memory=100 << 20)
    yield ray
    ray.shutdown()
