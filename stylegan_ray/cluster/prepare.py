"""Data sets prepared and checked: pictures are read and encoded by Ray Data, and written in order by this process."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from stylegan_ray.config import ConfigError, DataConfig
from stylegan_ray.data import open as open_data
from stylegan_ray.data import openmoji
from stylegan_ray.data.atomic_output import written_whole
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.doctor import Findings, advised, examiner_of, shown, table
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import Files
from stylegan_ray.data.formats.tfrecord_wire import export_order
from stylegan_ray.data.index import IS_BAD, Index
from stylegan_ray.data.options import PrepareOptions, in_words_of_the_command, listed
from stylegan_ray.data.write import Task, Writer, picture_bytes, plans_of, report_of, write_attribution
from stylegan_ray.report.console import ProgressLine, format_time

CHECKED_TOGETHER = 128

Run = Callable[[Callable[[Any], Sequence[bytes]], Sequence[Any]], Iterator[Sequence[bytes]]]
"""Does some work for every plan; results come in order."""


def prepare_data(options: PrepareOptions) -> int:
    """Writes or checks a data set; returns the exit status."""
    refuse_relative_paths(options)
    if options.dest is None and not options.check:
        raise ConfigError(
            "DEST is missing: say what to write (a .zip, or a folder for TFRecord files), or only look with --check"
        )
    try:
        with in_words_of_the_command():
            return check(options) if options.check or options.dest is None else write(options, options.dest)
    except FileNotFoundError as error:
        raise DataError(f"{error}; SOURCE must stay in its place, and every node of the cluster must see it") from error
    except OSError as error:
        print(f"error: {error}; nothing was written", file=sys.stderr)
        return 1


def refuse_relative_paths(options: PrepareOptions) -> None:
    """Inside a submitted job the working directory vanishes with the job."""
    for name, path in (("SOURCE", options.source), ("DEST", options.dest or "/")):
        is_fixed = path == openmoji.NAME or "://" in path or os.path.isabs(os.path.expanduser(path))
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not is_fixed:
            raise ConfigError(
                f"{name} {path} is relative, and a submitted job's working directory vanishes with it; give an "
                "absolute path that every node sees, or an s3:// or gs:// address"
            )


# Writing.


def write(options: PrepareOptions, dest: str) -> int:
    """Reads SOURCE and writes DEST."""
    cfg, is_shuffled, begun = options.config(), options.is_shuffled, time.monotonic()
    if "://" not in dest and open_data.path_key(os.path.expanduser(dest)) == open_data.path_key(
        open_data.path_of(cfg.data)
    ):
        raise DataError(f"DEST {dest} is SOURCE itself; give another DEST")
    with ProgressLine() as progress:
        files, index = open_data.looked_through(cfg.data, progress)
        dataset = opened(cfg.data, files, index)
        order = export_order(dataset.num_images) if is_shuffled else np.arange(dataset.num_images)
        kind = options.chosen_format
        task = Task(dataset, kind, dest, plans_of(order, picture_bytes(dataset, kind)))
        warn(options, index, dataset, is_shuffled)
        with written_whole(task.output(options.overwrite)) as output, closing(task.writer(output)) as writer:
            with pool(options, len(task.plans)) as run:
                num_bad = fill(writer, task, run, options.on_bad_image, progress)
            if not task.is_file:
                write_attribution(output, dataset)
            writer.finish()
    print(last_words(task, num_bad, time.monotonic() - begun))
    return 0


def opened(cfg: DataConfig, files: Files, index: Index) -> Dataset:
    """The data set, with its labels if it has any."""
    has_labels = index.labels.values is not None
    return open_data.as_configured(cfg.model_copy(update={"cond": has_labels}), files, index)


def warn(options: PrepareOptions, index: Index, dataset: Dataset, is_shuffled: bool) -> None:
    """Says what may surprise."""
    height, width = dataset.resolution
    is_smaller = ((index.height < height) | (index.width < width)) & (index.flags & IS_BAD == 0)
    if num_smaller := int(is_smaller.sum()):
        print(f"{num_smaller} pictures are smaller than {height}x{width} and are enlarged")
    if index.labels.values is None:
        print(f"Without labels: {index.labels.problem}")
    if index.kind == "parquet" and is_shuffled:
        print("Parquet files are slow to read in another order than their own; --no-shuffle keeps it")


def fill(writer: Writer, task: Task, run: Run, on_bad_image: str, progress: ProgressLine) -> int:
    """Has all pictures encoded and written; returns how many could not be read."""
    done = num_bad = 0
    for pieces in run(task.encoder, task.plans):
        kept, bad = report_of(pieces)
        if bad and on_bad_image == "error":
            name, reason = bad[0]
            raise DataError(
                f"data.path={task.dataset.path}: picture {name!r} cannot be used: {reason}; mend or remove it, or "
                "leave such pictures out with --data.on_bad_image skip"
            )
        writer.add(kept, pieces[1:])
        done, num_bad = done + len(kept) + len(bad), num_bad + len(bad)
        progress(done, task.dataset.num_images, "writing pictures")
    if num_bad == done:
        raise DataError(f"data.path={task.dataset.path}: no picture of it can be read")
    return num_bad


@contextmanager
def pool(options: PrepareOptions, num_plans: int) -> Iterator[Run]:
    """What does the work: tasks on Ray, or this process when asked for or when there is work for one task only."""
    if options.workers == 0 or (options.workers is None and num_plans <= 1):
        yield map
        return
    import ray

    from stylegan_ray.cluster.resources import joined
    from stylegan_ray.cluster.task_pool import in_order

    with nullcontext() if ray.is_initialized() else joined(options.config(), print):
        yield partial(in_order, max_tasks=options.workers or cluster_cpus())


def cluster_cpus() -> int:
    """CPUs of all nodes."""
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


def last_words(task: Task, num_bad: int, sec: float) -> str:
    """What was written, and how to train on it."""
    dataset, num = task.dataset, task.dataset.num_images - num_bad
    height, width = dataset.resolution
    kind = {"zip": "a zip", "tfrecords": "TFRecord files", "parquet": "Parquet"}[task.format]
    lines = [
        f"Wrote {num} pictures of {height}x{width} in {'colour' if dataset.num_channels == 3 else 'grey'} as {kind} to "
        f"{task.dest} in {format_time(sec)} ({num / sec:.0f} pictures/s)."
    ]
    if num_bad:
        lines.append(f"  Left out  {num_bad} pictures that cannot be read; --check names them")
    if dataset.attribution:
        lines.append(f"  Licence   {dataset.attribution}")
    keys = {"cond": True} if dataset.label_size else {}
    keys |= {"shuffle": "blocks"} if task.format == "parquet" else {}
    lines.append(f"  Train     {train_command(task.dest, keys)}")
    return "\n".join(lines)


def train_command(path: str, keys: dict[str, Any]) -> str:
    """The command that trains on a data set."""
    is_job = sys.argv[0].endswith("prepare_data.py")
    command = f"python {sys.argv[0].removesuffix('prepare_data.py')}train.py" if is_job else "stylegan-ray train"
    return f"{command} config-f {shlex.quote(path)} {listed(keys)}".rstrip()


# Checking.


def check(options: PrepareOptions) -> int:
    """Reads every picture and prints what there is; returns 1 when some cannot be read."""
    cfg = options.config().data
    path = open_data.path_of(cfg)
    with ProgressLine() as progress:
        try:
            place = openmoji.prepared(cfg, progress) if path == openmoji.NAME else path
            files, index = open_data.indexed(place, progress, decode=False)
        except DataError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                raise
            print(f"Unreadable   {error}")
            return 1
        open_data.refuse_empty(files, index, path)
        findings = examined(files, index, options, progress)
    print(shown(table(findings)))
    if findings.bad and len(findings.bad) == len(index.names):
        return 1
    print(f"{'Train':12s} {train_command(path, advised(findings.seen()))}")
    return 1 if findings.bad else 0


def examined(files: Files, index: Index, options: PrepareOptions, progress: ProgressLine) -> Findings:
    """What there is to say of all pictures."""
    findings, num = Findings(index), len(index.names)
    plans = [np.arange(i, min(i + CHECKED_TOGETHER, num)) for i in range(0, num, CHECKED_TOGETHER)]
    with pool(options, len(plans)) as run:
        for plan, pieces in zip(
            plans, run(examiner_of(files, index, open_data.source_of(files, index)), plans), strict=True
        ):
            findings.add(plan, pieces)
            progress(int(plan[-1]) + 1, num, "reading pictures")
    return findings
