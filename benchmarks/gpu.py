"""Benchmark `gpu`: the step of config-f and of the published one-GPU rows, in all precisions, eager and compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks import roofline, step
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least, at_most
from benchmarks.subject import chosen_device
from stylegan_ray.config import RunConfig

CaseName = Literal[
    "config-f-256", "config-f-512", "config-f-1024", "published-256", "published-512", "published-1024"
]  # fmt: skip
ALL: tuple[CaseName, ...] = (
    "published-256", "published-512", "published-1024", "config-f-256", "config-f-512", "config-f-1024",
)  # fmt: skip
MOST_SEC_PER_KIMG = {256: 4.5, 512: 15.0, 1024: 34.0}
"""What one H200 is to need at most, without adaptive augmentation."""
LEAST_FROM_COMPILING = 1.3
SHARED = {"train.deterministic": False, "train.G_reg_interval": 4, "train.D_reg_interval": 16}
DRY = {
    "data.resolution": 16, "model.fmap_base": 64, "model.fmap_max": 8, "model.z_dim": 8, "model.w_dim": 8,
    "model.mapping_fmaps": 8, "schedule.minibatch_size": 4, "schedule.minibatch_gpu": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Options(Common):
    """Times the step at 256, 512 and 1024 pixels, without adaptive augmentation: speed, memory, kernels, roofline.

    Takes every --section.key of the train command where a case does not set it.
    """

    preset: str = "config-f"
    """The configuration that the cases change."""
    cases: tuple[CaseName, ...] = ALL
    """What to run; each takes some minutes."""
    variants: tuple[step.Name, ...] = (
        "fast", "tf32", "bf16", "fp16", "compiled", "compiled_tf32", "compiled_bf16", "compiled_fp16",
    )  # fmt: skip
    """Precisions, eager and compiled."""
    repeats: int = 5
    """How often each phase is timed, alternately."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""
    device: str | None = None
    """cpu or cuda; null: the GPU where there is one."""
    dry: bool = False
    """Run every case at 16 pixels with a few feature maps, to see that it runs."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """The figures of `step` and `roofline` for every case."""
    found: dict[str, Figures] = {}
    for name in options.cases:
        case = cfg.with_overrides(keys_of(name) | (DRY if options.dry else {}))
        common: dict[str, Any] = {"repeats": options.repeats, "threads": options.threads, "device": options.device}
        steps, _ = step.measure(step.Options(variants=options.variants, memory=not options.dry, **common), case)
        lines, _ = roofline.measure(roofline.Options(**common), case)
        found[name] = {"step": steps, "roofline": lines, "best": best(steps, options.variants)}
    figures = {"device": str(chosen_device(options.device)), "augmentation": "without ADA", "dry": options.dry}
    return {**figures, "cases": found}, [] if options.dry else bars(found)


def keys_of(name: str) -> dict[str, Any]:
    """What a case sets."""
    kind, resolution = name.rsplit("-", 1)
    size = int(resolution)
    if kind == "config-f":
        minibatch = {"schedule.minibatch_size": 32, "schedule.minibatch_gpu": {256: 32, 512: 16, 1024: 8}[size]}
        return {**SHARED, **minibatch, "data.resolution": size}
    together = {256: 16, 512: 8, 1024: 4}[size]
    return {
        **SHARED, "data.resolution": size, "model.fmap_base": 8192 if size < 512 else 16384, "model.mapping_layers": 2,
        "model.num_lowp_res": 4, "schedule.minibatch_size": together, "schedule.minibatch_gpu": together,
    }  # fmt: skip


def best(steps: Figures, variants: tuple[str, ...]) -> dict[str, Any]:
    """The fastest variant, and what compiling brings: the fastest compiled over the fastest eager one."""
    pace = {name: steps[f"sec_per_kimg_{name}"] for name in variants}
    compiles = {name for name in pace if step.VARIANTS[name].keys["train.compile"]}
    compiled = [sec for name, sec in pace.items() if name in compiles - set(steps["not_compiled"])]
    eager = [sec for name, sec in pace.items() if name not in compiles]
    fastest = min(pace, key=lambda name: pace[name])
    gain = min(eager) / min(compiled) if eager and compiled else None
    return {"variant": fastest, "sec_per_kimg": pace[fastest], "compiled_over_eager": gain}


def bars(found: Mapping[str, Figures]) -> Bars:
    """Seconds per kimg of the published rows' settings, and what compiling is to bring everywhere."""
    held: Bars = []
    for name, case in found.items():
        size = int(name.rsplit("-", 1)[1])
        if name.startswith("published"):
            held.append(at_most(f"{name}: sec_per_kimg", case["best"]["sec_per_kimg"], MOST_SEC_PER_KIMG[size]))
        if case["best"]["compiled_over_eager"] is not None:
            gain = case["best"]["compiled_over_eager"]
            held.append(at_least(f"{name}: compiled over eager", gain, LEAST_FROM_COMPILING))
    return held
