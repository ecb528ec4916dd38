"""Metrics of a run while it trains: when they are due, and how all workers of the group compute them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from stylegan_ray import distributed
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.credentials import logger_of
from stylegan_ray.data import Dataset
from stylegan_ray.metrics.blocks import BlockWorker, Plan, Result, Task
from stylegan_ray.metrics.compute import Available, Results, check_reals, evaluate
from stylegan_ray.metrics.detectors import Detector, DetectorUnavailable, Weights, read_weights
from stylegan_ray.metrics.names import MetricSpec, specs_of
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.metrics.rows import Row, unavailable_row
from stylegan_ray.storage import one_line
from stylegan_ray.train.loop import is_multiple
from stylegan_ray.train.state import TrainState

log = logger_of(__name__)


class BlockFailed(RuntimeError):  # noqa: N818
    """A block could not be computed; the message says on which worker, and why."""


def metric_specs(cfg: RunConfig) -> list[MetricSpec]:
    """The metrics of a run; raises ConfigError when a name is unknown."""
    return specs_of(cfg.metrics.names, cfg.metrics.num_images)


def check_metrics(cfg: RunConfig, dataset: Dataset) -> None:
    """Raises ConfigError when the data does not allow a metric; missing weights are no reason."""
    try:
        check_reals(metric_specs(cfg), dataset)
    except ValueError as error:
        raise ConfigError(f"metrics.names={list(cfg.metrics.names)}: {error}") from error


def ticks_between(cfg: RunConfig) -> int | None:
    """Ticks between metrics; None: at the start and at the end only."""
    return cfg.metrics.ticks or cfg.train.network_snapshot_ticks


def is_due(cfg: RunConfig, tick: int, done: bool) -> bool:
    """Whether metrics are due at the end of a tick; not of tick 0, which is one group: the start has its own."""
    return done or (tick > 0 and is_multiple(tick, ticks_between(cfg)))


def tick_to_catch_up(state: TrainState, cfg: RunConfig) -> int | None:
    """The tick at whose end a run that starts or resumes here may still lack its metrics; 0 for its start."""
    if state.iteration == 0:
        return 0
    is_at_its_end, done = state.cur_nimg == state.tick_start_nimg, state.cur_nimg >= cfg.train.total_nimg
    return state.tick - 1 if is_at_its_end and is_due(cfg, state.tick - 1, done) else None


def plan_of(state: TrainState, cfg: RunConfig) -> Plan:
    """How G_ema is evaluated at this training state."""
    return Plan((), mirror=cfg.data.mirror_augment, lod=state.lod(cfg), drange=cfg.train.drange_net)


def provenance_of(state: TrainState, cfg: RunConfig, tick: int) -> dict[str, Any]:
    """What the rows say about their networks."""
    return {
        "Progress/tick": tick,
        "kimg": state.cur_nimg / 1000,
        "total_sec": state.elapsed_sec,
        "run": cfg.run.name,
    }


class GroupMetrics:
    """The metrics of a run, computed by all workers of the group: each computes its share of the blocks.

    Every rank has one and makes the same calls. The values do not depend on the number of ranks, and the training state
    is only read.
    """

    def __init__(self, cfg: RunConfig, dataset: Dataset, device: torch.device, cache: RealsCache | None = None) -> None:
        self.cfg, self.dataset, self.device = cfg, dataset, device
        self.specs = metric_specs(cfg)
        check_reals(self.specs, dataset)
        self.available = detectors_of_group(self.specs, cfg.metrics.detector)
        self.cache = cache or RealsCache.of_user()

    def rows(self, state: TrainState, tick: int) -> list[Row]:
        """The rows of the present G_ema on rank 0; no rows on the other ranks, which compute their blocks."""
        plan, detectors = plan_of(state, self.cfg), self.available[0]
        if distributed.rank() != 0:
            usable = tuple(spec for spec in self.specs if spec.detector in detectors)
            if usable:
                plan = replace(plan, specs=usable)
                self._compute_blocks(BlockWorker(plan, state.G_ema, self.dataset, detectors, self.device))
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

    def _compute_blocks(self, worker: BlockWorker) -> None:
        for _ in run_in_group(worker, []):
            raise AssertionError("only rank 0 gets results")


def run_in_group(worker: BlockWorker, tasks: Sequence[Task]) -> Results:
    """Computes blocks on all ranks in turn; rank 0 says which, and alone yields the results, in order."""
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
        for _ in rounds:  # rank 0 may have stopped early, and the others do not know
            distributed.to_rank0(None)


def _computed(worker: BlockWorker, tasks: Sequence[Task]) -> Result | str | None:
    """The result of this rank's block, if it has one in this round; a string when it failed."""
    try:
        return worker.run(tasks[0]) if tasks else None
    except Exception as error:  # this rank must not miss the collective call
        return f"worker {distributed.rank()}: {type(error).__name__}: {one_line(error)}"


def detectors_of_group(specs: Sequence[MetricSpec], address: str | None) -> Available:
    """The detectors that the metrics need on this rank; rank 0 reads or downloads the weights for all."""
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


def format_rows(rows: Sequence[Row]) -> str:
    """The values of rows in one line; empty when there are none."""
    values = [f"{row['metric']} {row['value']:.4g}" for row in rows if row["value"] is not None]
    sec = sum({row["seconds"] for row in rows})
    return f"metrics at {rows[0]['kimg']:g} kimg: {', '.join(values)} ({sec:.1f} s)" if values else ""


def scalars(rows: Sequence[Row]) -> Mapping[str, float]:
    """The values of rows by key: Metrics/<name>."""
    return {f"Metrics/{row['metric']}": row["value"] for row in rows if row["value"] is not None}
