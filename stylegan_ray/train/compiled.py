"""The computations of a training step, compiled by torch.compile where that is wanted and possible."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from stylegan_ray.data.index import cache_folder

LOG = logging.getLogger(__name__)

Function = Callable[..., Any]

BACKEND = "inductor"
"""Which of torch's compilers makes the code."""

CALLS_TO_REPLAY = 3
"""A CUDA graph's code is run, then recorded, then replayed."""


class Programs:
    """Calls computations: each is compiled when it is first called, and found in the cache after a restart.

    They take tensors, networks and constants and give an Outcome. Where one cannot be compiled, all go on as they are.
    With `cuda_graphs` the compiled code is recorded and replayed; an Outcome then lasts until the next call.
    """

    def __init__(self, compiled: bool, cuda_graphs: bool = False) -> None:
        self.compiled, self.cuda_graphs = compiled, cuda_graphs
        self.ready: dict[Function, Function] = {}
        if compiled:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))

    def __call__(self, function: Function, *args: Any) -> Any:
        if not self.compiled:
            return function(*args)
        if function not in self.ready:
            self._prepare(function, args)
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        return self.ready.get(function, function)(*args)

    def _prepare(self, function: Function, args: Sequence[Any]) -> None:
        """Compiles a computation and tries it, forward and backward, leaving no gradients behind."""
        options: Any = {"triton.cudagraphs": True} if self.cuda_graphs else None
        program = torch.compile(function, fullgraph=True, dynamic=False, backend=BACKEND, options=options)
        try:
            for _ in range(CALLS_TO_REPLAY if self.cuda_graphs else 1):
                torch.compiler.cudagraph_mark_step_begin()
                loss = program(*args).loss
                torch.autograd.grad(loss.sum(), learning(args), allow_unused=True)
        except Exception as error:  # whatever a compiler may raise; without it the run goes on
            reason = str(error).strip().splitlines() or [type(error).__name__]
            LOG.warning("train.compile: %s is not compiled, the run goes on without: %s", function.__name__, reason[0])
            self.compiled = False
        else:
            self.ready[function] = program


def learning(args: Sequence[Any]) -> list[nn.Parameter]:
    """The parameters of networks among the arguments that get gradients."""
    networks = [arg for arg in args if isinstance(arg, nn.Module)]
    return [p for network in networks for p in network.parameters() if p.requires_grad]
