"""The command that takes metrics of a trained network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.interop import Networks
from stylegan_ray.interop.loading import load, locate
from stylegan_ray.metrics.blocks import Plan
from stylegan_ray.metrics.compute import Runner, check_reals, evaluate, run_serially, weights_of
from stylegan_ray.metrics.detectors import Weights
from stylegan_ray.metrics.found import absolute, place_of_rows
from stylegan_ray.metrics.names import MetricSpec, parse_metrics
from stylegan_ray.metrics.options import EvaluateOptions
from stylegan_ray.metrics.reals_cache import RealsCache
from stylegan_ray.metrics.rows import Row
from stylegan_ray.report.console import ProgressLine
from stylegan_ray.run_folder import append_jsonl, refuse_relative
from stylegan_ray.storage import Storage, split_address


def take_metrics(options: EvaluateOptions) -> int:
    """Takes metrics, prints them and notes their rows; returns the exit status: 1 when one is not available."""
    refuse_relative({"DATA": options.data, "--out": options.out, "--detector": options.detector})
    address = absolute(locate(options.checkpoint))
    networks = load(address)
    cfg = networks.config
    specs = parse_metrics(options.metrics or cfg.metrics.names)
    if not specs:
        raise ConfigError(f"{address} was trained without metrics; say which ones to take: --metrics fid50k")
    with ProgressLine() as progress:
        dataset = data_of(options, networks, specs, progress)
        weights, missing = weights_of(specs, options.detector)
        plan = plan_of(options, networks)
        with runner_of(options, cfg, weights) as run:
            rows = evaluate(
                networks.G_ema, dataset, [spec.name for spec in specs], plan, repeat=options.repeat,
                available=({name: found.build() for name, found in weights.items()}, missing),
                cache=RealsCache.of_user(), progress=progress, run=run,
                provenance={"kimg": networks.cur_nimg / 1000, "run": cfg.run.name, "checkpoint": address},
            )  # fmt: skip
    place = absolute(options.out) if options.out else place_of_rows(address)
    append_jsonl(Storage.at(split_address(place)[0]), split_address(place)[1], rows)
    print("\n".join([*described(rows), f"Rows  {place}"]))
    return int(any("unavailable" in row for row in rows))


def described(rows: Sequence[Row]) -> Iterator[str]:
    """Rows for people to read; of repeats their mean and spread only."""
    repeated = {row["metric"] for row in rows if row.get("repeats")}
    for row in rows:
        if "unavailable" in row:
            yield f"{row['metric']:24s} unavailable: {row['unavailable']}"
        elif row.get("repeats") or row["metric"] not in repeated:
            spread = f" +- {row['spread']:.2g}" if row["spread"] else ""
            times = f"{row['repeats']} x " if row.get("repeats") else ""
            real = f", {row['num_real']} real" if row["num_real"] else ""
            counts = f"{times}{row['num_gen']} generated{real}, {row['detector']}, {row['seconds']:.1f} s"
            yield f"{row['metric']:24s} {row['value']:.6g}{spread}  ({counts})"


def data_of(
    options: EvaluateOptions, networks: Networks, specs: Sequence[MetricSpec], progress: ProgressLine
) -> Dataset | None:
    """The real pictures, or None where neither metrics nor labels need any; raises ConfigError."""
    G, cfg = networks.G_ema, networks.config
    if not any(spec.needs_reals for spec in specs) and not G.label_size:
        return None
    if options.data is None and options.checkpoint.endswith(".pkl"):
        raise ConfigError(f"{options.checkpoint} does not say what it was trained on; give DATA behind it")
    shape = {"resolution": G.resolution, "channels": G.num_channels, "cond": bool(G.label_size)}
    data = cfg.data.model_copy(update=shape | ({"path": options.data} if options.data else {}))
    dataset = open_dataset(data, cfg.run.seed, progress)
    if G.label_size not in (0, dataset.label_size):
        raise ConfigError(
            f"{dataset.path} has labels of size {dataset.label_size} and the network wants {G.label_size}; give the "
            f"data it was trained on"
        )
    try:
        check_reals(specs, dataset)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return dataset


def plan_of(options: EvaluateOptions, networks: Networks) -> Plan:
    """Everything besides networks, data and detectors that decides the numbers."""
    cfg = networks.config
    return Plan(
        (), seed=options.seed, psi=options.trunc, noise=options.noise_mode, dialect=options.dialect,
        mirror=cfg.data.mirror_augment, lod=networks.lod, drange=cfg.train.drange_net,
    )  # fmt: skip


@contextmanager
def runner_of(options: EvaluateOptions, cfg: RunConfig, weights: Mapping[str, Weights]) -> Iterator[Runner]:
    """What computes blocks: tasks on a cluster, which is left afterwards, or this process."""
    if options.num_tasks == 0 or not weights:
        yield run_serially
        return
    import ray

    from stylegan_ray.cluster.block_tasks import OnRay
    from stylegan_ray.cluster.resources import joined

    with joined(cfg.with_overrides({"cluster.address": options.address}), print, options.num_tasks or 1):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        num_tasks = options.num_tasks or gpus or int(resources.get("CPU", 1))
        yield OnRay(weights, num_tasks, "cuda" if gpus else "cpu")
