"""Benchmark `roofline`: how far the step is from what the machine's arithmetic and memory allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.command import Bars, Common, Figures
from benchmarks.flops import BYTES_ARE, FLOPS_ARE, ArithmeticCounter
from benchmarks.growing import seconds
from benchmarks.kernels import seconds_by_class
from benchmarks.step import configured, settings
from benchmarks.subject import Subject, chosen_device, resolved
from benchmarks.twins import plain_twins
from stylegan_ray.config import RunConfig
from stylegan_ray.distributed import prepare_process


@dataclass(frozen=True)
class Options(Common):
    """Counts flops and bytes of every phase, times it, and measures the machine's peak rates beside it.

    Takes every --section.key of the train command, as `step` does.
    """

    repeats: int = 5
    """How often each phase and each peak is timed."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""
    device: str | None = None
    """cpu or cuda; null: the GPU where there is one."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Per phase: flops and bytes per image, rates that are reached, and the time that the peaks would allow."""
    cfg = resolved(cfg.with_overrides({"cluster.num_workers": 1, "train.compile": False}))
    prepare_process(cfg, options.threads)
    device = chosen_device(options.device)
    subject, peaks = Subject(cfg, device), peak_rates(device, options.repeats)
    size, phases, direct_flops = subject.schedule.minibatch_size, {}, flops_of_direct(cfg, device)
    for part, phase in subject.phases.items():
        direct = direct_flops[part]
        with ArithmeticCounter() as counted:
            subject.run_phase(part)
        sec = [seconds(subject, part) for _ in range(options.repeats)]
        phases[part] = {
            "interval": phase.interval,
            "sec": sec,
            "flops_per_image": counted.flops / size,
            "flops_per_image_direct": direct / size,
            "bytes_per_image": counted.bytes / size,
            "sec_by_kernel": seconds_by_class(lambda part=part: subject.run_phase(part), device),
            **rates(median(sec), counted.flops, direct, counted.bytes, peaks),
        }
    figures = {
        **settings(cfg, device),
        "bytes_are": BYTES_ARE,
        "flops_are": FLOPS_ARE,
        "peaks": peaks,
        **whole_step(phases, size),
        "phases": phases,
    }
    return figures, []


def flops_of_direct(cfg: RunConfig, device: torch.device) -> dict[str, int]:
    """The flops of each phase by the plain twins, that is by direct convolutions."""
    subject, found = Subject(configured(cfg, "plain"), device), {}
    for part in subject.phases:
        with plain_twins(), ArithmeticCounter() as counted:
            subject.run_phase(part)
        found[part] = counted.flops
    return found


def rates(sec: float, flops: int, direct: int, num_bytes: int, peaks: dict[str, float]) -> dict[str, float]:
    """Rates reached, and what share of the time the peak rates would need."""
    compute_sec, memory_sec = flops / 1e9 / peaks["matmul_gflops"], num_bytes / 1e9 / peaks["copy_gb_s"]
    return {
        "gflops": flops / 1e9 / sec,
        "gflops_direct": direct / 1e9 / sec,
        "gb_s": num_bytes / 1e9 / sec,
        "share_of_compute_peak": compute_sec / sec,
        "share_of_memory_peak": memory_sec / sec,
    }


def whole_step(phases: dict[str, dict[str, Any]], size: int) -> Figures:
    """Images per second over a cycle of phases, as measured and as the peak of arithmetic alone would allow."""
    sec = sum(median(phase["sec"]) / phase["interval"] for phase in phases.values())
    at_peak = sum(
        median(phase["sec"]) * phase["share_of_compute_peak"] / phase["interval"] for phase in phases.values()
    )
    direct = sum(phase["flops_per_image_direct"] / phase["interval"] for phase in phases.values())
    return {
        "img_s": size / sec,
        "img_s_at_compute_peak": size / at_peak,
        "gflop_per_image_direct": direct / 1e9,
        "gflops_direct": direct * size / sec / 1e9,
    }


def peak_rates(device: torch.device, repeats: int) -> dict[str, float]:
    """The best rates that large matrix products, convolutions and copies reach here."""
    side = 4096 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    x = torch.randn(8, 128, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    w, much = torch.randn(128, 128, 3, 3, device=device), torch.randn(1 << 24, device=device)
    there = torch.empty_like(much)
    products = {"matmul": 2 * side**3, "convolution": 2 * 8 * 64 * 64 * 128 * 128 * 9}
    work: dict[str, Callable[[], Any]] = {
        "matmul": lambda: a @ b,
        "convolution": lambda: F.conv2d(x, w, padding=1),
        "copy": lambda: there.copy_(much),
    }
    best = {name: min(timed(call, device) for _ in range(repeats + 1)) for name, call in work.items()}
    found = {f"{name}_gflops": flops / 1e9 / best[name] for name, flops in products.items()}
    return {**found, "copy_gb_s": 2 * much.nbytes / 1e9 / best["copy"]}


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
