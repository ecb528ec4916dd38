"""Describes a run before it starts: configuration, networks, schedule, memory. Allocates nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from stylegan_ray.config import RunConfig
from stylegan_ray.data import open_dataset
from stylegan_ray.data.index import Progress
from stylegan_ray.machine.memory import gib
from stylegan_ray.networks import layer_table
from stylegan_ray.storage import Storage
from stylegan_ray.table import format_table
from stylegan_ray.train.auto import applied, choices, explain
from stylegan_ray.train.checks import check_new, check_subject, check_with_data, notes
from stylegan_ray.train.memory import Subject, checkpoint_bytes, device_of, growth, peak_bytes
from stylegan_ray.train.schedule import Schedule, growing_stages, training_schedule
from stylegan_ray.train.source import stored_source
from stylegan_ray.train.started import (
    RunProgress,
    address_of,
    check_continues,
    check_total,
    has_source,
    placed,
    stored_config,
    with_shape,
    with_stored,
)
from stylegan_ray.train.transfer import check_start


def describe(cfg: RunConfig, progress: Progress | None = None, resume_from: str | None = None) -> str:
    """Text with the configuration and the reasons for chosen keys, layer tables, changes of the schedule, and memory.

    With `resume_from` also what is copied from there. A run that has started keeps what was chosen then. Raises
    ConfigError as a training does.
    """
    data = open_dataset(cfg.data, cfg.run.seed, progress)
    named = placed(cfg)
    address = address_of(named)
    stored = stored_config(address)
    starts_from_others = resume_from is not None or (stored is not None and has_source(address))
    chosen = choices(cfg, data.resolution) if stored is None else []
    cfg = with_stored(cfg, stored) if stored is not None else applied(cfg, chosen)
    check_with_data(cfg, data)
    subject = check_subject(cfg, data)
    if stored is None:
        check_new(cfg, starts_from_others)
    else:
        stored_source(Storage.at(address), resume_from)
        check_continues(with_shape(with_stored(named, stored), data), data, resume_from)
        check_total(RunProgress(cfg, address))
    shape = (data.resolution, data.num_channels, data.label_size)
    height, width = data.resolution
    classes = f", labels of size {data.label_size}" if data.label_size else ""
    parts = [
        cfg.to_yaml().rstrip(),
        *([explain(chosen)] if chosen else []),
        f"Data: {data.path}, {data.num_images} images of {width}x{height}, {data.num_channels} channels{classes}",
        *filter(None, [data.describe_labels()]),
        *([f"Run {address} has started: this command continues it"] if stored is not None else []),
        *notes(cfg, data, starts_from_others),
        *([check_start(cfg, *shape, resume_from)] if resume_from and stored is None else []),
        *(_layers(name, network) for name, network in zip("GD", subject.networks(), strict=True)),
        _schedule(cfg, math.log2(max(data.resolution))),
        _memory(cfg, subject),
    ]
    return "\n\n".join(parts)


def _layers(name: str, network: torch.nn.Module) -> str:
    rows = [
        (row.name, f"{row.num_parameters:,}", _shape(row.output_shape), _shape(row.weight_shape))
        for row in layer_table(network)
    ]
    total = sum(parameter.numel() for parameter in network.parameters())
    return format_table([(name, "parameters", "output", "weight"), *rows, ("total", f"{total:,}", "", "")])


def _shape(shape: Sequence[int] | None) -> str:
    return "x".join(map(str, shape)) if shape else "-"


def _schedule(cfg: RunConfig, resolution_log2: float) -> str:
    """The settings at the start, wherever one of them starts or stops changing, and at the end."""
    head = ("kimg", "lod", "resolution", "minibatch", "minibatch_gpu", "G_lrate", "D_lrate", "tick_kimg", "G_ema keeps")
    rows: list[tuple[str, ...]] = [head]
    for kimg in _changes(cfg, resolution_log2):
        now = training_schedule(cfg, round(kimg * 1000), resolution_log2)
        rows.append((f"{kimg:g}", *_settings(now)))
    return format_table(rows)


def _settings(now: Schedule) -> tuple[str, ...]:
    rates = (f"{now.G_lrate:g}", f"{now.D_lrate:g}", f"{now.tick_kimg:g}", f"{now.G_smoothing_beta:.6f}")
    return (f"{now.lod:.2f}", str(now.resolution), str(now.minibatch_size), str(now.minibatch_gpu), *rates)


def _changes(cfg: RunConfig, resolution_log2: float) -> Iterator[float]:
    sched, total = cfg.schedule, cfg.train.total_kimg
    points = {0.0, total, sched.lrate_rampup_kimg}
    if sched.G_smoothing_rampup is not None:
        points.add(sched.G_smoothing_kimg / sched.G_smoothing_rampup)
    for begin, fade, _ in growing_stages(cfg, resolution_log2):
        points |= {begin, fade}
    return iter(sorted(point for point in points if point <= total))


def _memory(cfg: RunConfig, subject: Subject) -> str:
    """What a worker needs, and a checkpoint."""
    device = device_of(cfg)
    peaks = peak_bytes(subject, device)
    part = max(peaks, key=peaks.__getitem__)
    where = ", ".join(f"{name} {gib(size)}" for name, size in peaks.items())
    process = "" if device == "cuda" else f"; its process grows by about {gib(growth(peaks[part]))}"
    return (
        f"peak memory of a worker: {gib(peaks[part])} of tensors, in {part}{process}\n"
        f"by phase: {where}\n"
        f"A checkpoint: {gib(checkpoint_bytes(subject))}; {cfg.cluster.keep_checkpoints} are kept, and while one is "
        f"written the first worker needs that much in addition."
    )
