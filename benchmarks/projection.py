"""Benchmark `projection`: whether images of networks are found again, by PSNR and by distance in w."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, Literal

import torch
import tyro

from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.distributed import prepare_process
from stylegan_ray.images.generate import Sampler
from stylegan_ray.images.grid import pil_uint8
from stylegan_ray.images.perceptual import choose_distance
from stylegan_ray.images.projection import ProjectionPlan, WStatistics, project, psnr, w_statistics
from stylegan_ray.interop.loading import load


@dataclass(frozen=True)
class Options(Common):
    """Generates an image for each seed, projects it with the network that made it, and compares."""

    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NETWORK")] = ()
    """Runs or network files."""
    seeds: int = 10
    """Number of seeds."""
    steps: int = 1000
    """Steps of each projection."""
    space: Literal["w", "w+"] = "w+"
    """One w, or one for each layer."""
    noise: Literal["optimize", "const"] = "optimize"
    """Whether noise maps are optimized."""
    distance: Literal["auto", "lpips", "pyramid"] = "auto"
    """What is minimized."""
    threads: int | None = None
    """Threads of torch; null: as many as torch chooses."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """PSNR and distances by network and seed; the bar is on the median PSNR of each network."""
    if not options.networks:
        raise ConfigError("--networks: name the networks whose images are projected")
    prepare_process(cfg, options.threads)
    choice = choose_distance(options.distance)
    plan = ProjectionPlan(num_steps=options.steps, space=options.space, noise=options.noise)
    found = {network: _figures(network, plan, choice.build(), options.seeds) for network in options.networks}
    shared = {"distance": choice.description, "steps": plan.num_steps, "space": plan.space, "noise": plan.noise}
    bars = [at_least(f"median PSNR of {name}, dB", median(row["psnr_db"]), 25.0) for name, row in found.items()]
    return {**shared, "networks": found}, bars


def _figures(network: str, plan: ProjectionPlan, distance_to: Any, num_seeds: int) -> Figures:
    networks = load(network)
    G, drange = networks.G_ema, networks.config.train.drange_net
    sampler, statistics = Sampler(G, lod=networks.lod), w_statistics(G)
    rows: Figures = {
        "resolution": list(G.resolution), "sigma_w": statistics.sigma, "psnr_db": [], "psnr_db_other_noise": [],
        "w_distance": [], "w_distance_of_mean": [], "sec": [], "curves": [],
    }  # fmt: skip
    for seed in range(num_seeds):
        ws = sampler.styles([seed])
        target = pil_uint8(next(sampler.images(ws)), drange)
        other = next(Sampler(G, noise="random", lod=networks.lod).images(ws, [seed]))
        curve: list[tuple[int, float]] = []

        def watch(step: int, image: torch.Tensor, distance: float, curve: list[Any] = curve) -> None:
            if step % max(plan.num_steps // 20, 1) == 0:
                curve.append((step, distance))

        start = time.perf_counter()
        result = project(G, distance_to(target[None].float()), statistics, plan, drange, networks.lod, watch=watch)
        rows["sec"].append(time.perf_counter() - start)
        rows["psnr_db"].append(psnr(pil_uint8(result.image, drange), target))
        rows["psnr_db_other_noise"].append(psnr(pil_uint8(other, drange), target))
        rows["w_distance"].append(w_distance(result.w, ws, statistics))
        rows["w_distance_of_mean"].append(w_distance(statistics.mean.expand_as(ws), ws, statistics))
        rows["curves"].append(curve)
    return rows


def w_distance(found: torch.Tensor, wanted: torch.Tensor, statistics: WStatistics) -> float:
    """Mean distance over layers of ws [1,num_ws,w_dim], in sigma_w."""
    return float((found - wanted).norm(dim=2).mean() / statistics.sigma)
