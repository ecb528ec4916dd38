"""The group of training workers: rank, world size, and the few sums that cross it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This worker's number in the group; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of workers; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(flat: Tensor) -> Tensor:
    """Sums a tensor over the ranks in place and returns it."""
    if world_size() > 1:
        dist.all_reduce(flat)
    return flat


def largest_over_ranks(value: int, device: torch.device | str = "cpu") -> int:
    """The largest value that any rank holds; every rank gets the same answer."""
    if world_size() == 1:
        return value
    box = torch.tensor(value, device=device)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box)


def from_rank0(value: Any) -> Any:
    """The object that rank 0 holds, on every rank."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]
