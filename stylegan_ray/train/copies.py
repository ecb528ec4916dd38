"""Copies to the device; to a GPU they go from pinned memory while it computes what was asked of it before."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device.

    The loop asks for a minibatch while the GPU is busy with the one before, so on a stream of its own the copy is done
    when its turn comes.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    current = torch.cuda.current_stream(device)
    with torch.cuda.stream(copying(device)):
        copy = tensor.pin_memory().to(device, non_blocking=True)
    current.wait_stream(copying(device))
    copy.record_stream(current)
    return copy


@cache
def copying(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies to a GPU."""
    return torch.cuda.Stream(device)
