"""Measures a generator in one process: several metrics, one pass of generation, rows with their provenance."""

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
"""Told (blocks done, blocks in all, what was done)."""

Results = Generator[tuple[Task, Result], None, None]

Runner = Callable[[BlockWorker, Sequence[Task]], Results]
"""Computes blocks, in any order; another than the serial one may compute them elsewhere. Closed when given up."""

Available = tuple[Mapping[str, Detector], Mapping[str, str]]
"""Detectors by name, and for those that are not available the reason and the command that would make them so."""


def run_serially(worker: BlockWorker, tasks: Sequence[Task]) -> Results:
    """Computes one block after the other, here."""
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
    """Rows of the metrics of these names for a generator; with repeats, a row per seed and then their mean and spread.

    A metric whose detector is not available makes a row that says so. `plan` gives the settings, its metrics are
    replaced by `names`; `available` gives the detectors, null: those whose weights are where `prefetch` puts them.
    """
    specs = parse_metrics(list(names))
    detectors, missing = available or available_detectors(specs)
    told = provenance or {}
    unavailable = [unavailable_row(spec, missing[spec.detector], told) for spec in specs if spec.detector in missing]
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
        repeats.append([value_row(v, this, detectors[v.spec.detector], dataset, told, seconds) for v in values])
    rows = [row for some in repeats for row in some]
    return rows + (summary_rows(repeats) if repeat > 1 else []) + unavailable


def measure(worker: BlockWorker, cache: RealsCache, progress: Progress | None = None, run: Runner = run_serially):
    """The values of the worker's plan; features of real pictures come from the cache or go there."""
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
    """What the cache holds of the features that the plan needs, by (array, count)."""
    wanted = Reduction(worker.plan, counts).new_reals
    found = {key: cache.get(_cache_name(worker, key), c.keeps_rows, c.makes_stats) for key, c in wanted.items()}
    return {key: collected for key, collected in found.items() if collected is not None}


def available_detectors(specs: Sequence[MetricSpec], address: str | None = None) -> Available:
    """The detectors that metrics need, and for those not available the command that would make them so."""
    detectors, missing = {}, {}
    for name in dict.fromkeys(spec.detector for spec in specs):
        try:
            detectors[name] = load_detector(name, address)
        except DetectorUnavailable as error:
            missing[name] = str(error)
    return detectors, missing


def weights_of(specs: Sequence[MetricSpec], address: str | None = None) -> tuple[dict[str, Weights], dict[str, str]]:
    """The weights of the detectors that metrics need, and for those not available what would make them so."""
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
    """Raises ValueError when metrics need real pictures and there are none, or too few."""
    needing = [spec for spec in specs if spec.needs_reals]
    if needing and dataset is None:
        raise ValueError(f"{needing[0].name} compares with real pictures; give DATA")
    for spec in needing:
        least = spec.nhood_size + 1 if spec.kind == "pr" else 2
        if dataset is not None and dataset.num_images < least:
            raise ValueError(
                f"{spec.name} needs at least {least} real pictures; {dataset.path} has {dataset.num_images}"
            )


def _cache_name(worker: BlockWorker, key: tuple[str, int]) -> str:
    array, count = key
    assert worker.dataset is not None
    return reals_name(worker.dataset, worker.detectors[array.partition("/")[2]], count, worker.plan.mirror)
