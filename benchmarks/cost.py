"""What a group of workers would need, from what one needs and how fast its links are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PhaseCost:
    """One phase of one network, as measured on one worker."""

    interval: int
    """Minibatches from one such phase to the next."""
    micro_batch_sec: float
    """Forward and backward of one micro-batch."""
    step_sec: float
    """What comes once a phase: Adam, feedback, G_ema."""
    num_bytes: int
    """Gradients, and means beside them."""


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


def iteration_sec(phases: Mapping[str, PhaseCost], micro_batches: int, workers: int, link: Link) -> float:
    """Seconds per minibatch on so many workers, each phase as often as it is due; sums wait for backward passes."""
    most = math.ceil(micro_batches / workers)  # of the worker that has one more
    total = 0.0
    for phase in phases.values():
        reduction = reduce_sec(phase.num_bytes, workers, link)
        total += (most * phase.micro_batch_sec + phase.step_sec + reduction) / phase.interval
    return total


def predicted(
    phases: Mapping[str, PhaseCost],
    minibatch_gpu: int,
    per_worker: int,
    workers: Sequence[int],
    link: Link,
) -> dict[str, dict[str, float]]:
    """Images per second with so many micro-batches a worker, and the efficiency over one worker, by group size."""
    found, alone = {}, None
    for n in workers:
        sec = iteration_sec(phases, per_worker * n, n, link)
        img_s = per_worker * n * minibatch_gpu / sec
        one = per_worker * minibatch_gpu / iteration_sec(phases, per_worker, 1, link)
        alone = alone or one
        found[str(n)] = {"img_s": img_s, "efficiency": img_s / (n * alone)}
    return found
