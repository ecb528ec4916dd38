"""Ways of computing the operations, and `forced`, which selects one of them wherever it is possible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from torch import Tensor

Way = Literal[
    "winograd", "direct", "as_on_gpus", "grouped", "spread", "resampled", "gathered", "low_precision", "widened"
]

_way: Way | None = None


@contextmanager
def forced(way: Way) -> Iterator[None]:
    """Computes in one way wherever it is possible, also where it is slower than the usual one.

    Which way an operation takes usually depends on device, data type and sizes. Inside, it is

    - `winograd`: 3x3 convolutions, and gradients of their weights, by Winograd's algorithm, in every data type;
    - `direct`: PyTorch's convolutions and gradients of weights, neither Winograd nor im2col;
    - `as_on_gpus`: as `direct`, and PyTorch's own derivatives where no second derivative is needed;
    - `grouped`: modulated convolutions as one convolution with a group for each sample;
    - `spread`: upsampling filters on an image with explicit zeros between its pixels;
    - `resampled`: warps by padding and filtering, as large images;
    - `gathered`: warps by gathering pixels, as compiled code and deterministic algorithms on GPUs;
    - `low_precision`: bfloat16 and float16 as on a CPU with instructions for them;
    - `widened`: bfloat16 and float16 as on a CPU without instructions for them.

    The results agree to rounding, which tests check on any machine. Holds for the whole process, since autograd may
    run derivatives in threads of its own; the way before is restored on exit. Raises ValueError for an unknown way.
    """
    global _way
    if way not in get_args(Way):
        raise ValueError(f"way={way!r} must be one of {', '.join(get_args(Way))}")
    before, _way = _way, way
    try:
        yield
    finally:
        _way = before


def is_forced(*ways: Way) -> bool:
    """Whether one of these ways is forced."""
    return _way in ways


def is_on_cpu(x: Tensor) -> bool:
    """Whether x is computed as on a CPU; so are meta tensors, which have shapes and no memory."""
    return x.device.type in ("cpu", "meta")
