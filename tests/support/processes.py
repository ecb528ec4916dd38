"""Processes of a group that start quickly: forks of one that has imported what all of them need."""

from __future__ import annotations

import multiprocessing

import torch.multiprocessing as mp

multiprocessing.set_forkserver_preload(["torch._dynamo", "torch.distributed", "support.toy", "support.plain"])


def spawn(worker, args: tuple, nprocs: int) -> None:
    """Calls worker(rank, *args) in as many processes; raises where one fails."""
    mp.start_processes(worker, args, nprocs, start_method="forkserver")
