"""What goes wrong in a run, named in one line each: what it was, where the run stood, and where it goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError
from ray.train import UserCallback
from ray.train.v2.api.exceptions import WorkerGroupError

from stylegan_ray.storage import one_line

COMMUNICATION = ("gloo", "nccl", "connection", "socket", "broken pipe", "peer")
DEVICE = ("cuda error", "cudnn_status", "cublas_status")
"""Words in a RuntimeError of a lost peer, and of a GPU that failed."""


class AskedToEnd(Exception):  # noqa: N818
    """A worker was told by its machine to end, and the state has been saved."""


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: lost peers, nodes or storage, but not errors of data, numbers or code."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if isinstance(error, (RayError, OSError, dist.DistError, AskedToEnd)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in (*COMMUNICATION, *DEVICE))


def verb_of(error: BaseException) -> str:
    """What a worker did that ends with this error: its numbers ran away, or anything else."""
    return "diverged" if isinstance(error, FloatingPointError) else "failed"


def tells_divergence(failure: str) -> bool:
    """Whether the words in which a worker's failure is told say that its numbers ran away."""
    return failure.partition(":")[0].endswith(" diverged")


def is_final(error: BaseException) -> bool:
    """Whether Ray Train ended because the workers failed more often than cluster.max_failures allows."""
    return isinstance(error, WorkerGroupError)


def lost_peer(error: BaseException) -> bool:
    """Whether an error is the echo of what happened to another worker."""
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in COMMUNICATION)


def described(errors: Mapping[int, BaseException]) -> str:
    """What happened to a group of workers, given the error of each rank that has one: causes rather than echoes."""
    causes = {rank: error for rank, error in errors.items() if _death(error) or isinstance(error, AskedToEnd)}
    causes = causes or {rank: error for rank, error in errors.items() if not lost_peer(error)} or dict(errors)
    ranks: dict[str, list[int]] = {}
    for rank, error in sorted(causes.items()):
        ranks.setdefault(_happened(error), []).append(rank)
    return "; ".join(f"{_workers(of)} {text}" for text, of in ranks.items())


def _workers(ranks: list[int]) -> str:
    return f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _death(error: BaseException) -> RayActorError | None:
    """The end of a worker's process, where that is what an error reports."""
    error = getattr(error, "health_check_failure", error)
    return error if isinstance(error, RayActorError) else None


def _happened(error: BaseException) -> str:
    death = _death(error)
    if death is None:
        if "has been hanging" in str(error):
            return "did not answer any more"
        if lost_peer(error):
            return f"lost the others: {one_line(error, 120)}"
        return str(error) if isinstance(error, AskedToEnd) else f"failed: {type(error).__name__}: {one_line(error)}"
    text = str(death)
    pid, ip = (found[1] if (found := re.search(rf"{key}: (\S+)", text)) else "?" for key in ("pid", "ip"))
    if death.preempted:
        return f"went with its node {ip}, which was taken away"
    if "node has died" in text or "node was terminated" in text or "node died" in text:
        return f"died with its node {ip}"
    if "low on memory" in text:
        return f"(process {pid} on {ip}) was killed because the node ran out of memory"
    return f"(process {pid} on {ip}) was killed"


class FaultTeller(UserCallback):
    """Tells the mailbox why a group of workers ended; lives in the controller of Ray Train."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self.mailbox.fault.remote(described(worker_exceptions))
