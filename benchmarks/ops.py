"""Benchmark `ops`: each operation at each resolution, fast and plain in turns, through both derivatives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.command import Bars, Common, Figures
from benchmarks.subject import chosen_device, image_shape
from benchmarks.twins import plain_twins
from stylegan_ray.config import RunConfig
from stylegan_ray.distributed import prepare_process
from stylegan_ray.networks.shapes import feature_maps, level_sizes
from stylegan_ray.ops import (
    bias_act,
    conv2d_resample,
    downsample2d,
    fir_filter,
    modulated_conv2d,
    penalized_gradients,
    to_memory_format,
    upfirdn2d,
    upsample2d,
)

ORDERS = ("forward", "backward", "penalty")
"""Values; values and gradients; the gradient of a penalty on the gradient with respect to images."""


@dataclass(frozen=True)
class Options(Common):
    """Times every operation of the networks at the resolutions of the configuration, fast and plain in turns.

    Takes every --section.key of the train command; the batch is --schedule.minibatch_gpu.
    """

    repeats: int = 5
    """How often each is timed; one more time goes before, to warm up."""
    least_resolution: int = 16
    """The smallest resolution to time."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""
    device: str | None = None
    """cpu or cuda; null: the GPU where there is one."""


class Case(NamedTuple):
    """An operation with what it takes."""

    call: Callable[..., Tensor]
    x: Tensor
    others: Sequence[Tensor]


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds by operation, order of derivative and variant, and how much faster the fast one is."""
    prepare_process(cfg, options.threads)
    device = chosen_device(options.device)
    found: dict[str, dict[str, Any]] = {}
    for name, case in cases(cfg, device, options.least_resolution):
        found[name] = {"shape": list(case.x.shape), **timed(case, options.repeats)}
    figures = {
        "preset": cfg.run.preset,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "fast_over_plain": {
            name: {order: median(case[f"{order}_plain"]) / median(case[f"{order}_fast"]) for order in ORDERS}
            for name, case in found.items()
        },
        "ops": found,
    }
    return figures, []


def cases(cfg: RunConfig, device: torch.device, least: int) -> Iterator[tuple[str, Case]]:
    """Every operation at every resolution, with the feature maps that it has there."""
    model, sizes = cfg.model, level_sizes(image_shape(cfg)[1:])
    widths = feature_maps(len(sizes) + 1, model.fmap_base, model.fmap_decay, model.fmap_min, model.fmap_max)
    taps = fir_filter(model.resample_kernel or (1.0, 1.0), separable=True).to(device)
    for level, (height, width) in enumerate(sizes):
        if max(height, width) < least or level == 0:
            continue
        few, many, num = widths[level + 1], widths[level], cfg.schedule.minibatch_gpu
        make = partial(random, device)
        x, below = make(num, few, height, width), make(num, many, height // 2, width // 2)
        same, wider = make(few, few, 3, 3), make(few, many, 3, 3)
        narrower, styles = wider.transpose(0, 1).contiguous(), make(num, few)
        for name, case in {
            "bias_act": Case(lambda x, b: bias_act(x, b, act="lrelu"), x, [make(few)]),
            "blur": Case(lambda x: upfirdn2d(x, taps, padding=(2, 1)), x, []),
            "upsample": Case(lambda x: upsample2d(x, taps), below, []),
            "downsample": Case(lambda x: downsample2d(x, taps), x, []),
            "conv": Case(lambda x, w: conv2d_resample(x, w, padding=1), x, [same]),
            "conv_up": Case(lambda x, w: conv2d_resample(x, w, taps, up=2, padding=1), below, [wider]),
            "conv_down": Case(lambda x, w: conv2d_resample(x, w, taps, down=2, padding=1), x, [narrower]),
            "modulated": Case(lambda x, w, s: modulated_conv2d(x, w, s, padding=1), x, [same, styles]),
            "grouped": Case(lambda x, w, s: modulated_conv2d(x, w, s, padding=1, grouped=True), x, [same, styles]),
        }.items():
            yield f"{name}@{max(height, width)}", case


def random(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device)


def timed(case: Case, repeats: int) -> dict[str, list[float]]:
    """Seconds of each order of derivative, fast and plain in turns."""
    found: dict[str, list[float]] = {f"{order}_{way}": [] for order in ORDERS for way in ("plain", "fast")}
    for repeat in range(repeats + 1):
        for order in ORDERS:
            for way in ("plain", "fast")[:: 1 if repeat % 2 == 0 else -1]:
                sec = seconds(case, order, plain=way == "plain")
                if repeat:
                    found[f"{order}_{way}"].append(sec)
    return found


def seconds(case: Case, order: str, plain: bool) -> float:
    """Wall time of one call, with images in memory as the variant keeps them."""
    x = case.x if plain else to_memory_format(case.x, case.x.dtype)
    x, *others = (part.detach().requires_grad_(order != "forward") for part in (x, *case.others))
    with plain_twins() if plain else nullcontext():
        start = time.perf_counter()
        run(case.call, x, others, order)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - start


def run(call: Callable[..., Tensor], x: Tensor, others: Sequence[Tensor], order: str) -> None:
    """One call with its derivatives up to the order: those of half the square of what it gives.

    Its gradient is what it gives, handed over as it lies in memory; a loss that made it of one number would take longer
    than the operation.
    """
    if order == "forward":
        with torch.no_grad():
            call(x.clone(), *others)
        return
    if order == "backward":
        y = call(x * 1, *others)
        y.backward(y.detach())
        return
    with penalized_gradients():
        y = call(x * 1, *others)
        (dx,) = torch.autograd.grad(y, x, y, create_graph=True)
    dx.backward(dx.detach())
