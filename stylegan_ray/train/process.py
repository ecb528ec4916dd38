"""What a process sets before it computes."""

from __future__ import annotations

import os

import torch

from stylegan_ray.config import RunConfig


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
