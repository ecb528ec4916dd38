"""Running the networks, and how training calls D, on the plain twins of their operations."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stylegan_ray import ops
from stylegan_ray.train import losses

ENDING = "_reference"

SAME_ORDER = frozenset({"conv2d_resample"})
"""Kept, on plain twins of what they call: their own twins define them by a slower order of steps."""


@contextmanager
def plain_twins() -> Iterator[None]:
    """Inside, every module of stylegan_ray calls the plain twin of each operation that has one.

    Names are exchanged rather than looked up in a switch, which costs training nothing.
    """
    twins = twins_by_id()
    exchanged = [
        (module, name, value)
        for module in [m for key, m in sys.modules.items() if key.startswith("stylegan_ray.") and m is not ops]
        for name, value in vars(module).items()
        if id(value) in twins
    ]
    try:
        for module, name, value in exchanged:
            setattr(module, name, twins[id(value)])
        yield
    finally:
        for module, name, value in exchanged:
            setattr(module, name, value)


def twins_by_id() -> dict[int, Callable[..., Any]]:
    """The plain twin of each operation, by the operation's id()."""
    known = vars(ops)
    names = [name for name in known if f"{name}{ENDING}" in known and name not in SAME_ORDER]
    twins = {id(known[name]): stand_in(known[name], known[f"{name}{ENDING}"]) for name in names}
    return twins | {id(losses.score): score_reference}


def score_reference(
    D: Any,
    batches: Sequence[tuple[Tensor, Tensor | None]],
    lod: float = 0.0,
    augment: Callable[[Tensor], Tensor] | None = None,
    full_precision: bool = False,
) -> tuple[Tensor, ...]:
    """The definition of `losses.score`: a forward pass for each batch."""
    images = torch.cat([images for images, _ in batches])
    seen = (images if augment is None else augment(images)).chunk(len(batches))
    return tuple(
        D(x, labels, lod=lod, full_precision=full_precision) for x, (_, labels) in zip(seen, batches, strict=True)
    )


def stand_in(fast: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """The twin, called like the operation: options that only choose between fast paths are dropped."""
    chooses = set(inspect.signature(fast).parameters) - set(inspect.signature(plain).parameters)
    if not chooses:
        return plain

    @functools.wraps(plain)
    def called(*args: Any, **options: Any) -> Any:
        return plain(*args, **{name: value for name, value in options.items() if name not in chooses})

    return called
