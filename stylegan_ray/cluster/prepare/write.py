"""Writes data sets: tasks of Ray read and encode images, and this process writes them in order."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from stylegan_ray.config import DataConfig
from stylegan_ray.credentials import without_credentials
from stylegan_ray.data import formats
from stylegan_ray.data import open as open_data
from stylegan_ray.data.atomic_output import delete_leftovers, write_whole
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import Files
from stylegan_ray.data.finished import Finished, finished_images
from stylegan_ray.data.formats.protocol import Writer
from stylegan_ray.data.formats.tfrecord_wire import export_order
from stylegan_ray.data.index import IS_BAD, Index
from stylegan_ray.data.left_out import quoted
from stylegan_ray.data.letterbox import letterbox
from stylegan_ray.data.options import PrepareOptions, format_options
from stylegan_ray.data.write import Encoder, WriteTask, parse_report, refuse_taken, write_attribution
from stylegan_ray.lease import Claim, Lease, held
from stylegan_ray.report.console import ProgressLine, format_time
from stylegan_ray.storage import split_address

Run = Callable[[Callable[[Any], Sequence[bytes]], Sequence[Any]], Iterator[Sequence[bytes]]]
"""Calls a function with every plan; yields the results in the order of the plans."""


def write(options: PrepareOptions) -> int:
    """Reads SOURCE and writes DEST; returns the exit status."""
    cfg, is_shuffled, begin = options.config(), options.is_shuffled, time.monotonic()
    refuse_dest(cfg.data, options)
    with ProgressLine() as progress:
        files, index = open_data.open_index(cfg.data, progress, prepares=True)
        dataset = open_with_labels(cfg.data, files, index)
        dataset = letterbox(dataset) if options.letterbox else dataset
        task = plan_task(dataset, options, index.stamp)
        print_warnings(index, dataset, is_shuffled)
        num_bad = write_task(task, options, progress)
    print(closing_message(task, num_bad, time.monotonic() - begin))
    return 0


def plan_task(dataset: Dataset, options: PrepareOptions, stamp: str) -> WriteTask:
    """A data set to be written to DEST, in the order that the options ask for."""
    assert options.dest is not None
    order = export_order(dataset.num_images) if options.is_shuffled else np.arange(dataset.num_images)
    return WriteTask.plan(dataset, options.output_format, options.dest, order, stamp)


def write_task(task: WriteTask, options: PrepareOptions, progress: ProgressLine) -> int:
    """Writes a data set as a whole or not at all; returns how many of its images could not be read."""
    with dest_lease(options):
        delete_leftovers(task.dest, task.is_file)
        output = task.open_output(options.overwrite)
        with finished_images(task) as finished, write_whole(output), closing(task.open_writer(output)) as writer:
            with pool(options, len(task.plans) - len(finished.records)) as run:
                num_bad = encode_and_write(writer, task, finished, run, options.on_bad_image, progress)
            if not task.is_file:
                write_attribution(output, task.dataset)
            writer.finish()
    return num_bad


def dest_lease(options: PrepareOptions) -> AbstractContextManager[Lease]:
    """Inside, this command alone writes DEST. The lease is beside it, since a data set's folder holds nothing else."""
    dest = options.dest or ""
    address = dest if "://" in dest else os.path.realpath(os.path.expanduser(dest))
    folder, name = split_address(address)
    if folder.endswith(":/"):  # a bucket has nothing beside it
        folder, name = address, "."
    return held(folder, "prepare_data", [Claim(name)], "wait for its end, or give another DEST", key="DEST")


def refuse_dest(cfg: DataConfig, options: PrepareOptions) -> None:
    """Raises DataError when DEST is SOURCE, or taken."""
    dest = options.dest or ""
    if place_of(dest) == place_of(open_data.data_path(cfg)):
        raise DataError(f"DEST {dest} is SOURCE itself; give another DEST")
    format = options.output_format  # raises ConfigError before anything is read
    if "://" not in dest:  # what a killed writer left in object storage looks like a data set until it is deleted
        refuse_taken(format, dest, options.overwrite)


def place_of(address: str) -> str:
    """An address by which places are compared: without credentials, options and a slash at the end."""
    if "://" not in address:
        return open_data.normalize_path(os.path.expanduser(address))
    parts = urlsplit(address)
    if parts.scheme == "file":
        return open_data.normalize_path(parts.path)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path.rstrip('/')}"


def open_with_labels(cfg: DataConfig, files: Files, index: Index) -> Dataset:
    """The data set, with its labels if it has any."""
    return open_data.apply_config(cfg.model_copy(update={"cond": has_labels(cfg, index)}), files, index)


