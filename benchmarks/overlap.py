"""Benchmark `overlap`: how much of the sums of gradients is hidden beside other work, on a slow link."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least
from benchmarks.subject import Subject, picture_shape
from stylegan_ray import distributed
from stylegan_ray.config import RunConfig
from stylegan_ray.distributed import prepare_process
from stylegan_ray.train.gradients import Gradients
from stylegan_ray.train.stats import StopWatch

Parts = tuple[str, ...]
"""The turns of an iteration in their order."""


@dataclass(frozen=True)
class Options(Common):
    """Trains on two workers of one thread each, on a link that takes a given share of the time for the sums.

    Takes every --section.key of the train command.
    """

    share: float = 0.2
    """Seconds of all sums over those of the training without them."""
    repeats: int = 5
    """How often each kind of iteration is timed, in turns with sums that start early and with sums at the end."""


class Timed(NamedTuple):
    """Iterations of one kind."""

    parts: Parts
    frequency: float
    """Share of the iterations that are of this kind."""
    sec: float
    """Of one, while sums cost next to nothing."""
    late: list[list[float]]
    """Seconds that each turn waits for its sum, where sums start when they are waited for; one list a repeat."""
    early: list[list[float]]
    """The same where they start as gradients come."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds that turns wait for their sums, with sums that start early and with sums at the end."""
    cfg = cfg.with_overrides({"cluster.num_workers": 2})
    with TemporaryDirectory(prefix="sgr-") as folder:
        mp.spawn(worker, (folder, cfg, options), nprocs=2)
        ranks = [[Timed(*kind) for kind in torch.load(Path(folder) / f"{rank}.pt")] for rank in range(2)]
    kinds = [together(kind) for kind in zip(*ranks, strict=True)]
    figures = {
        "preset": cfg.run.preset,
        "picture_shape": list(picture_shape(cfg)),
        "minibatch_gpu": cfg.schedule.minibatch_gpu,
        "share": options.share,
        "hidden": hidden(kinds),
        "phases": {
            part: {"hidden": hidden(kinds, part)} for part in dict.fromkeys(p for kind in kinds for p in kind.parts)
        },
        "iterations": [kind._asdict() for kind in kinds],
    }
    return figures, [at_least("hidden share of the sums", figures["hidden"], 0.9)]


def together(ranks: Sequence[Timed]) -> Timed:
    """What the group waits for each sum: the shortest wait, which is that of the last worker to come."""

    def shortest(repeats: Sequence[list[list[float]]]) -> list[list[float]]:
        return [[min(waits) for waits in zip(*turns, strict=True)] for turns in zip(*repeats, strict=True)]

    late, early = ([getattr(rank, way) for rank in ranks] for way in ("late", "early"))
    return ranks[0]._replace(late=shortest(late), early=shortest(early))


def hidden(kinds: Sequence[Timed], part: str | None = None) -> float:
    """The share of the waiting that is gone, of one turn or of all."""
    late, early = (sum(waiting(kind, way, part) for kind in kinds) for way in ("late", "early"))
    return 1 - early / late


def waiting(kind: Timed, way: str, part: str | None) -> float:
    """Seconds of an average iteration, from the median of each turn's repeats."""
    medians = [median(repeats) for repeats in zip(*getattr(kind, way), strict=True)]
    return kind.frequency * sum(sec for of, sec in zip(kind.parts, medians, strict=True) if part in (None, of))


def worker(rank: int, folder: str, cfg: RunConfig, options: Options) -> None:
    """One of the two; writes what it measured."""
    prepare_process(cfg, 1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    subject = Subject(cfg, torch.device("cpu"))
    cycle = math.lcm(*(phase.interval for phase in subject.phases.values()))
    kinds: dict[Parts, list[int]] = {}
    for number in range(cycle):
        kinds.setdefault(subject.due(number), []).append(number)
    sec = {parts: median(iteration_sec(subject, numbers[0]) for _ in range(4)) for parts, numbers in kinds.items()}
    values = sum(len(subject.state.gradients[p.network].flat) / p.interval for p in subject.phases.values())
    mean_sec = sum(sec[parts] * len(numbers) / cycle for parts, numbers in kinds.items())
    sec_per_value = torch.tensor(options.share * mean_sec / values)
    dist.broadcast(sec_per_value, src=0)
    waits = {parts: {"late": [], "early": []} for parts in kinds}
    with patch.object(distributed, "start_sum_over_ranks", SlowLink(float(sec_per_value))):
        for _ in range(options.repeats):
            for parts, ways in waits.items():
                for way, repeats in ways.items():
                    repeats.append(waits_of(subject, kinds[parts][0], early=way == "early"))
    found = [(parts, len(numbers) / cycle, sec[parts], *waits[parts].values()) for parts, numbers in kinds.items()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def iteration_sec(subject: Subject, number: int) -> float:
    """Seconds of an iteration."""
    dist.barrier()
    start = time.perf_counter()
    subject.iteration(number, StopWatch(subject.device))
    return time.perf_counter() - start


def waits_of(subject: Subject, number: int, early: bool) -> list[float]:
    """Seconds that each turn of an iteration waits for its sum; `early` lets sums start when they can."""
    watch = WaitWatch(subject.device)
    dist.barrier()
    with nullcontext() if early else sums_at_the_end():
        subject.iteration(number, watch)
    return watch.waits


class WaitWatch(StopWatch):
    """Notes each wait for a sum."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.waits: list[float] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if part == "reduce":
            self.waits.append(time.perf_counter() - start)


@contextmanager
def sums_at_the_end() -> Iterator[None]:
    """Sums start when one waits for them."""
    with patch.multiple(Gradients, is_last_backward=lambda *_: None, are_complete=lambda *_: None):
        yield


class SlowLink:
    """Sums one tensor after the other, each after a time that grows with its size."""

    def __init__(self, sec_per_value: float) -> None:
        self.sec_per_value, self.queue = sec_per_value, ThreadPoolExecutor(1)

    def __call__(self, flat: Tensor) -> Callable[[], object]:
        return self.queue.submit(self._send, flat).result

    def _send(self, flat: Tensor) -> None:
        time.sleep(self.sec_per_value * flat.numel())
        dist.all_reduce(flat)
