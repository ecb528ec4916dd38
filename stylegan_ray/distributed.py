"""The process group of the training workers: rank, world size, the collectives, and what each process sets first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stylegan_ray.config import RunConfig


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


def start_sum_over_ranks(flat: Tensor) -> Callable[[], object]:
    """Starts to sum a tensor over the ranks in place; what is returned waits for the sum. All ranks start alike."""
    work = dist.all_reduce(flat, async_op=True) if world_size() > 1 else None
    return (lambda: None) if work is None else work.wait


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


def from_all_ranks(mine: Tensor) -> Tensor:
    """The tensors that the ranks hold, stacked in the order of ranks [R,...]."""
    boxes = [torch.empty_like(mine) for _ in range(world_size())]
    if world_size() == 1:
        return mine[None]
    dist.all_gather(boxes, mine)
    return torch.stack(boxes)


def to_rank0(mine: Any) -> list[Any] | None:
    """The objects that the ranks hold, in the order of ranks, on rank 0; None on the others."""
    if world_size() == 1:
        return [mine]
    boxes: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(mine, boxes)
    return boxes


def objects_from_all_ranks(mine: Any) -> list[Any]:
    """The objects that the ranks hold, in the order of ranks."""
    boxes: list[Any] = [mine] * world_size()
    if world_size() > 1:
        dist.all_gather_object(boxes, mine)
    return boxes


def first_sum(device: torch.device | str, addresses: Sequence[str], timeout_sec: float) -> None:
    """Sums something over all ranks once; raises ConnectionError that names who does not answer in time.

    `addresses` are those of all ranks. A sum that waits for ever says nothing about whom it waits for, so each rank
    first signs in at the group's store.
    """
    store = dist.PrefixStore("first_sum", dist.distributed_c10d._get_default_store())
    store.set(str(rank()), "here")
    ones = torch.ones((), device=device)
    work, deadline = dist.all_reduce(ones, async_op=True), time.monotonic() + timeout_sec
    assert work is not None
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise ConnectionError(_who_is_missing(store, addresses, timeout_sec))
        time.sleep(0.01)
    work.wait()
    assert int(ones) == world_size()


def _who_is_missing(store: dist.Store, addresses: Sequence[str], timeout_sec: float) -> str:
    missing = [number for number in range(world_size()) if not store.check([str(number)])]
    who = ", ".join(f"worker {number} on {addresses[number]}" for number in missing)
    what = f"no answer from {who}" if missing else f"all are there, but their first sum ({dist.get_backend()}) hangs"
    return f"{what} after {timeout_sec:g} s; the network between {', '.join(sorted(set(addresses)))} may be broken"


def prepare_process(cfg: RunConfig, threads: int | None) -> None:
    """Threads (None: as many as torch chooses) and kernels as the run wants them."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = cfg.train.allow_tf32
    torch.backends.cudnn.benchmark = not cfg.train.deterministic
    if cfg.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a check for bugs that costs a twentieth
