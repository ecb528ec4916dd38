"""Running the networks on the plain twins of their operations."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from stylegan_ray import networks, ops

ENDING = "_reference"

HOMES = (ops, networks)
"""Packages that offer operations beside their twins."""

SAME_ORDER = frozenset({"conv2d_resample"})
"""Kept as they are, on plain twins of what they call: their own twins define them by a slower order of steps."""


@contextmanager
def plain_twins() -> Iterator[None]:
    """Inside, every module of this package calls the plain twin of each operation that has one.

    The names are exchanged rather than looked up in a switch, so training pays nothing for it.
    """
    twins = twins_by_id()
    exchanged = [
        (module, name, value)
        for module in [m for key, m in sys.modules.items() if key.startswith("stylegan_ray.") and m not in HOMES]
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
    known = {name: value for home in HOMES for name, value in vars(home).items()}
    names = [name for name in known if f"{name}{ENDING}" in known and name not in SAME_ORDER]
    return {id(known[name]): stand_in(known[name], known[f"{name}{ENDING}"]) for name in names}


def stand_in(fast: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """The twin, called like the operation: options that only choose between fast paths are dropped."""
    chooses = set(inspect.signature(fast).parameters) - set(inspect.signature(plain).parameters)
    if not chooses:
        return plain

    @functools.wraps(plain)
    def called(*args: Any, **options: Any) -> Any:
        return plain(*args, **{name: value for name, value in options.items() if name not in chooses})

    return called
