"""Evaluates a generator in one process: several metrics from one pass of generation, rows with their provenance."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from stylegan_ray.data import Dataset
from stylegan_ray.metrics.blocks import BlockWorker, Plan, Result, Task, num_reals, tasks_of
from stylegan_ray.metrics.detectors import Detector, DetectorUnavailable, Weights, load_detector, read_weights
from stylegan_ray.metrics.names import MetricSpec, parse_metrics
from stylegan_ray.metrics.reals_cache import RealsCache, reals_name
from stylegan_ray.metrics.reduction import Collected, Reduction
from stylegan_ray.metrics.rows import Row, summary_rows, unavailable_row, value_row

Progress = Callable[[int, int, str], None]
"""Called with (blocks done, blocks in total, kind of the last block)."""

Results = Generator[tuple[Task, Result], None, None]

Runner = Callable[[BlockWorker, Sequence[Task]], Results]
"""Computes blocks in any order, here or elsewhere; closed when the evaluation ends early."""

Available = tuple[Mapping[str, Detector], Mapping[str, str]]
"""Detectors by name; and for unavailable ones the reason, with the command that fetches them."""


def run_serially(worker: BlockWorker, tasks: Sequence[Task]) -> Results:
    """Computes one block after the other in this process."""
    for task in tasks:
        yield task, worker.run(task)


def evaluate(
    G: Any,
    dataset: Dataset | None,
    names: Sequence[str],
    plan: Plan | None = None,
    *,
    repeat: int = 1,
    available: Available | None = None,
    cache: RealsCache | None = None,
    device: torch.device | str = "cpu",
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    run: Runner = run_serially,
) -> list[Row]:
    """Rows of the named metrics for a generator; with `repeat` > 1 a row per seed, then their mean and spread.

    A metric whose detector is unavailable has a row with the reason. `plan` has the settings, `names` replace its
    metrics; `available` has the detectors, None: those whose weights are stored where `prefetch` writes them. Raises
    ConfigError for unknown names and ValueError for missing or too few reals.
    """
    specs = parse_metrics(list(names))
    detectors, missing = available or available_detectors(specs)
    origin = provenance or {}
    unavailable = [unavailable_row(spec, missing[spec.detector], origin) for spec in specs if spec.detector in missing]
    usable = tuple(spec for spec in specs if spec.detector in detectors)
    check_reals(usable, dataset)
    plan = replace(plan or Plan(()), specs=usable)
    cache = cache or RealsCache()
    repeats = []
    for number in range(repeat if usable else 0):
        started = time.monotonic()
        this = replace(plan, seed=plan.seed + number)
        values = measure(BlockWorker(this, G, dataset, detectors, device), cache, progress, run)
        seconds = time.monotonic() - started
        repeats.append([value_row(v, this, detectors[v.spec.detector], dataset, origin, seconds) for v in values])
    rows = [row for some in repeats for row in some]
    return rows + (summary_rows(repeats) if repeat > 1 else []) + unavailable


def measure(worker: BlockWorker, cache: RealsCache, progress: Progress | None = None, run: Runner = run_serially):
    """The values of the worker's plan; features of reals are read from the cache or stored there."""
    plan, dataset = worker.plan, worker.dataset
    counts = {s.name: num_reals(s, dataset, plan.mirror) for s in plan.specs if s.needs_reals and dataset is not None}
    known = known_reals(worker, counts, cache)
    reduction = Reduction(plan, counts, known)
    tasks = tasks_of(plan, reduction.missing_reals())
    with closing(run(worker, tasks)) as results:
        for done, (task, result) in enumerate(results, start=1):
            reduction.add(task, result)
            if progress:
                progress(done, len(tasks), f"{task.kind} {task.of}".strip())
    values = reduction.values()
    for key, collected in reduction.new_reals.items():
        cache.put(_cache_name(worker, key), collected)
    return values


def known_reals(worker: BlockWorker, counts: Mapping[str, int], cache: RealsCache) -> dict[tuple[str, int], Collected]:
    """Features of the plan that the cache has, by (array, count)."""
    wanted = Reduction(worker.plan, counts).new_reals
    found = {key: cache.get(_cache_name(worker, key), c.keeps_rows, c.makes_stats) for key, c in wanted.items()}
    return {key: collected for key, collected in found.items() if collected is not None}


def available_detectors(specs: Sequence[MetricSpec], address: str | None = None) -> Available:
    """The detectors that metrics need; and for unavailable ones the reason, with the command that fetches them."""
    detectors, missing = {}, {}
    for name in dict.fromkeys(spec.detector for spec in specs):
        try:
            detectors[name] = load_detector(name, address)
        except DetectorUnavailable as error:
            missing[name] = str(error)
    return detectors, missing


def weights_of(specs: Sequence[MetricSpec], address: str | None = None) -> tuple[dict[str, Weights], dict[str, str]]:
    """The weights of the detectors that metrics need; and for unavailable ones the reason, as `available_detectors`."""
    weights, missing = {}, {}
    for name in dict.fromkeys(spec.detector for spec in specs):
        try:
            weights[name] = read_weights(name, address)
            weights[name].build()
        except DetectorUnavailable as error:
            weights.pop(name, None)
            missing[name] = str(error)
    return weights, missing


def check_reals(specs: Sequence[MetricSpec], dataset: Dataset | None) -> None:
    """Raises ValueError when metrics need reals and there are none, or too few."""
    needing = [spec for spec in specs if spec.needs_reals]
    if needing and dataset is None:
        raise ValueError(f"{needing[0].name} compares with reals; give DATA")
    for spec in needing:
        least = spec.nhood_size + 1 if spec.kind == "pr" else 2
        if dataset is not None and dataset.num_images < least:
            raise ValueError(f"{spec.name} needs at least {least} reals; {dataset.path} has {dataset.num_images}")


def _cache_name(worker: BlockWorker, key: tuple[str, int]) -> str:
    array, count = key
    assert worker.dataset is not None
    return reals_name(worker.dataset, worker.detectors[array.partition("/")[2]], count, worker.plan.mirror)
