"""Means of losses and scores since the last tick, and seconds by part of the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Means:
    """Sums and counts by name, float64 on the device; equal on every rank, and saved in checkpoints."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds one scalar to each name."""
        for name, value in values.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=self.device)
                self.counts[name] = 0
            self.sums[name] += value
            self.counts[name] += 1

    def take(self) -> dict[str, float]:
        """The mean of each name since the last call."""
        names = list(self.sums)
        values = torch.stack([self.sums[name] for name in names]).tolist() if names else []
        means = {name: value / self.counts[name] for name, value in zip(names, values, strict=True)}
        self.sums, self.counts = {}, {}
        return means


TIMED_PARTS: tuple[str, ...] = ("data", "G", "G_reg", "D", "D_reg", "reduce", "checkpoint")
"""Names of Timing/share/ in stats.jsonl."""


class StopWatch:
    """Seconds spent in the parts of the loop; on CUDA measured on the device by events, without synchronization."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds: dict[str, float] = dict.fromkeys(TIMED_PARTS, 0.0)
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.trains = False
        """Whether the loop trains; false before it begins and in its pauses."""
        self.part: str | None = None
        """The part that runs now."""
        self.num_parts = 0
        """Parts that have begun: where this does not grow, the loop waits for something."""

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self.num_parts, self.part = self.num_parts + 1, part
        try:
            with self._timed(part):
                yield
        finally:
            self.part = None

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        if self.cuda and part not in ("data", "checkpoint"):
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            yield
            last.record()
            self.events.append((part, first, last))
        else:
            start = time.perf_counter()
            yield
            self.seconds[part] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        if self.events:
            torch.cuda.synchronize()
        for part, first, last in self.events:
            self.seconds[part] += first.elapsed_time(last) / 1000
        seconds, self.seconds, self.events = self.seconds, dict.fromkeys(TIMED_PARTS, 0.0), []
        return seconds
