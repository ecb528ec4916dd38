"""Running out of memory: which errors mean it, and which keys help."""

from __future__ import annotations

import re

import torch
from ray.exceptions import OutOfMemoryError

CPU_ALLOCATOR = ("DefaultCPUAllocator", "can't allocate memory")
"""Words of the RuntimeError that torch raises where a CPU has no memory."""
ADVICE = (
    "give --train.recompute_activations N (a little slower, the same results), or place fewer workers on a machine "
    "(cluster.num_workers, cluster.cpus_per_worker) and read less ahead (cluster.read_ahead); a new run can have a "
    "smaller schedule.minibatch_gpu, which --schedule.minibatch_gpu auto chooses by the memory that there is"
)
"""What helps a run that exists, and a new one."""


KILLED = "low on memory"
"""Words of Ray where its memory monitor has killed a process, of a worker or of Ray Train."""
PLACE = re.compile(r"Memory on the node \(IP: ([^,)\s]+)")
OUT_OF_MEMORY = "the node ran out of memory"


def describe_kill(error: BaseException) -> str | None:
    """What Ray's memory monitor did, in a few words, where that is what an error reports; else None."""
    if not isinstance(error, OutOfMemoryError) and KILLED not in str(error):
        return None
    place = PLACE.search(str(error))
    return f"was killed because {OUT_OF_MEMORY}{f' ({place[1]})' if place else ''}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a worker's error says that memory is short, of the GPU or of the machine."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_ALLOCATOR):
        return True
    return isinstance(error, (MemoryError, torch.OutOfMemoryError, OutOfMemoryError))
