"""Benchmark `overlap`: what sums of gradients over two workers cost, which overlapping could hide at most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.command import Bars, Common, Figures
from benchmarks.cost import Link, reduce_sec
from benchmarks.growing import seconds
from benchmarks.results import at_most
from benchmarks.subject import Subject, image_shape, resolved
from stylegan_ray.config import RunConfig
from stylegan_ray.distributed import prepare_process

WORKERS = 2
MOST = 0.05
"""Share of an iteration from which overlapping would be worth its code."""


@dataclass(frozen=True)
class Options(Common):
    """Times the phases on two workers of one thread each, and sets a link's time for their sums against them.

    Takes every --section.key of the train command.
    """

    gbit: float = 10.0
    """Speed of the link between the workers, in Gbit/s each way."""
    repeats: int = 5
    """How often each phase is timed; one more time goes before, to warm up."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds of an average iteration without sums, and those that its sums take on the link."""
    cfg = resolved(cfg.with_overrides({"cluster.num_workers": WORKERS}))
    with TemporaryDirectory(prefix="sgr-") as folder:
        mp.spawn(worker, (folder, cfg, options.repeats), nprocs=WORKERS)
        phases = torch.load(Path(folder) / "phases.pt")
    link = Link(options.gbit / 8, 0.0)
    for phase in phases.values():
        phase["sum_sec"] = reduce_sec(phase["bytes"], WORKERS, link)
    compute, sums = (
        sum(value(phase) / phase["interval"] for phase in phases.values())
        for value in (lambda phase: median(phase["sec"]), lambda phase: phase["sum_sec"])
    )
    figures = {
        "preset": cfg.run.preset,
        "image_shape": list(image_shape(cfg)),
        "minibatch_gpu": cfg.schedule.minibatch_gpu,
        "gbit": options.gbit,
        "iteration_sec": compute + sums,
        "sums_sec": sums,
        "share": sums / (compute + sums),
        "phases": phases,
    }
    return figures, [at_most("share of an iteration that waits for sums", figures["share"], MOST)]


def worker(rank: int, folder: str, cfg: RunConfig, repeats: int) -> None:
    """One of the workers; rank 0 writes the seconds of each phase, without the sum, and the bytes of its sum."""
    prepare_process(cfg, 1)
    store = dist.FileStore(f"{folder}/store", WORKERS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORKERS)
    subject, phases = Subject(cfg, torch.device("cpu")), {}
    for part, phase in subject.phases.items():
        sec = []
        for _ in range(1 + repeats):
            dist.barrier()
            subject.watch.take()
            whole = seconds(subject, part)
            sec.append(whole - subject.watch.take()["reduce"])
        num_bytes = subject.state.gradients[phase.network].flat.nbytes
        phases[part] = {"interval": phase.interval, "bytes": num_bytes, "sec": sec[1:]}
    if rank == 0:
        torch.save(phases, f"{folder}/phases.pt")
    dist.destroy_process_group()
