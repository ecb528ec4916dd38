"""Counting the arithmetic of a piece of work, and the memory it passes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

FLOPS_ARE = "2 per multiply-add in convolutions and matrix products, forward and all backward passes, a whole minibatch"
BYTES_ARE = "read and written by every operation, as if nothing stayed in a cache between two of them"


class ArithmeticCounter(TorchDispatchMode):
    """Adds up torch's own formulas of flops, and the sizes of what operations take and give, over what runs inside.

    torch's FlopCounterMode counts flops by module, and cannot follow modules that run without gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        if not func.is_view and func._overloadpacket not in ALLOCATIONS:
            self.bytes += sum(size_of(leaf) for leaf in tree_leaves((args, kwargs, out)))
        return out


ALLOCATIONS = frozenset(
    {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.new_empty, torch.ops.aten.empty_strided}
)


def size_of(value: Any) -> int:
    """Bytes that a tensor takes in memory, repeated ones once."""
    if not isinstance(value, Tensor) or value.numel() == 0:
        return 0
    stored = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return min(stored, value.numel()) * value.element_size()
