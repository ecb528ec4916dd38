"""Every way of computing networks and losses, forced wherever it is possible, also where it does not pay.

Golden networks are too small for the ways that training chooses for large ones, and run on the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pytest
from torch import nn

from stylegan_ray import ops
from stylegan_ray.networks import Generator
from stylegan_ray.train import compiled

Prepare = Callable[[nn.Module], nn.Module]
"""Returns a network that computes in a way."""
Way = Callable[[], AbstractContextManager[Prepare]]
"""Everything inside computes in a way, networks that have been prepared."""


@contextmanager
def as_chosen() -> Iterator[Prepare]:
    """What training chooses here: for small networks on a CPU, gradients of weights as products over windows."""
    yield lambda network: network


@contextmanager
def by_operations(name: str) -> Iterator[Prepare]:
    """Operations in one of their ways."""
    with ops.forced(name):
        yield lambda network: network


@contextmanager
def networks_compiled() -> Iterator[Prepare]:
    """Each network by torch.compile, traced forward and backward without making machine code."""
    with compiled.force_compile("aot_eager"):
        yield traced


def traced(network: nn.Module) -> nn.Module:
    """The network with its calls compiled; of a generator those of its two parts."""
    for part in (network.mapping, network.synthesis) if isinstance(network, Generator) else (network,):
        part.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    return network


@contextmanager
def losses_compiled(backend: str) -> Iterator[Prepare]:
    """Whole losses with their penalties, as training compiles them, but without a way back to eager code."""
    with compiled.force_compile(backend):
        yield lambda network: network


EAGER: dict[str, Way] = {
    "chosen": as_chosen,
    **{name: partial(by_operations, name) for name in ("winograd", "direct", "as_on_gpus", "grouped", "spread")},
}
COMPILED: dict[str, Way] = {
    "networks_compiled": networks_compiled,
    "losses_traced": partial(losses_compiled, "aot_eager"),
    "losses_compiled": partial(losses_compiled, "inductor"),
}


def every(*names: str) -> pytest.MarkDecorator:
    """Runs a test, which uses the fixture `way`, in every eager way and in the named compiled ones.

    `-m golden` runs it as chosen, `-m ways` in the eager ways, `-m "ways and slow"` in the compiled ones.
    """
    ways = [pytest.param(way, id=name, marks=pytest.mark.ways) for name, way in EAGER.items()]
    ways += [pytest.param(COMPILED[name], id=name, marks=[pytest.mark.ways, pytest.mark.slow]) for name in names]
    return pytest.mark.parametrize("way", ways, indirect=True)


def is_chosen(item: pytest.Item) -> bool:
    """Whether a collected test computes as training chooses."""
    return item.callspec.params.get("way", as_chosen) is as_chosen if hasattr(item, "callspec") else True
