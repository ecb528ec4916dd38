"""Benchmark `step`: every phase of the training step in several variants, alternately: plain, fast, bf16, compiled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch

from benchmarks.command import Bars, Common, Figures
from benchmarks.flops import FLOPS_ARE, ArithmeticCounter
from benchmarks.growing import images_per_sec_by_resolution, seconds
from benchmarks.memory import in_own_process, peak_rss
from benchmarks.results import at_least, at_most
from benchmarks.subject import Subject, chosen_device, image_shape, label_size_of, resolved
from benchmarks.twins import plain_twins
from stylegan_ray.config import RunConfig
from stylegan_ray.distributed import prepare_process
from stylegan_ray.ops.convolution import has_instructions


@dataclass(frozen=True)
class Variant:
    """A way to run the step."""

    keys: Mapping[str, Any]
    """What it changes in the configuration."""
    plain: bool = False
    """On the plain twins of all operations."""


LOWP_RES = 4
"""Resolutions in low precision where the configuration has none, as in StyleGAN2-ADA."""
PRECISE = {"model.num_lowp_res": 0, "train.compile": False, "train.allow_tf32": False}
TF32, BF16 = {"train.allow_tf32": True}, {"model.num_lowp_res": LOWP_RES}
FP16 = {"model.num_lowp_res": LOWP_RES, "model.lowp_dtype": "float16", "model.conv_clamp": 256.0}
COMPILED = {"train.compile": True}
VARIANTS: dict[str, Variant] = {
    "plain": Variant(PRECISE, plain=True),
    "fast": Variant(PRECISE),
    "tf32": Variant(PRECISE | TF32),
    "bf16": Variant(PRECISE | BF16),
    "fp16": Variant(PRECISE | FP16),
    "compiled": Variant(PRECISE | COMPILED),
    "compiled_tf32": Variant(PRECISE | COMPILED | TF32),
    "compiled_bf16": Variant(PRECISE | COMPILED | BF16),
    "compiled_fp16": Variant(PRECISE | COMPILED | FP16),
}
Name = Literal[
    "plain", "fast", "tf32", "bf16", "fp16", "compiled", "compiled_tf32", "compiled_bf16", "compiled_fp16",
]  # fmt: skip
MOST_PROGRAMS = 1000
"""Programs of one function that torch.compile keeps; a training needs two, and each variant brings its own."""
BARS: Mapping[tuple[str, str], float] = {("fast", "plain"): 1.3, ("bf16", "plain"): 1.8}
"""How much faster which variant is to be than which."""


@dataclass(frozen=True)
class Options(Common):
    """Times each phase of an iteration on random images in several variants, and says how much faster they are.

    `plain` is the straightforward composition of PyTorch's operations in their usual memory layout, `fast` what a
    training in float32 runs; the others change precision, or compile. Low precision is that of --model.num_lowp_res
    resolutions (4 where the configuration has none).
    Takes every --section.key of the train command: --data.resolution (256 where the preset leaves it to the data),
    --schedule.minibatch_size, --schedule.minibatch_gpu, --train.dtype, --model.fused_modconv, ...
    """

    variants: tuple[Name, ...] = ("plain", "fast", "bf16")
    """What to time."""
    repeats: int = 5
    """How often each phase is timed, alternately; a first time warms up."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""
    device: str | None = None
    """cpu or cuda; null: the GPU where there is one."""
    memory: bool = True
    """Measure the peak memory of each phase, on a CPU in processes of their own."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds, flops and memory by phase; images per second over a whole cycle of regularization phases."""
    cfg = resolved(cfg)
    device, names = chosen_device(options.device), possible(options.variants, cfg)
    torch._dynamo.config.recompile_limit = MOST_PROGRAMS
    subjects = {name: Subject(configured(cfg, name), device) for name in names}
    phases: dict[str, dict[str, Any]] = {
        part: {"interval": phase.interval, **{f"sec_{name}": [] for name in names}}
        for part, phase in next(iter(subjects.values())).phases.items()
    }
    for part, name in alternating(phases, names, 1):
        with running(subjects[name], name, options.threads):
            phases[part][f"flops_{name}"] = flops(subjects[name], part)  # and it warms up
    for part, name in alternating(phases, names, options.repeats):
        with running(subjects[name], name, options.threads):
            phases[part][f"sec_{name}"].append(seconds(subjects[name], part))
    skipped = {name: int(subject.state.nonfinite) for name, subject in subjects.items()}
    not_compiled = [name for name, subject in subjects.items() if subject.cfg.train.compile and not subject.is_compiled]
    del subjects
    for part in phases if options.memory else ():
        for name in names:
            gb = peak_memory_gb(cfg, device, part, name, options.threads)
            phases[part] |= {f"{what}_{name}": value for what, value in gb.items()}
    figures = {**settings(cfg, device), **speeds(cfg, phases, names), "phases": phases, "nonfinite_steps": skipped}
    figures |= {
        "not_compiled": not_compiled,
        "img_s_growing": images_per_sec_by_resolution(cfg, device, options.repeats),
    }
    return figures, bars(figures, phases, names)


