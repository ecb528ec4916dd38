"""Tests compute with one thread: their networks are so small that threads wait for each other longer than they work."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
