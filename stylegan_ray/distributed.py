"""The process group of the training workers: rank, world size, collectives; and the settings of each process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stylegan_ray.config import RunConfig


class LostPeerError(RuntimeError):
    """A collective operation failed because another worker is gone or cannot be reached."""

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation = operation
        """The function of this module that failed."""
        self.reason = reason
        """What the communication library says."""

    def __str__(self) -> str:
        return f"{self.operation} lost another worker: {self.reason}"


@contextmanager
def collective(operation: str) -> Iterator[None]:
    """Raises LostPeerError where a collective call fails inside: by its peers, not by memory or the device.

    While it lasts, `waits_in` tells its name.
    """
    global _waits_in
    _waits_in = operation
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except RuntimeError as error:  # gloo raises it bare, NCCL and the store as dist.DistError, a subclass
        raise LostPeerError(operation, str(error)) from error
    finally:
        _waits_in = None


_waits_in: str | None = None


def waits_in() -> str | None:
    """The function of this module that this process is in, and waits for the other workers; for other threads."""
    return _waits_in


def rank() -> int:
    """Number of this worker in the group; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of workers; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(flat: Tensor) -> Tensor:
    """Sums a tensor over the ranks in place and returns it."""
    if world_size() > 1:
        with collective("sum_over_ranks"):
            dist.all_reduce(flat)
    return flat


def largest_over_ranks(value: int, device: torch.device | str = "cpu") -> int:
    """The largest value of all ranks, on every rank."""
    if world_size() == 1:
        return value
    box = torch.tensor(value, device=device)
    with collective("largest_over_ranks"):
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box)


def from_rank0(value: Any) -> Any:
    """The object of rank 0, on every rank."""
    box = [value]
    if world_size() > 1:
        with collective("from_rank0"):
            dist.broadcast_object_list(box, src=0)
    return box[0]


def until_rank0(step: Callable[[float], bool], most_sec: float) -> bool:
    """Calls `step(seconds)` on rank 0 until it returns true, or for `most_sec`; whether it did, on every rank.

    A step may take the seconds that it is given. The others wait in collective calls that are much shorter than the
    timeout of the group.
    """
    deadline = time.monotonic() + most_sec
    while True:
        left = deadline - time.monotonic()
        is_done = rank() == 0 and step(min(STEP_SEC, max(left, 0.0)))
        is_done, is_late = from_rank0((is_done, left <= 0))
        if is_done or is_late:
            return is_done


STEP_SEC = 10.0
"""Of `until_rank0`."""


def from_all_ranks(mine: Tensor) -> Tensor:
    """The tensors of all ranks, stacked in the order of ranks [R,...]."""
    if world_size() == 1:
        return mine[None]
    boxes = [torch.empty_like(mine) for _ in range(world_size())]
    with collective("from_all_ranks"):
        dist.all_gather(boxes, mine)
    return torch.stack(boxes)


def to_rank0(mine: Any) -> list[Any] | None:
    """The objects of all ranks in the order of ranks, on rank 0; None on the others."""
    if world_size() == 1:
        return [mine]
    boxes: list[Any] | None = [None] * world_size() if rank() == 0 else None
    with collective("to_rank0"):
        dist.gather_object(mine, boxes)
    return boxes


def objects_from_all_ranks(mine: Any) -> list[Any]:
    """The objects of all ranks in the order of ranks, on every rank."""
    boxes: list[Any] = [mine] * world_size()
    if world_size() > 1:
        with collective("objects_from_all_ranks"):
            dist.all_gather_object(boxes, mine)
    return boxes


def first_sum(store: dist.Store, device: torch.device | str, addresses: Sequence[str], timeout_sec: float) -> None:
    """Sums a number over all ranks; raises ConnectionError that names the workers that do not answer in time.

    `addresses` are those of all ranks. A sum that hangs does not say which rank it waits for, so each rank first writes
    to the store, in which nothing else writes.
    """
    ones = torch.ones((), device=device)
    with collective("first_sum"):
        store.set(str(rank()), "here")
        work, deadline = dist.all_reduce(ones, async_op=True), time.monotonic() + timeout_sec
        assert work is not None
        while not work.is_completed():
            if time.monotonic() > deadline:
                raise ConnectionError(_missing_workers(store, addresses, timeout_sec))
            time.sleep(0.01)
        work.wait()
    assert int(ones) == world_size()


def _missing_workers(store: dist.Store, addresses: Sequence[str], timeout_sec: float) -> str:
    missing = [number for number in range(world_size()) if not store.check([str(number)])]
    who = ", ".join(f"worker {number} on {addresses[number]}" for number in missing)
    hangs = f"all workers have started, but their first sum ({dist.get_backend()}) hangs"
    what = f"no answer from {who}" if missing else hangs
    return f"{what} after {timeout_sec:g} s; check the network between {', '.join(sorted(set(addresses)))}"


def prepare_process(cfg: RunConfig, threads: int | None) -> None:
    """Sets threads (None: as many as torch chooses), the allocator, and kernels as the configuration says."""
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = cfg.train.allow_tf32
    torch.backends.cudnn.benchmark = not cfg.train.deterministic
    if cfg.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # It looks for bugs, and takes 5 % of the time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, up to KEPT_BYTES, for the next tensors; other C libraries are left as they are.

    Else it returns large blocks to the system, which clears each page when it is used again: with `tiny` in
    minibatches of 32, 6,000 page faults and 3 % of the processor time of an iteration.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(parameter, KEPT_BYTES)


def freeze_objects() -> None:
    """Takes what lives now to live as long as the process: Python looks for garbage among newer objects only.

    It does so when these have grown by a quarter. Among the 450,000 objects of a training worker, most of them of
    modules, garbage of Ray Data would wait for so long that the process grows, and the search takes 0.3 s.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # from here on a quarter of what is left counts


def return_freed_memory() -> None:
    """Makes glibc return freed memory to the system, of all threads.

    Each thread that ends leaves its freed memory behind, and the next one may begin with memory of its own: a process
    that computes metrics in a thread each time grew from 400 to 600 MB in an hour.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
