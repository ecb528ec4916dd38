"""Benchmark `step`: every phase of the training step on the fast operations and on their plain twins, in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from stylegan_ray.bench.command import Bars, Common, Figures
from stylegan_ray.bench.flops import FLOPS_ARE, FlopCounter
from stylegan_ray.bench.growing import images_per_sec_by_resolution, seconds
from stylegan_ray.bench.memory import in_own_process, peak_rss
from stylegan_ray.bench.subject import Subject, chosen_device, label_size_of, picture_shape
from stylegan_ray.bench.twins import plain_twins
from stylegan_ray.config import RunConfig
from stylegan_ray.train.process import prepare_process

VARIANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {"plain": plain_twins, "fast": nullcontext}


@dataclass(frozen=True)
class Options(Common):
    """Times each phase of an iteration on random pictures, with the fast operations and with their plain twins.

    Takes every --section.key of the train command: --data.resolution (256 where the preset leaves it to the data),
    --schedule.minibatch_size, --schedule.minibatch_gpu, --train.dtype, --model.fused_modconv, ...
    """

    repeats: int = 5
    """How often each phase is timed, alternately on both; one more time goes before, to warm up."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""
    device: str | None = None
    """cpu or cuda; null: the GPU where there is one."""
    memory: bool = True
    """Measure the peak memory of each phase, on a CPU in processes of their own."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds, flops and memory by phase; images per second over a whole cycle of regularisation turns."""
    device = chosen_device(options.device)
    prepare_process(cfg, options.threads)
    subject = Subject(cfg, device)
    phases: dict[str, dict[str, Any]] = {
        part: {"interval": phase.interval, "sec_plain": [], "sec_fast": []} for part, phase in subject.phases.items()
    }
    for part, variant in in_turns(subject, 1):
        phases[part][f"flops_{variant}"] = flops(subject, part, variant)  # and it warms up
    for part, variant in in_turns(subject, options.repeats):
        phases[part][f"sec_{variant}"].append(timed(subject, part, variant))
    nonfinite = int(subject.state.nonfinite)
    del subject
    for part in phases if options.memory else ():
        for variant in VARIANTS:
            gb = peak_memory_gb(cfg, device, part, variant, options.threads)
            phases[part] |= {f"{name}_{variant}": value for name, value in gb.items()}
    figures = {**settings(cfg, device), **speeds(cfg, phases), "phases": phases, "nonfinite_steps": nonfinite}
    return figures | {"img_s_growing": images_per_sec_by_resolution(cfg, device, options.repeats)}, []


def in_turns(subject: Subject, repeats: int) -> Iterator[tuple[str, str]]:
    """Phase and variant, so that neither variant always comes first."""
    for repeat in range(repeats):
        for part in subject.phases:
            for variant in list(VARIANTS)[:: 1 if repeat % 2 == 0 else -1]:
                yield part, variant


def timed(subject: Subject, part: str, variant: str) -> float:
    """Wall time of one turn."""
    with VARIANTS[variant]():
        return seconds(subject, part)


def flops(subject: Subject, part: str, variant: str) -> int:
    """Operations of one turn, as FLOPS_ARE says."""
    with VARIANTS[variant](), FlopCounter() as counter:
        subject.turn(part)
    return counter.total


def peak_memory_gb(
    cfg: RunConfig, device: torch.device, part: str, variant: str, threads: int | None
) -> dict[str, float]:
    """GiB in use before a turn, and at most during it."""
    if device.type == "cuda":
        return peak_of_turn(cfg, str(device), part, variant, threads)
    return in_own_process(peak_of_turn, cfg, str(device), part, variant, threads)


def peak_of_turn(cfg: RunConfig, device_name: str, part: str, variant: str, threads: int | None) -> dict[str, float]:
    """What `peak_memory_gb` says, taken in this process."""
    device = torch.device(device_name)
    prepare_process(cfg, threads)
    subject = Subject(cfg, device)
    with VARIANTS[variant](), peak(device) as bytes_used:
        subject.turn(part)
    return {name: round(value / 2**30, 4) for name, value in bytes_used.items()}


@contextmanager
def peak(device: torch.device) -> Iterator[dict[str, int]]:
    """Bytes before and at most inside: of the GPU, or of this process."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    used = {"mem_before_gb": torch.cuda.memory_allocated(device) if on_gpu else peak_rss()}
    yield used
    used["mem_peak_gb"] = torch.cuda.max_memory_allocated(device) if on_gpu else peak_rss()


def settings(cfg: RunConfig, device: torch.device) -> Figures:
    """What was measured."""
    schedule = cfg.schedule
    return {
        "preset": cfg.run.preset,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "picture_shape": list(picture_shape(cfg)),
        "label_size": label_size_of(cfg),
        "images_per_step": schedule.minibatch_size,
        "minibatch_gpu": schedule.minibatch_gpu,
        "dtype": cfg.train.dtype,
        "num_lowp_res": cfg.model.num_lowp_res,
        "compile": cfg.train.compile,
        "flops_are": FLOPS_ARE,
    }


def speeds(cfg: RunConfig, phases: dict[str, dict[str, Any]]) -> Figures:
    """Images per second with each phase as often as it has its turn: size / sum(median sec / interval)."""
    per_iteration = {
        variant: sum(median(phase[f"sec_{variant}"]) / phase["interval"] for phase in phases.values())
        for variant in VARIANTS
    }
    img_s = {f"img_s_{variant}": cfg.schedule.minibatch_size / sec for variant, sec in per_iteration.items()}
    return {**img_s, "fast_over_plain": img_s["img_s_fast"] / img_s["img_s_plain"]}
