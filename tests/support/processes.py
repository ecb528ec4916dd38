"""Processes of a group that start quickly: forks of one that has imported what all of them need."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(["torch._dynamo", "torch.distributed", "support.toy", "support.plain"])


def spawn(worker: Callable[..., None], args: tuple[Any, ...], nprocs: int) -> None:
    """Calls worker(rank, *args) in as many processes; raises where one fails."""
    mp.start_processes(_call, (dict(os.environ), worker, args), nprocs, start_method="forkserver")


def _call(rank: int, environment: dict[str, str], worker: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Calls the worker with today's environment: the process that forks has that of its own start."""
    os.environ.clear()
    os.environ.update(environment)
    worker(rank, *args)