def possible(names: Sequence[str], cfg: RunConfig) -> tuple[str, ...]:
    """The variants without those that these networks do not have: low precision, or compiled while they grow."""
    low = cfg.model.family == "stylegan2"
    fixed = cfg.schedule.lod_initial_resolution is None
    wanted = [name for name in names if low or not VARIANTS[name].keys["model.num_lowp_res"]]
    return tuple(dict.fromkeys(name for name in wanted if fixed or not VARIANTS[name].keys["train.compile"]))


def configured(cfg: RunConfig, name: str) -> RunConfig:
    """The configuration of a variant, for one worker."""
    keys = dict(VARIANTS[name].keys)
    if keys["model.num_lowp_res"] and cfg.model.num_lowp_res:
        keys["model.num_lowp_res"] = cfg.model.num_lowp_res
    return cfg.with_overrides({**keys, "cluster.num_workers": 1})


@contextmanager
def running(subject: Subject, name: str, threads: int | None) -> Iterator[None]:
    """The process as the variant wants it."""
    prepare_process(subject.cfg, threads)
    with plain_twins() if VARIANTS[name].plain else nullcontext():
        yield


def alternating(parts: Iterable[str], names: Sequence[str], repeats: int) -> Iterator[tuple[str, str]]:
    """Phase and variant, so that no variant always comes first."""
    parts = list(parts)
    for repeat in range(repeats):
        for part in parts:
            for name in list(names)[:: 1 if repeat % 2 == 0 else -1]:
                yield part, name


def flops(subject: Subject, part: str) -> int | None:
    """Operations of one phase, as FLOPS_ARE says; null for compiled code, whose operations are not seen."""
    if subject.cfg.train.compile:
        subject.run_phase(part)
        return None
    with ArithmeticCounter() as counter:
        subject.run_phase(part)
    return counter.flops


def peak_memory_gb(cfg: RunConfig, device: torch.device, part: str, name: str, threads: int | None) -> dict[str, float]:
    """GiB in use before a phase, and at most during it."""
    if device.type == "cuda":
        return peak_of_phase(cfg, str(device), part, name, threads)
    return in_own_process(peak_of_phase, cfg, str(device), part, name, threads)


def peak_of_phase(cfg: RunConfig, device_name: str, part: str, name: str, threads: int | None) -> dict[str, float]:
    """What `peak_memory_gb` returns, measured in this process."""
    subject = Subject(configured(cfg, name), torch.device(device_name))
    with running(subject, name, threads), peak(subject.device) as bytes_used:
        subject.run_phase(part)
    return {what: round(value / 2**30, 4) for what, value in bytes_used.items()}


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
        "image_shape": list(image_shape(cfg)),
        "label_size": label_size_of(cfg),
        "images_per_step": schedule.minibatch_size,
        "minibatch_gpu": schedule.minibatch_gpu,
        "dtype": cfg.train.dtype,
        "num_lowp_res": cfg.model.num_lowp_res or LOWP_RES,
        "instructions_for_bf16": device.type != "cpu" or has_instructions(torch.bfloat16),
        "flops_are": FLOPS_ARE,
    }


def speeds(cfg: RunConfig, phases: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Figures:
    """Images per second with each phase as often as it is due: size / sum(median sec / interval)."""
    size = cfg.schedule.minibatch_size
    sec = {name: sum(median(phase[f"sec_{name}"]) / phase["interval"] for phase in phases.values()) for name in names}
    return {
        **{f"img_s_{name}": size / value for name, value in sec.items()},
        **{f"sec_per_kimg_{name}": 1000 * value / size for name, value in sec.items()},
        **{f"{name}_over_{names[0]}": sec[names[0]] / value for name, value in sec.items() if name != names[0]},
    }


def bars(figures: Figures, phases: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Bars:
    """How much faster the variants are to be; and none may need more memory than the plain one."""
    found = []
    for (name, other), least in BARS.items():
        if {name, other} <= set(names):
            found.append(at_least(f"{name} / {other}", figures[f"img_s_{name}"] / figures[f"img_s_{other}"], least))
    peaks = {
        name: max((phase.get(f"mem_peak_gb_{name}", 0.0) for phase in phases.values()), default=0.0) for name in names
    }
    if "plain" in names and peaks["plain"]:
        others = [name for name in names if name != "plain"]
        found += [at_most(f"peak memory of {name}, GiB", peaks[name], peaks["plain"]) for name in others]
    return found
