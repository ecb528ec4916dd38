"""Running out of memory: which errors mean it, and which keys help."""

from __future__ import annotations

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a worker's error says that memory is short, of the GPU or of the machine."""
    if isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_ALLOCATOR):
        return True
    return isinstance(error, (MemoryError, torch.OutOfMemoryError, OutOfMemoryError))
