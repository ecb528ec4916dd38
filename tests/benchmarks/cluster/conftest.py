"""Benchmarks of the cluster run on one small local Ray."""

from support.local_ray import ray_local  # noqa: F401
