"""The gradients of one network in one flat buffer, summed over the ranks in buckets as they come."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from stylegan_ray import distributed

NUM_BUCKETS, LEAST_BYTES = 16, 64 << 10
"""The buffer is cut into so many buckets, but none much smaller than this: each costs the network's latency."""


class Gradients:
    """Gradient buffer of a network, with room at its end for scalars that ride along in the reduction.

    Parameters stand in the reverse of their order, about as a backward pass reaches them. Those that a phase does not
    reach keep a zero gradient, as in the original: Adam's moments of a layer that is not grown yet stay zero while the
    step count is everybody's.
    """

    def __init__(self, network: nn.Module, num_passengers: int) -> None:
        parameters = list(network.parameters())[::-1]
        sizes = [p.numel() for p in parameters]
        self.num_values = sum(sizes)
        self.flat = parameters[0].new_zeros(self.num_values + num_passengers).detach()
        self.passengers = self.flat[self.num_values :]
        """Values summed over ranks beside the gradients; reset by `zero`."""
        for parameter, view in zip(parameters, self.flat[: self.num_values].split(sizes), strict=True):
            parameter.grad = view.view_as(parameter)  # autograd adds into it in place
        self.buckets = Buckets(self.flat, sizes)
        if distributed.world_size() > 1:
            for number, parameter in enumerate(parameters):
                parameter.register_post_accumulate_grad_hook(self._arrival(number))

    def _arrival(self, number: int) -> Callable[[Tensor], None]:
        return lambda _: self.buckets.arrived(number)

    def zero(self) -> None:
        self.flat.zero_()

    def is_last_backward(self, kind: Hashable) -> None:
        """Says that the next backward pass completes the gradients, so that sums may start as they come.

        Passes of one `kind` reach the same parameters; the first one of a kind finds out which.
        """
        self.buckets.expect(kind)

    def are_complete(self) -> None:
        """Says that nothing is added any more: all sums that have not started do so."""
        self.buckets.start_rest()

    def reduce(self) -> None:
        """Sums gradients and passengers over the ranks; shares were applied before, so a plain sum is the mean."""
        self.buckets.finish()

    def num_nonfinite(self) -> Tensor:
        """1.0 when any gradient is not finite, else 0.0, as a tensor on the device (float32)."""
        extremes = torch.stack(torch.aminmax(self.flat[: self.num_values]))  # no copy of all, as by isfinite
        return (~extremes.isfinite().all()).float()


class Buckets:
    """Sums neighbouring parts of a flat buffer over the ranks, always in the same order.

    A bucket starts when all gradients in it have arrived and the one before has started; what arrives in which order,
    or not at all, moves the start and nothing else. The last one, with the passengers, starts at the end.
    """

    def __init__(self, flat: Tensor, sizes: Sequence[int]) -> None:
        ends = bucket_ends(sizes, flat.element_size())
        self.bucket_of = [number for number, (a, b) in enumerate(pairwise([0, *ends])) for _ in range(a, b)]
        places = [0, *(sum(sizes[:end]) for end in ends[:-1]), len(flat)]
        self.parts = [flat[a:b] for a, b in pairwise(places)]
        self.reached: dict[Hashable, frozenset[int]] = {}
        """Numbers of the parameters that each kind of pass reaches."""
        self.kind: Hashable = None
        self.arrivals: set[int] = set()
        self.missing = [0] * len(self.parts)
        """Gradients that each bucket still waits for."""
        self.waits: list[Callable[[], object]] = []
        """How to wait for the buckets that have started."""

    def expect(self, kind: Hashable) -> None:
        """Prepares for a pass of this kind."""
        self.kind = kind
        for number in self.reached.get(kind, ()):
            self.missing[self.bucket_of[number]] += 1

    def arrived(self, number: int) -> None:
        """The gradient of a parameter is complete, if a pass is expected."""
        if self.kind is None:
            return
        self.arrivals.add(number)
        if self.kind not in self.reached:
            return
        assert self.bucket_of[number] >= len(self.waits), f"gradient {number} of {self.kind} comes after its sum"
        if number in self.reached[self.kind]:
            self.missing[self.bucket_of[number]] -= 1
        while len(self.waits) < len(self.parts) - 1 and not self.missing[len(self.waits)]:
            self._start_next()

    def start_rest(self) -> None:
        """Starts what has not started."""
        while len(self.waits) < len(self.parts):
            self._start_next()

    def finish(self) -> None:
        """Waits for all sums."""
        self.start_rest()
        for wait in self.waits:
            wait()
        if self.kind is not None:
            self.reached.setdefault(self.kind, frozenset(self.arrivals))
        self.kind, self.waits, self.missing = None, [], [0] * len(self.parts)
        self.arrivals.clear()

    def _start_next(self) -> None:
        self.waits.append(distributed.start_sum_over_ranks(self.parts[len(self.waits)]))


def bucket_ends(sizes: Sequence[int], bytes_per_value: int) -> list[int]:
    """Where to cut a line of parameters of these sizes: how many stand before each end."""
    least = max(sum(sizes) / NUM_BUCKETS, LEAST_BYTES / bytes_per_value)
    ends, filled = [], 0
    for number, size in enumerate(sizes, 1):
        filled += size
        if filled >= least:
            ends.append(number)
            filled = 0
    return ends if filled == 0 else [*ends, len(sizes)]
