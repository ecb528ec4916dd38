"""Benchmark `overlap`: how much of the sums of gradients is hidden beside backward passes, on a slow link."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from stylegan_ray import distributed
from stylegan_ray.bench.command import Bars, Common, Figures
from stylegan_ray.bench.results import at_least
from stylegan_ray.bench.subject import Subject, picture_shape
from stylegan_ray.config import RunConfig
from stylegan_ray.train.phases import run_phase
from stylegan_ray.train.process import prepare_process
from stylegan_ray.train.stats import StopWatch


@dataclass(frozen=True)
class Options(Common):
    """Trains on two workers of one thread each, whose link takes a given share of each phase's time for its sum.

    Takes every --section.key of the train command.
    """

    share: float = 0.2
    """Seconds of the whole sum over those of the phase without it."""
    repeats: int = 5
    """How often each phase is timed, in turns with sums that start early and with sums at the end."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds that each phase waits for its sum, with sums that start early and with sums at the end."""
    cfg = cfg.with_overrides({"cluster.num_workers": 2})
    with TemporaryDirectory(prefix="sgr-") as folder:
        mp.spawn(worker, (folder, cfg, options), nprocs=2)
        ranks = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
    phases = {part: together([rank[part] for rank in ranks]) for part in ranks[0]}
    figures = {
        "preset": cfg.run.preset,
        "picture_shape": list(picture_shape(cfg)),
        "minibatch_gpu": cfg.schedule.minibatch_gpu,
        "share": options.share,
        "hidden": hidden(phases.values()),
        "hidden_at_most": 1 - weighted(phases.values(), "wait_least") / weighted(phases.values(), "sum_sec"),
        "phases": {part: {**found, "hidden": hidden([found])} for part, found in phases.items()},
    }
    return figures, [at_least("hidden share of the sums", figures["hidden"], 0.9)]


def together(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the group waits for the sum: the shortest wait of a turn, which is that of the last worker to come."""
    waits = {
        key: [min(turn) for turn in zip(*(rank[key] for rank in ranks), strict=True)]
        for key in ("wait_late", "wait_early", "wait_least")
    }
    return {**ranks[0], **waits}


def hidden(phases: Collection[Mapping[str, Any]]) -> float:
    """The share of the waiting that is gone, each phase as often as it has its turn."""
    return 1 - weighted(phases, "wait_early") / weighted(phases, "wait_late")


def weighted(phases: Collection[Mapping[str, Any]], key: str) -> float:
    """Seconds of an iteration: the median of each phase over its interval."""
    return sum(float(np.median(phase[key])) / phase["interval"] for phase in phases)


def worker(rank: int, folder: str, cfg: RunConfig, options: Options) -> None:
    """One of the two; writes what it measured."""
    prepare_process(cfg, 1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2)
    subject, found = Subject(cfg, torch.device("cpu")), {}
    at_once = distributed.start_sum_over_ranks
    for part, phase in subject.phases.items():
        grads = subject.state.gradients[phase.network]
        distributed.start_sum_over_ranks = at_once
        sec = [timed(subject, part, early=True)["pass"] for _ in range(3)]
        length = torch.tensor(options.share * median(sec[1:]))
        dist.broadcast(length, src=0)
        distributed.start_sum_over_ranks = SlowLink(float(length) / grads.flat.numel())
        turns: dict[str, list[float]] = {"late": [], "early": []}
        for _ in range(options.repeats):
            for way, waits in turns.items():
                waits.append(timed(subject, part, early=way == "early")["wait"])
        waits = {f"wait_{way}": values for way, values in turns.items()}
        waits["wait_least"] = [least_wait(arrivals(subject, part), float(length))]
        found[part] = {"interval": phase.interval, "sec": median(sec[1:]), "sum_sec": float(length), **waits}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def arrivals(subject: Subject, part: str) -> list[tuple[float, int]]:
    """The gradients of a turn as they are completed: seconds before the last one, and size."""
    completed: dict[Tensor, float] = {}

    def note(parameter: Tensor) -> None:
        completed.pop(parameter, None)  # of an earlier micro-batch
        completed[parameter] = time.perf_counter()

    network = getattr(subject.state, subject.phases[part].network)
    hooks = [parameter.register_post_accumulate_grad_hook(note) for parameter in network.parameters()]
    timed(subject, part, early=False)
    for hook in hooks:
        hook.remove()
    end = max(completed.values())
    return [(end - at, parameter.numel()) for parameter, at in completed.items()]


def least_wait(gradients: list[tuple[float, int]], sum_sec: float) -> float:
    """Seconds that a sum of `sum_sec` lasts after the last gradient, on a link that is not idle while one waits for it.

    Gradients of G's coarse layers and its mapping network come last and close together: their sums cannot hide.
    """
    total, left = sum(size for _, size in gradients), 0.0
    for (before, size), (after, _) in zip(gradients, [*gradients[1:], (0.0, 0)], strict=True):
        left = max(left + sum_sec * size / total - (before - after), 0.0)
    return left


class SlowLink:
    """Sums one tensor after the other, each after a time that grows with its size."""

    def __init__(self, sec_per_value: float) -> None:
        self.sec_per_value, self.queue = sec_per_value, ThreadPoolExecutor(1)

    def __call__(self, flat: Tensor) -> Callable[[], object]:
        return self.queue.submit(self._send, flat).result

    def _send(self, flat: Tensor) -> None:
        time.sleep(self.sec_per_value * flat.numel())
        dist.all_reduce(flat)


def timed(subject: Subject, part: str, early: bool) -> dict[str, float]:
    """Seconds of one turn and of its wait for the sum; `early` lets sums start in the backward pass."""
    phase, watch = subject.phases[part], StopWatch(subject.device)
    grads = subject.state.gradients[phase.network]
    dist.barrier()
    if not early:
        grads.is_last_backward = lambda kind: None  # type: ignore[method-assign]
    run_phase(phase, subject.state, subject.batches, watch)
    vars(grads).pop("is_last_backward", None)
    seconds = watch.take()
    return {"pass": seconds[part], "wait": seconds["reduce"]}
