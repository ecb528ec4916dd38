"""Losses compiled by torch.compile, where that is wanted and possible."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stylegan_ray.credentials import logger_of
from stylegan_ray.data.index import cache_folder

LOG = logger_of(__name__)

BACKEND = "inductor"
"""The compiler of torch.compile that a run uses."""

FORCED_RECOMPILE_LIMIT = 1000
"""Versions of one function that torch.compile keeps inside `force_compile`, where each state has its networks."""

_forced: str | None = None


@contextmanager
def force_compile(way: str) -> Iterator[None]:
    """Compiles every loss inside, whatever train.compile says, by the named backend of torch.compile.

    A loss that cannot be compiled raises instead of running as it is. "aot_eager" traces forward and backward passes
    and makes no machine code; "inductor" is what a run uses.
    """
    global _forced
    before, _forced = _forced, way
    torch.compiler.reset()
    try:
        with torch._dynamo.config.patch(recompile_limit=FORCED_RECOMPILE_LIMIT):  # type: ignore[attr-defined]
            yield
    finally:
        _forced = before
        torch.compiler.reset()


class Compiled:
    """Calls `compute` of losses: each is compiled at its first call, and found in the cache after a restart.

    A loss has several programs where it is given more tensors at times, such as parameters of augmentations once p
    has risen. One that cannot be compiled runs as it is, also after a restart. Equal losses share their code.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        """Whether losses are compiled where that is possible."""
        self.is_compiling = False
        """Whether a loss is being compiled, which takes minutes."""
        self.programs: dict[Any, Any] = {}
        """By loss and the names of its tensors; loss.compute where that could not be compiled."""
        self.reasons: list[str] = []
        """Why losses could not be compiled."""
        if wanted:
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))

    def __call__(self, loss: Any, networks: Any, tensors: Any) -> Any:
        """loss.compute(networks, tensors)."""
        if not (self.wanted or _forced):
            return loss.compute(networks, tensors)
        key = loss, frozenset(name for name, value in tensors.items() if value is not None)
        if key not in self.programs:
            self._compile(key, loss, networks, tensors)
        return self.programs[key](networks, tensors)

    def _compile(self, key: Any, loss: Any, networks: Any, tensors: Any) -> None:
        """Compiles a loss and tries it, forward and backward, leaving no gradients behind."""
        self.is_compiling = True
        program: Any = torch.compile(loss.compute, fullgraph=True, dynamic=False, backend=_forced or BACKEND)
        try:
            torch.autograd.grad(program(networks, tensors).loss.sum(), trained(networks), allow_unused=True)
        except Exception as error:  # whatever a compiler may raise
            if _forced:
                raise
            self._say(loss, (str(error).strip().splitlines() or [type(error).__name__])[0])
            program = loss.compute
        finally:
            self.is_compiling = False
        self.programs[key] = program

    def _say(self, loss: Any, reason: str) -> None:
        """Logs why a loss is not compiled; once where others are not for the same reason."""
        if reason not in self.reasons:
            LOG.warning("train.compile: %s is not compiled, the run continues: %s", type(loss).__name__, reason)
        self.reasons.append(reason)


def trained(networks: Any) -> list[nn.Parameter]:
    """The parameters of the networks that get gradients."""
    return [p for network in networks for p in network.parameters() if p.requires_grad]