def has_labels(cfg: DataConfig, index: Index) -> bool:
    """Whether there are labels that can be used, with data.renumber_classes where it is set."""
    labels = index.labels.renumbered() if cfg.renumber_classes else index.labels
    return labels.values is not None


def print_warnings(index: Index, dataset: Dataset, is_shuffled: bool) -> None:
    """Prints what the user may not expect."""
    height, width = dataset.images.decoder.resolution  # without what --letterbox adds
    is_smaller = ((index.height < height) | (index.width < width)) & (index.flags & IS_BAD == 0)
    if num_smaller := int(is_smaller.sum()):
        print(f"{num_smaller} images are smaller than {height}x{width} and are enlarged")
    if not dataset.label_size:
        print(f"Without labels: {without_credentials(index.labels.problem)}")
    if formats.by_name(index.format).prefers_blocks and is_shuffled:
        print(f"Reading {index.format} in another order than its own is slow; --no-shuffle keeps its order")


def encode_and_write(
    writer: Writer, task: WriteTask, finished: Finished, run: Run, on_bad_image: str, progress: ProgressLine
) -> int:
    """Encodes what is not finished, and writes all images; returns how many could not be read."""
    num_done = num_bad = 0
    for good, bad, pieces in encode_all(task, finished, run):
        if bad and on_bad_image == "error":
            name, reason = bad[0]
            raise DataError(
                f"data.path={task.dataset.path}: image {quoted(name)} cannot be used: {reason}; repair or remove it, "
                "or leave such images out with --data.on_bad_image skip"
            )
        writer.add(good, pieces)
        num_done, num_bad = num_done + len(good) + len(bad), num_bad + len(bad)
        progress(num_done, task.dataset.num_images, "writing images")
    if num_bad == num_done:
        raise DataError(f"data.path={task.dataset.path}: no image can be read; check it with --check")
    return num_bad


def encode_all(
    task: WriteTask, finished: Finished, run: Run
) -> Iterator[tuple[list[int], list[tuple[str, str]], Sequence[bytes]]]:
    """Images that can be read, names and reasons of those that cannot, and encoded images, plan by plan in order."""
    encoder, known = Encoder(task.dataset, task.writing), set(finished.records)
    results = iter(run(encoder, [plan for number, plan in enumerate(task.plans) if number not in known]))
    for number, plan in enumerate(task.plans):
        if (pieces := finished.load(number)) is not None:
            yield plan.tolist(), [], pieces
            continue
        report, *pieces = encoder(plan) if number in known else next(results)
        good, bad = parse_report([report])
        if not bad:
            finished.store(number, pieces)
        yield good, bad, pieces


@contextmanager
def pool(options: PrepareOptions, num_plans: int) -> Iterator[Run]:
    """What runs the plans: tasks of Ray; or this process, with --workers 0 or for a single plan."""
    if options.workers == 0 or num_plans == 0 or (options.workers is None and num_plans == 1):
        yield map
        return
    import ray

    from stylegan_ray.cluster.resources import joined
    from stylegan_ray.cluster.task_pool import TaskPool

    with nullcontext() if ray.is_initialized() else joined(options.config(), print):
        max_tasks = options.workers or cluster_cpus()
        yield lambda work, plans: TaskPool(work, max_tasks).in_order(plans)


def cluster_cpus() -> int:
    """CPUs of all nodes."""
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


def closing_message(task: WriteTask, num_bad: int, sec: float) -> str:
    """What is written, and the command that trains on it."""
    dataset, num = task.dataset, task.dataset.num_images - num_bad
    height, width = dataset.resolution
    dest = without_credentials(task.dest)
    lines = [
        f"Wrote {num} images of {height}x{width} in {'color' if dataset.num_channels == 3 else 'gray'} as "
        f"{task.writing.description} to {dest} in {format_time(sec)} ({num / sec:.0f} images/s)."
    ]
    if num_bad:
        lines.append(f"  Left out  {num_bad} images that cannot be read; --check lists them")
    if dataset.attribution:
        lines.append(f"  Licence   {dataset.attribution}")
    keys = {"cond": True} if dataset.label_size else {}
    keys |= {"shuffle": "blocks"} if task.format.prefers_blocks else {}
    lines.append(f"  Train     {train_command(dest, keys)}")
    return "\n".join(lines)


def train_command(path: str, keys: dict[str, Any]) -> str:
    """The command that trains on a data set."""
    is_job = sys.argv[0].endswith("prepare_data.py")
    command = f"python {sys.argv[0].removesuffix('prepare_data.py')}train.py" if is_job else "stylegan-ray train"
    return f"{command} auto {shlex.quote(without_credentials(path))} {format_options(keys)}".rstrip()
