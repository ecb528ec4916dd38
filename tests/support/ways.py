"""Every way of computing the networks, forced wherever it is possible, also where it would not pay.

Golden networks are too small for the ways that a training takes on large ones, and run on the machine that is there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from stylegan_ray.networks.discriminator import Discriminator
from stylegan_ray.networks.layers import StyledConv
from stylegan_ray.networks.mapping import Mapping
from stylegan_ray.networks.synthesis import Synthesis
from stylegan_ray.ops import convolution, fir
from stylegan_ray.train import compiled as compiled_module
from stylegan_ray.train import state as state_module

Way = Callable[[pytest.MonkeyPatch], None]


def as_chosen(patch: pytest.MonkeyPatch) -> None:
    """What the trainer takes here: for small networks on a CPU, gradients of weights as products over windows."""


def winograd_everywhere(patch: pytest.MonkeyPatch) -> None:
    """Winograd's 3x3 convolution and gradients of weights, in every data type."""
    patch.setattr(convolution, "suits_winograd", lambda *given: convolution.allows_winograd(*given[:3]))


def direct(patch: pytest.MonkeyPatch) -> None:
    """PyTorch's convolutions and gradients of weights, in derivatives of our own."""
    patch.setattr(convolution, "suits_winograd", lambda *_: False)
    patch.setattr(convolution, "suits_windows", lambda *_: False)


def as_on_gpus(patch: pytest.MonkeyPatch) -> None:
    """PyTorch's own derivatives too, where no second one is needed."""
    direct(patch)
    patch.setattr(convolution, "is_native", lambda x: torch.compiler.is_compiling() or not convolution._penalised)


def grouped(patch: pytest.MonkeyPatch) -> None:
    """Modulated convolutions as one of many groups."""
    forward = StyledConv.forward

    def called(layer, *args, **kwargs):
        layer.grouped = True
        return forward(layer, *args, **kwargs)

    patch.setattr(StyledConv, "forward", called)


def spread(patch: pytest.MonkeyPatch) -> None:
    """Filters that go up by zeros between the pixels, as a CPU does it in low precision."""
    patch.setattr(fir, "LOW_PRECISION", (torch.float32, torch.float64))


def networks_compiled(patch: pytest.MonkeyPatch) -> None:
    """Each network by torch.compile, all the way but for the last step, in which machine code is made."""
    compiler_reset()
    for network in (Mapping, Synthesis, Discriminator):
        program = torch.compile(network.forward, fullgraph=True, dynamic=False, backend="aot_eager")
        patch.setattr(network, "forward", program)


def losses_compiled_by(backend: str) -> Way:
    """Whole losses with their penalties, as a training compiles them, but without a way back to eager code."""

    class Compiled(compiled_module.Programs):
        def _prepare(self, function, args):
            super()._prepare(function, args)
            assert self.compiled, f"{function.__name__} was not compiled"

    def compiled(patch: pytest.MonkeyPatch) -> None:
        compiler_reset()
        patch.setattr(compiled_module, "BACKEND", backend)
        patch.setattr(state_module, "Programs", lambda *_: Compiled(compiled=True))

    return compiled


def compiler_reset() -> None:
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = 1000  # each test brings networks of its own


EAGER: dict[str, Way] = {
    "chosen": as_chosen, "winograd": winograd_everywhere, "direct": direct, "as_on_gpus": as_on_gpus,
    "grouped": grouped, "spread": spread,
}  # fmt: skip
COMPILED: dict[str, Way] = {
    "networks_compiled": networks_compiled,
    "losses_traced": losses_compiled_by("aot_eager"),
    "losses_compiled": losses_compiled_by("inductor"),
}


def every(*compiled: str) -> pytest.MarkDecorator:
    """Runs a test, which takes the fixture `way`, in every eager way and in the named ones that compile, slowly."""
    ways = [pytest.param(way, id=name) for name, way in EAGER.items()]
    ways += [pytest.param(COMPILED[name], id=name, marks=pytest.mark.slow) for name in compiled]
    return pytest.mark.parametrize("way", ways, indirect=True)
