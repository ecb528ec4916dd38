"""Tests run with one thread: their networks are so small that more threads cost more than they save."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
