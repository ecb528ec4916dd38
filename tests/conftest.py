"""Tests run with one thread: their networks are so small that more threads cost more than they save."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else other tests leave the processes of Ray no time


def pytest_collection_modifyitems(items):
    """Puts tests that start clusters first: they take longest, and files are handed to workers in this order."""
    items.sort(key=lambda item: "cluster/" not in item.nodeid)
