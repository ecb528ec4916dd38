"""Checks that all workers hold the same state, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stylegan_ray import distributed
from stylegan_ray.train.state import TrainState

GOLDEN_RATIO = 0x9E3779B97F4A7C15 - 2**64
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a tensor's elements."""


class ReplicaError(ValueError):
    """The workers of a run hold different states, so they do not train one network."""


def check_replicas(state: TrainState, address: str) -> None:
    """Raises ReplicaError on every rank when a tensor or counter differs between them; all ranks call it."""
    if distributed.world_size() == 1:
        return
    tensors, counters = state.tensors(), state.counters()
    del counters["elapsed_sec"]  # each worker has its own clock
    hashes = torch.tensor([digest_of_json(value) for value in counters.values()], device=state.device)
    mine = torch.cat([torch.stack([digest(value) for value in tensors.values()]), hashes])  # [T]
    digests = distributed.from_all_ranks(mine).tolist()  # R lists of T
    names = [*tensors, *counters]
    differing = [index for index in range(len(names)) if len({row[index] for row in digests}) > 1]
    if differing:
        ranks = odd_ranks([row[differing[0]] for row in digests])
        addresses = distributed.objects_from_all_ranks(address)
        raise ReplicaError(_explained([names[index] for index in differing], ranks, addresses, state.cur_nimg))


def digest(tensor: Tensor) -> Tensor:
    """A 64-bit hash of a tensor on its device, which differs when one element differs.

    The sum modulo 2^64 of the bits of each element times an odd number of its own.
    """
    words = tensor.detach().contiguous().view(-1).view(WORDS[tensor.element_size()]).long()
    places = torch.arange(len(words), device=words.device)
    return (words * (places * GOLDEN_RATIO | 1)).sum()


def digest_of_json(value: Any) -> int:
    """A 64-bit hash of a value in JSON types."""
    text = json.dumps(value, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def odd_ranks(values: Sequence[int]) -> list[int]:
    """The ranks whose value is not that of the majority; all ranks where there is none."""
    value, count = Counter(values).most_common(1)[0]
    if 2 * count <= len(values):
        return list(range(len(values)))
    return [rank for rank, other in enumerate(values) if other != value]


def _explained(names: Sequence[str], ranks: Sequence[int], addresses: Sequence[str], nimg: int) -> str:
    who = ", ".join(f"{rank} on {addresses[rank]}" for rank in ranks)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    odd = f"different on worker {who} from the others" if len(ranks) < len(addresses) else f"different on workers {who}"
    return (
        f"at {nimg / 1000:g} kimg {names[0]}{more} is {odd}: a machine has faulty hardware, or an operation is not "
        f"deterministic (train.deterministic). Remove that machine and run the same command again; to be sure, first "
        f"delete the checkpoints written since the previous check (train.replica_check_ticks)"
    )
