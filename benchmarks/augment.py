"""Benchmark `augment`: what ADA's pipeline adds to a training step, and its warp against the warp's plain twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least, at_most
from benchmarks.roofline import timed
from benchmarks.subject import RandomImages, chosen_device, image_shape, label_size_of, new_state, schedule_of
from stylegan_ray.augment import augmentation_of
from stylegan_ray.config import RunConfig
from stylegan_ray.distributed import prepare_process
from stylegan_ray.ops import warp2d, warp2d_reference
from stylegan_ray.rng import Place, SeededDraws
from stylegan_ray.train.step import train_iteration

ITERATIONS = 16
"""Of which one has R1 and four have path length regularization, in the usual intervals."""
SUBJECT = 64
"""The resolution of the README's figures, to which the bars apply."""
MOST_OF_A_STEP, LEAST_OVER_TWIN = 0.15, 1.5


@dataclass(frozen=True)
class Options(Common):
    """Times training steps with and without augmentation in turns, and the warp by itself.

    Takes every --section.key of the train command, such as --augment.pipe. The augmentation has a fixed p.
    """

    preset: str = "config-f"
    resolutions: tuple[int, ...] = (32, 64, 256)
    """Sides of the images."""
    p: float = 0.5
    """Probability of each augmentation."""
    repeats: int = 3
    """How often 16 iterations, and the warp, are timed."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""
    device: str | None = None
    """cpu or cuda; null: the GPU where there is one."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """Seconds of steps and warps by resolution."""
    prepare_process(cfg, options.threads)
    device, found, bars = chosen_device(options.device), {}, []
    for resolution in options.resolutions:
        at = cfg.with_overrides({"data.resolution": resolution, "cluster.num_workers": 1})
        steps, warps = step_seconds(at, device, options), warp_seconds(at, device, options)
        cost = median(b / a - 1 for a, b in zip(steps["noaug"], steps["augmented"], strict=True))
        ratios = {
            order: median(warps[f"{order}_plain"]) / median(warps[f"{order}_fast"]) for order in ("first", "second")
        }
        found[str(resolution)] = {
            "cost": cost, "warp_fast_over_plain": ratios,
            "sec_per_iteration": steps, "sec_per_warp": warps,
        }  # fmt: skip
        if resolution == SUBJECT:
            bars.append(at_most("share of a step added by augmentation at 64 px", cost, MOST_OF_A_STEP))
            for order, ratio in ratios.items():
                bars.append(at_least(f"warp over its plain twin, {order} order, at 64 px", ratio, LEAST_OVER_TWIN))
    figures = {
        "preset": cfg.run.preset, "device": str(device), "threads": torch.get_num_threads(), "p": options.p,
        "pipe": cfg.augment.pipe, "minibatch_size": cfg.schedule.minibatch_size, "by_resolution": found,
    }  # fmt: skip
    return figures, bars


def step_seconds(cfg: RunConfig, device: torch.device, options: Options) -> dict[str, list[float]]:
    """Mean seconds of an iteration without and with augmentation, for each repeat; iterations alternate."""
    variants = {
        "noaug": cfg.with_overrides({"augment.mode": "noaug"}),
        "augmented": cfg.with_overrides({"augment.mode": "fixed", "augment.p": options.p}),
    }
    images = RandomImages(cfg.run.seed, image_shape(cfg), label_size_of(cfg))
    schedule, draws = schedule_of(cfg, None), SeededDraws(cfg.run.seed, 0, images)
    states = {name: new_state(variant, device) for name, variant in variants.items()}
    sums: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(options.repeats + 1):  # the first one warms up
        for name, state in states.items():
            state.iteration = 0
            sums[name].append(0.0)
        for number in range(ITERATIONS if repeat else 1):
            for name in list(variants)[:: 1 if number % 2 else -1]:
                state, size = states[name], schedule.minibatch_gpu
                positions = range(state.cur_nimg, state.cur_nimg + schedule.minibatch_size, size)
                micro_batches = [images.micro_batch(position, size) for position in positions]
                call = partial(train_iteration, state, variants[name], micro_batches, draws, schedule)
                sums[name][-1] += timed(call, device) / ITERATIONS
    return {name: values[1:] for name, values in sums.items()}


def warp_seconds(cfg: RunConfig, device: torch.device, options: Options) -> dict[str, list[float]]:
    """Seconds of the warp and of its twin with their derivatives: of first order, and of second order.

    The twin of first order samples by torch's grid_sample, which has no second derivative; the other one gathers.
    """
    cfg = cfg.with_overrides({"augment.mode": "fixed", "augment.pipe": "bg"})
    augmentation, shape, num = augmentation_of(cfg.augment), image_shape(cfg), cfg.schedule.minibatch_gpu
    assert augmentation is not None
    numbers = augmentation.draw(SeededDraws(cfg.run.seed), "augment", Place(0, 0, 0), num)
    parameters = augmentation.parameters(numbers, options.p, shape, False)
    inverse, margin = parameters["inverse"].float().to(device), parameters["margin"]
    x = torch.randn(num, *shape, device=device)
    twin = partial(warp2d_reference, inverse=inverse, margin=margin)
    calls: dict[str, Callable[[], Any]] = {
        "first_plain": partial(first_order, partial(twin, differentiable_twice=False), x),
        "first_fast": partial(first_order, partial(warp2d, inverse=inverse, margin=margin), x),
        "second_plain": partial(second_order, twin, x),
        "second_fast": partial(second_order, partial(warp2d, inverse=inverse, margin=margin), x),
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(3 * options.repeats + 1):
        for name in list(calls)[:: 1 if repeat % 2 else -1]:
            sec = timed(calls[name], device)
            if repeat:
                found[name].append(sec)
    return found


def first_order(warp: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The warp and its gradient."""
    x = x.detach().requires_grad_()
    y = warp(x)
    y.backward(y.detach())


def second_order(warp: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The warp, its gradient, and the gradient of that, as R1 takes them."""
    x = x.detach().requires_grad_()
    y = warp(x).square()
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    dx.square().sum().backward()
