"""What a group of workers would need, from what one needs and how fast its links are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BACKWARD = 2 / 3
"""Share of a micro-batch's time that its backward pass takes: two of three convolutions."""


@dataclass(frozen=True)
class PhaseCost:
    """One turn of one network, as measured on one worker."""

    interval: int
    """Minibatches from one turn to the next."""
    micro_batch_sec: float
    """Forward and backward of one micro-batch."""
    step_sec: float
    """What comes once a turn: Adam, feedback, G_ema."""
    num_bytes: int
    """Gradients and passengers."""


@dataclass(frozen=True)
class Link:
    """The way from a worker to the next one in the ring."""

    gb_s: float
    """10^9 bytes per second, one way."""
    latency_sec: float


def reduce_sec(num_bytes: float, workers: int, link: Link) -> float:
    """A sum over a ring: every worker passes on 2 (n-1)/n of the bytes in 2 (n-1) messages."""
    steps = 2 * (workers - 1)
    return steps / workers * num_bytes / 1e9 / link.gb_s + steps * link.latency_sec


def iteration_sec(
    phases: Mapping[str, PhaseCost], micro_batches: int, workers: int, link: Link, hidden: float
) -> float:
    """Seconds per minibatch on so many workers, each phase as often as it has its turn.

    `hidden` is the share of a reduction that can go on beside a backward pass, as far as that is long enough.
    """
    most = math.ceil(micro_batches / workers)  # of the worker that has one more
    total = 0.0
    for phase in phases.values():
        reduction = reduce_sec(phase.num_bytes, workers, link)
        beside = min(hidden * reduction, BACKWARD * phase.micro_batch_sec)
        total += (most * phase.micro_batch_sec + phase.step_sec + reduction - beside) / phase.interval
    return total


def predicted(
    phases: Mapping[str, PhaseCost],
    minibatch_gpu: int,
    per_worker: int,
    workers: Sequence[int],
    link: Link,
    hidden: float,
) -> dict[str, dict[str, float]]:
    """Images per second with so many micro-batches a worker, and the efficiency over one worker, by group size."""
    found, alone = {}, None
    for n in workers:
        sec = iteration_sec(phases, per_worker * n, n, link, hidden)
        img_s = per_worker * n * minibatch_gpu / sec
        one = per_worker * minibatch_gpu / iteration_sec(phases, per_worker, 1, link, hidden)
        alone = alone or one
        found[str(n)] = {"img_s": img_s, "efficiency": img_s / (n * alone)}
    return found
