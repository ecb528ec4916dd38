"""Tensors in one block of memory that is a safetensors file: what a training saves is written without more copies."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Names of dtypes in the format."""
ALIGNMENT = 8
"""Of the first tensor, by spaces after the header; larger elements come first, so that all are aligned."""


class PackedTensors(Mapping[str, Tensor]):
    """A copy of tensors on the CPU.

    The block is not taken from the heap: there, blocks of this size that live on while a training allocates and frees
    leave holes, and its process grows for hours. A new block costs the system as long as the copy itself; `spare` is
    one that is not needed any more, whose block is taken where it has the size.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str] | None = None,
        spare: PackedTensors | None = None,
    ) -> None:
        names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
        offsets, end = {}, 0
        for name in names:
            tensor = tensors[name]
            offsets[name], end = end, end + tensor.numel() * tensor.element_size()
            header[name] = {
                "dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offsets[name], end],
            }  # fmt: skip
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        start = len(text).to_bytes(8, "little") + text
        is_cuda = any(tensor.is_cuda for tensor in tensors.values())
        size = len(start) + end
        block = spare._block if spare is not None and len(spare.content) == size else _new_block(size, is_cuda)
        self._block, self.content = block, block.numpy().data
        """The file."""
        self.content[: len(start)] = start
        self._views = {
            name: _view(block[len(start) + offsets[name] :], tensors[name]).copy_(tensors[name], non_blocking=is_cuda)
            for name in names
        }
        if is_cuda:
            torch.cuda.synchronize()

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def outside_heap(content: bytes) -> memoryview:
    """A copy of some bytes in a block as above."""
    block = _pages(len(content))
    block[:] = content
    return memoryview(block)


def _pages(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _new_block(size: int, is_pinned: bool) -> Tensor:
    if is_pinned:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    return torch.frombuffer(_pages(size), dtype=torch.uint8)


def _view(rest: Tensor, like: Tensor) -> Tensor:
    """The beginning of the rest of a block, as a tensor of this dtype and shape."""
    return rest[: prod(like.shape) * like.element_size()].view(like.dtype).view(like.shape)
