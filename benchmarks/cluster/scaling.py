"""Benchmark `scaling`: the job on one worker and on several, strong and weak, beside what a cost model predicts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.cluster.overhead import Runs, images_per_sec
from benchmarks.command import Bars, Common, Figures
from benchmarks.cost import Link, PhaseCost, iteration_sec, predicted
from benchmarks.memory import in_own_process
from benchmarks.subject import Subject, chosen_device, image_shape, new_state
from stylegan_ray.config import RunConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.distributed import prepare_process
from stylegan_ray.train.auto import with_choices
from stylegan_ray.train.step import accumulate

GPUS = (8, 16, 32, 64, 128, 256, 512)
LINKS = {"25 Gbit/s": Link(3.1, 30e-6), "200 Gbit/s": Link(25.0, 10e-6), "NVLink": Link(300.0, 5e-6)}
"""Links to predict for: usable bytes of an Ethernet, of an InfiniBand, and of GPUs in one box."""


@dataclass(frozen=True)
class Options(Common):
    """Trains as a user does on 1, 2, ... workers of one thread each, and predicts the same and more from one step.

    Strong: the minibatch stays. Weak: each worker keeps the micro-batches that it has in the largest group.
    Takes every --section.key of the train command.
    """

    workers: tuple[int, ...] = (1, 2)
    """Group sizes to measure."""
    repeats: int = 2
    """How often each run is made."""
    kimg: float = 8.0
    """Length of a run; its first two ticks are not counted."""
    threads: int = 1
    """Threads of a worker."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Images per second by kind and group size, measured and predicted, and predictions for large groups."""
    cfg = cfg.with_overrides({"train.total_kimg": options.kimg, "cluster.cpus_per_worker": options.threads})
    data = open_dataset(cfg.data, cfg.run.seed)
    cfg = with_choices(cfg.with_overrides({"cluster.num_workers": max(options.workers)}), data.resolution)
    sized = cfg.with_overrides({"data.resolution": data.resolution, "cluster.num_workers": 1})
    costs, link = in_own_process(phase_costs, sized, options.threads), loopback(sized)
    per_worker = sized.schedule.minibatch_size // sized.schedule.minibatch_gpu // max(options.workers)
    measured = measured_img_s(options, cfg, per_worker)
    micro = cfg.schedule.minibatch_gpu
    model = {
        "strong": {n: strong_img_s(costs, sized, n, link) for n in options.workers},
        "weak": {
            n: values["img_s"]
            for n, values in zip(
                options.workers,
                predicted(costs, micro, per_worker, options.workers, link).values(),
                strict=True,
            )
        },
    }
    figures = {
        "preset": cfg.run.preset,
        "image_shape": list(image_shape(sized)),
        "threads": options.threads,
        "minibatch_gpu": micro,
        "micro_batches_per_worker": per_worker,
        "link": vars(link),
        "phases": {part: vars(cost) for part, cost in costs.items()},
        "img_s_measured": measured,
        "img_s_predicted": {kind: {str(n): value for n, value in by.items()} for kind, by in model.items()},
        "efficiency_measured": {kind: efficiency(by) for kind, by in measured.items()},
        "weak_on_many": {name: predicted(costs, micro, per_worker, GPUS, other) for name, other in LINKS.items()},
    }
    return figures, []


def efficiency(img_s: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Images per second over those of the smallest group times its share."""
    first = min(img_s, key=int)
    return {n: median(values) / median(img_s[first]) * int(first) / int(n) for n, values in img_s.items()}


def measured_img_s(options: Options, cfg: RunConfig, per_worker: int) -> dict[str, dict[str, list[float]]]:
    """Images per second of the job by kind and group size, one value a repeat."""
    found: dict[str, dict[str, list[float]]] = {kind: {str(n): [] for n in options.workers} for kind in KINDS}
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as folder:
        runs = Runs(Path(folder), options.threads)
        for _ in range(options.repeats):
            for kind in KINDS:
                for n in options.workers:
                    size = per_worker * n * cfg.schedule.minibatch_gpu if kind == "weak" else None
                    runs.job(f"{kind}{n}", grouped(cfg, n, size))
                    found[kind][str(n)].append(images_per_sec(runs.rows[f"{kind}{n}"][-1]))
    return found


KINDS = ("strong", "weak")


def grouped(cfg: RunConfig, workers: int, minibatch_size: int | None) -> RunConfig:
    """The configuration for a group; without a minibatch size it keeps its own."""
    keys: dict[str, Any] = {"cluster.num_workers": workers}
    if minibatch_size is not None:
        keys["schedule.minibatch_size"] = minibatch_size
    return cfg.with_overrides(keys)


def strong_img_s(costs: Mapping[str, PhaseCost], cfg: RunConfig, workers: int, link: Link) -> float:
    """Predicted images per second with the configuration's own minibatch."""
    micro_batches = cfg.schedule.minibatch_size // cfg.schedule.minibatch_gpu
    return cfg.schedule.minibatch_size / iteration_sec(costs, micro_batches, workers, link)


def phase_costs(cfg: RunConfig, threads: int, repeats: int = 5) -> dict[str, PhaseCost]:
    """What each phase costs one worker: its micro-batches, and the rest."""
    prepare_process(cfg, threads)
    subject, found = Subject(cfg, chosen_device(None)), {}
    for part, phase in subject.phases.items():
        gradients, whole, one = subject.state.gradients[phase.network], [], []
        for _ in range(repeats + 1):
            whole.append(timed(lambda part=part: subject.run_phase(part)))
            one.append(timed(lambda phase=phase: accumulate(phase, subject.state, subject.batches[0])))
        micro = median(one[1:])
        rest = max(median(whole[1:]) - len(subject.batches) * micro, 0.0)
        found[part] = PhaseCost(phase.interval, micro, rest, gradients.flat.nbytes)
    return found


def timed(call: Any) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def loopback(cfg: RunConfig, repeats: int = 10) -> Link:
    """The link between two processes of this machine, from sums of G's gradients and of one number."""
    num = in_own_process(parameters_of_G, cfg)
    with TemporaryDirectory(prefix="sgr-") as folder:
        mp.spawn(time_sums, (folder, num, repeats), nprocs=2)
        large, small = torch.load(Path(folder) / "sums.pt")
    return Link(4 * num / 1e9 / max(large - small, 1e-9), small / 2)


def parameters_of_G(cfg: RunConfig) -> int:
    """How many numbers G learns."""
    return sum(p.numel() for p in new_state(cfg, torch.device("cpu")).G.parameters())


def time_sums(rank: int, folder: str, num: int, repeats: int) -> None:
    """One of two processes: rank 0 writes the median seconds of a large and of a small sum."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    sec = []
    for size in (num, 1):
        flat = torch.ones(size)
        sec.append(median(timed(lambda flat=flat: dist.all_reduce(flat)) for _ in range(repeats)))
    if rank == 0:
        torch.save(sec, f"{folder}/sums.pt")
    dist.destroy_process_group()
