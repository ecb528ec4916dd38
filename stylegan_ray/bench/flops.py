"""Counting the arithmetic of a piece of work."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

FLOPS_ARE = "2 per multiply-add in convolutions and matrix products, forward and all backward passes, a whole minibatch"


class FlopCounter(TorchDispatchMode):
    """Adds up torch's own formulas over what runs inside.

    torch's FlopCounterMode does the same by module, and cannot follow modules that run without gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out
