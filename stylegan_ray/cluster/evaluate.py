"""The command `evaluate`: metrics of a trained network, computed in this process or in Ray tasks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.credentials import without_credentials
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.options import to_option_names
from stylegan_ray.interop import Networks
from stylegan_ray.interop.loading import load, locate
from stylegan_ray.jsonl import append_jsonl
from stylegan_ray.lease import Claim, held
from stylegan_ray.metrics.blocks import BlockWorker, Plan, Result, Task
from stylegan_ray.metrics.compute import Results, Runner, check_reals, evaluate, run_serially, weights_of
from stylegan_ray.metrics.detectors import Weights
from stylegan_ray.metrics.names import MetricSpec, parse_metrics, specs_of
from stylegan_ray.metrics.options import EvaluateOptions
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.metrics.row_files import rows_file
from stylegan_ray.metrics.rows import Row, full_name
from stylegan_ray.options import check_least
from stylegan_ray.outputs import check_file
from stylegan_ray.report.console import ProgressLine
from stylegan_ray.run_folder import (
    NETWORK_ENDINGS,
    as_path,
    is_run,
    read_config,
    refuse_relative,
)
from stylegan_ray.storage import Storage, absolute, file_to_write, one_line, split_address

MAX_BLOCKS_PER_TASK = 4
LEAST_IMAGES_OF_CLASS = 100
"""Classes with fewer images have no metrics of their own."""

ANOTHER_FILE = "give another file with --out FILE"


def compute_metrics(options: EvaluateOptions) -> int:
    """Computes metrics, prints them and appends their rows; returns the exit status: 1 when one is unavailable."""
    check_numbers(options)
    refuse_relative({
        "CHECKPOINT": as_path(options.checkpoint), "DATA": options.data, "--out": options.out,
        "--detector": options.detector,
    })  # fmt: skip
    if options.out:
        check_file(options.out, "--out")
    address = absolute(locate(options.checkpoint))
    networks = load(address)
    cfg = training_config(networks.config, address)
    networks = replace(networks, config=cfg)
    specs = parse_metrics(options.metrics) if options.metrics else specs_of(cfg.metrics.names, cfg.metrics.num_images)
    if not specs:
        raise ConfigError(f"{address} was trained without metrics; name the ones to compute: --metrics fid50k")
    place = file_to_write(options.out) if options.out else rows_file(address)
    folder, name = split_address(place)
    way_out = f"wait for its end, or {ANOTHER_FILE}"
    key = "--out" if options.out else ""
    with held(folder, "evaluate", [Claim(name)], way_out, key=key, elsewhere=ANOTHER_FILE):
        with ProgressLine() as progress:
            dataset = open_reals(options, address, networks, specs, progress)
            weights, missing = weights_of(specs, options.detector)
            plan = make_plan(options, networks)
            with block_runner(options, weights) as run:
                rows, origin = [], {"kimg": networks.cur_nimg / 1000, "run": cfg.run.name, "checkpoint": address}
                for part, of_class in parts_of(options, networks, dataset):
                    rows += evaluate(
                        networks.G_ema, part, [spec.name for spec in specs], plan, repeat=options.repeat,
                        available=({name: found.build() for name, found in weights.items()}, missing),
                        cache=RealsCache.of_user(), progress=progress, run=run, provenance=origin | of_class,
                    )  # fmt: skip
        print(without_credentials("\n".join(format_rows(rows))))
        try:
            append_jsonl(Storage.at(folder), name, rows)
        except OSError as error:
            raise ConfigError(f"{place} cannot be written: {one_line(error)}; {ANOTHER_FILE}") from error
    print(without_credentials(f"Rows  {place}"))
    return int(any("unavailable" in row for row in rows))


def training_config(cfg: RunConfig, address: str) -> RunConfig:
    """The configuration of networks with the place and the data of their run, which a network file does not name."""
    folder, name = split_address(address)
    if not name.endswith(NETWORK_ENDINGS) or not is_run(folder):
        return cfg
    run = read_config(Storage.at(folder))
    return cfg.model_copy(update={"run": run.run, "data": cfg.data.model_copy(update={"path": run.data.path})})


def format_rows(rows: Sequence[Row]) -> Iterator[str]:
    """Lines for the terminal; of repeated metrics the mean and the spread only."""
    repeated = {full_name(row) for row in rows if row.get("repeats")}
    for row in rows:
        name = full_name(row)
        if "unavailable" in row:
            yield f"{name:24s} unavailable: {row['unavailable']}"
        elif row.get("repeats") or name not in repeated:
            spread = f" +- {row['spread']:.2g}" if row["spread"] else ""
            times = f"{row['repeats']} x " if row.get("repeats") else ""
            real = f", {row['num_real']} real" if row["num_real"] else ""
            counts = f"{times}{row['num_gen']} generated{real}, {row['detector']}, {row['seconds']:.1f} s"
            yield f"{name:24s} {row['value']:.6g}{spread}  ({counts})"


def check_numbers(options: EvaluateOptions) -> None:
    """Raises ConfigError for values that can be refused before anything is loaded."""
    check_least(options, repeat=1, seed=0, num_tasks=0)
    if not math.isfinite(options.trunc):
        raise ConfigError(f"--trunc {options.trunc} must be a finite number; 1 switches truncation off")


def open_reals(
    options: EvaluateOptions, address: str, networks: Networks, specs: Sequence[MetricSpec], progress: ProgressLine
) -> Dataset | None:
    """The real images that training compares with, or those of DATA; None where neither metrics nor labels need them.

    `address` is that of the networks. Raises ConfigError.
    """
    G, cfg = networks.G_ema, networks.config
    if not any(spec.needs_reals for spec in specs) and not G.label_size:
        return None
    is_alone = address.endswith(NETWORK_ENDINGS) and not is_run(split_address(address)[0])
    if options.data is None and is_alone:
        raise ConfigError(
            f"{options.checkpoint} does not record its training data; give DATA after it (openmoji is built in)"
        )
    shape = {"resolution": G.resolution, "channels": G.num_channels, "cond": bool(G.label_size)}
    others = {"path": options.data} if options.data else {}
    subset = None if options.data or cfg.metrics.all_images else cfg.data.subset
    data = cfg.data.model_copy(update={**shape, **others, "subset": subset})
    try:
        dataset = open_dataset(data, cfg.run.seed, progress)
    except DataError as error:
        raise ConfigError(explain_data(str(error))) from error
    if G.label_size not in (0, dataset.label_size):
        raise ConfigError(
            f"{dataset.path} has labels of size {dataset.label_size} and the network expects {G.label_size}; give the "
            f"data it was trained on"
        )
    try:
        check_reals(specs, dataset)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return dataset


def explain_data(text: str) -> str:
    """A message about the data in words of this command, which has no options for data but prepare_data has."""
    text = re.sub(r"\bdata\.resolution=(\w+), but", r"the network makes images of \1, but", text)
    text = text.replace("data.cond=True needs", "a conditional network needs").replace(
        "train without labels (--data.no-cond), or ", ""
    )
    text = to_option_names(text, "DATA")
    if " --" not in text:
        return text
    return f"{text} (options of prepare_data; give as DATA what it writes: python jobs/prepare_data.py DATA DEST ...)"


def parts_of(
    options: EvaluateOptions, networks: Networks, dataset: Dataset | None
) -> Iterator[tuple[Dataset | None, dict[str, str]]]:
    """The data that metrics are computed on: all of it, then each class that is large enough, with its name."""
    classes = large_classes(options, networks, dataset) if options.by_class else []
    yield dataset, {}
    for number in classes:
        assert dataset is not None
        yield dataset.of_class(number), {"class": dataset.class_name(number)}


def large_classes(options: EvaluateOptions, networks: Networks, dataset: Dataset | None) -> list[int]:
    """The classes that have enough images; raises ConfigError where there are none."""
    if dataset is None or not networks.G_ema.label_size:
        raise ConfigError(
            f"--by-class: {options.checkpoint} is not conditional; train with --data.cond, or leave it out"
        )
    numbers, counts = np.unique(dataset.check_classes(), return_counts=True)
    large = numbers[counts >= LEAST_IMAGES_OF_CLASS].tolist()
    if not large:
        raise ConfigError(
            f"--by-class: no class of {dataset.path} has {LEAST_IMAGES_OF_CLASS} images or more, the largest one has "
            f"{counts.max()}; leave it out"
        )
    if len(large) < len(numbers):
        print(f"{len(numbers) - len(large)} of {len(numbers)} classes have fewer than {LEAST_IMAGES_OF_CLASS} images")
    return large


def make_plan(options: EvaluateOptions, networks: Networks) -> Plan:
    """Everything besides networks, data and detectors that decides the values."""
    cfg = networks.config
    mirror = cfg.data.mirror_augment if options.mirror is None else options.mirror == "yes"
    return Plan(
        (), seed=options.seed, psi=options.trunc, noise=options.noise_mode, dialect=options.dialect, mirror=mirror,
        lod=networks.lod, drange=cfg.train.drange_net,
    )  # fmt: skip


@contextmanager
def block_runner(options: EvaluateOptions, weights: Mapping[str, Weights]) -> Iterator[Runner]:
    """What computes blocks: tasks on a cluster, which is left afterwards, or this process."""
    if options.num_tasks == 0 or not weights:
        yield run_serially
        return
    from stylegan_ray.cluster.resources import joined_for_tasks

    with joined_for_tasks(options.address, options.num_tasks) as (num_tasks, device):
        yield RayRunner(weights, num_tasks, device)


@dataclass(frozen=True)
class BlockWork:
    """Computes blocks in a task's process, which builds networks and detectors once."""

    plan: Plan
    G: Any
    dataset: Dataset | None
    weights: Mapping[str, Weights]
    device: str

    def __call__(self, tasks: Sequence[Task]) -> list[Result]:
        return [self._worker.run(task) for task in tasks]

    @cached_property
    def _worker(self) -> BlockWorker:
        if self.device == "cpu":
            torch.set_num_threads(1)
        detectors = {name: weights.build() for name, weights in self.weights.items()}
        return BlockWorker(self.plan, self.G, self.dataset, detectors, self.device)


class RayRunner:
    """Computes blocks in Ray tasks of one thread or one GPU each: the same values for any number of them."""

    def __init__(self, weights: Mapping[str, Weights], num_tasks: int, device: str = "cpu") -> None:
        self.weights, self.num_tasks, self.device = weights, num_tasks, device

    def __call__(self, worker: BlockWorker, tasks: Sequence[Task]) -> Results:
        """Blocks as they are done; a task computes several."""
        from stylegan_ray.cluster.task_pool import TaskPool

        work = BlockWork(worker.plan, worker.G, worker.dataset, self.weights, self.device)
        size = max(min(len(tasks) // (8 * self.num_tasks), MAX_BLOCKS_PER_TASK), 1)
        parts = [tasks[i : i + size] for i in range(0, len(tasks), size)]
        for part, results in TaskPool(work, self.num_tasks, self.device).as_they_come(parts):
            yield from zip(part, results, strict=True)
