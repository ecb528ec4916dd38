"""Metrics of a run while it trains: when they are due, and how all workers of the group take them together."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from stylegan_ray import distributed
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.data import Dataset
from stylegan_ray.metrics.blocks import BlockWorker, Plan, Result, Task
from stylegan_ray.metrics.compute import Available, Results, check_reals, evaluate
from stylegan_ray.metrics.detectors import Detector, DetectorUnavailable, Weights, read_weights
from stylegan_ray.metrics.names import MetricSpec, parse_metric, parse_metrics, with_num_images
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.metrics.rows import Row, unavailable_row
from stylegan_ray.storage import one_line
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.state import TrainState

log = logging.getLogger(__name__)


class BlockFailed(RuntimeError):  # noqa: N818
    """A block could not be computed; the message says on which worker, and why."""


def metric_specs(cfg: RunConfig) -> list[MetricSpec]:
    """The metrics that a run takes; raises ConfigError when a name is not understood."""
    num = cfg.metrics.num_images
    names = [with_num_images(name, num) if num else parse_metric(name).name for name in cfg.metrics.names]
    return parse_metrics(names)


def check_metrics(cfg: RunConfig, dataset: Dataset) -> None:
    """Raises ConfigError when a run cannot take its metrics; missing weights are no reason."""
    try:
        check_reals(metric_specs(cfg), dataset)
    except ValueError as error:
        raise ConfigError(f"metrics.names={list(cfg.metrics.names)}: {error}") from error


def ticks_between(cfg: RunConfig) -> int | None:
    """How often metrics are due; None: at the start and at the end only."""
    return cfg.metrics.ticks or cfg.train.network_snapshot_ticks


def is_due(cfg: RunConfig, tick: int, done: bool) -> bool:
    """Whether metrics are due where a tick has ended. The first tick ends at once, and the start has been measured."""
    every = ticks_between(cfg)
    return done or (tick > 0 and every is not None and tick % every == 0)


def tick_to_catch_up(state: TrainState, cfg: RunConfig) -> int | None:
    """The tick for whose end a run that begins or resumes here may still lack its metrics; 0 for its start."""
    if state.iteration == 0:
        return 0
    stands_at_its_end = state.cur_nimg == state.tick_start_nimg
    return state.tick - 1 if stands_at_its_end and is_due(cfg, state.tick - 1, False) else None


def plan_of(state: TrainState, cfg: RunConfig) -> Plan:
    """How G_ema is measured where the state stands."""
    log2 = math.log2(max(state.G.resolution))
    lod = state.prev_lod if state.iteration else training_schedule(cfg, state.cur_nimg, log2).lod
    return Plan((), mirror=cfg.data.mirror_augment, lod=lod, drange=cfg.train.drange_net)


def provenance_of(state: TrainState, cfg: RunConfig, tick: int) -> dict[str, Any]:
    """What the rows say about the networks they were taken on."""
    return {
        "Progress/tick": tick,
        "kimg": state.cur_nimg / 1000,
        "total_sec": state.elapsed_sec,
        "run": cfg.run.name,
    }


class GroupMetrics:
    """The metrics of a run, taken by all workers of the group: each computes its share of the blocks.

    Every rank makes one and calls it at the same places. The numbers do not depend on how many there are, and the
    training state is only read.
    """

    def __init__(self, cfg: RunConfig, dataset: Dataset, device: torch.device, cache: RealsCache | None = None) -> None:
        self.cfg, self.dataset, self.device = cfg, dataset, device
        self.specs = metric_specs(cfg)
        check_reals(self.specs, dataset)
        self.available = detectors_of_group(self.specs, cfg.metrics.detector)
        self.cache = cache or RealsCache.of_user()

    def rows(self, state: TrainState, tick: int) -> list[Row]:
        """The rows of G_ema as it is now, on rank 0; none on the other ranks, which help."""
        plan, detectors = plan_of(state, self.cfg), self.available[0]
        if distributed.rank() != 0:
            usable = tuple(spec for spec in self.specs if spec.detector in detectors)
            if usable:
                self._help(BlockWorker(replace(plan, specs=usable), state.G_ema, self.dataset, detectors, self.device))
            return []
        provenance = provenance_of(state, self.cfg, tick) | {"placement": "inline"}
        try:
            return evaluate(
                state.G_ema, self.dataset, [spec.name for spec in self.specs], plan, available=self.available,
                cache=self.cache, device=self.device, provenance=provenance, run=run_in_group,
            )  # fmt: skip
        except (BlockFailed, ValueError, ArithmeticError) as error:
            log.warning("fault: metrics at %g kimg: %s", state.cur_nimg / 1000, one_line(error))
            return [unavailable_row(spec, one_line(error), provenance) for spec in self.specs]

    def _help(self, worker: BlockWorker) -> None:
        for _ in run_in_group(worker, []):
            raise AssertionError("only rank 0 gets results")


def run_in_group(worker: BlockWorker, tasks: Sequence[Task]) -> Results:
    """Computes blocks on all ranks in turn; rank 0 says which, and it alone gets the results, in their order."""
    rank, num = distributed.rank(), distributed.world_size()
    tasks = distributed.from_rank0(tasks)
    rounds = iter(range(0, len(tasks), num))
    try:
        for first in rounds:
            results = distributed.to_rank0(_computed(worker, tasks[first + rank : first + rank + 1]))
            for task, result in zip(tasks[first : first + num], results or [], strict=False):
                if isinstance(result, str):
                    raise BlockFailed(result)
                yield task, result
    finally:
        for _ in rounds:  # rank 0 may have given up, and the others do not know
            distributed.to_rank0(None)


def _computed(worker: BlockWorker, tasks: Sequence[Task]) -> Result | str | None:
    """The result of this rank's block, if it has one in this round; in words what went wrong."""
    try:
        return worker.run(tasks[0]) if tasks else None
    except Exception as error:  # an error must not keep this rank from meeting the others
        return f"worker {distributed.rank()}: {type(error).__name__}: {one_line(error)}"


def detectors_of_group(specs: Sequence[MetricSpec], address: str | None) -> Available:
    """The detectors that metrics need on this rank; rank 0 reads or fetches the weights, once for all."""
    detectors: dict[str, Detector] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(spec.detector for spec in specs):
        found = distributed.from_rank0(_weights(name, address) if distributed.rank() == 0 else None)
        try:
            if isinstance(found, str):
                raise DetectorUnavailable(found)
            detectors[name] = found.build()
        except DetectorUnavailable as error:
            missing[name] = str(error)
    return detectors, missing


def _weights(name: str, address: str | None) -> Weights | str:
    try:
        return read_weights(name, address)
    except DetectorUnavailable as error:
        return str(error)


def told(rows: Sequence[Row]) -> str:
    """Rows in one line."""
    values = [f"{row['metric']} {row['value']:.4g}" for row in rows if row["value"] is not None]
    sec = sum({row["seconds"] for row in rows})
    return f"metrics at {rows[0]['kimg']:g} kimg: {', '.join(values)} ({sec:.1f} s)" if values else ""


def scalars(rows: Sequence[Row]) -> Mapping[str, float]:
    """The values of rows as whoever drives the run sees them: Metrics/<name>."""
    return {f"Metrics/{row['metric']}": row["value"] for row in rows if row["value"] is not None}
