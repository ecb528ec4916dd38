"""The generate command with --n: many images in Ray tasks; the same command again continues and skips what is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from stylegan_ray.config import ConfigError
from stylegan_ray.credentials import without_credentials
from stylegan_ray.images.gallery import outdir_lease
from stylegan_ray.images.generate import class_labels
from stylegan_ray.images.many import (
    Part,
    PartWriter,
    Recipe,
    begin_folder,
    checksum_of,
    end_folder,
    finished_parts,
    parts_of,
)
from stylegan_ray.images.options import LARGEST, GenerateOptions, check_ranges
from stylegan_ray.interop import Networks
from stylegan_ray.interop.loading import load
from stylegan_ray.options import check_least
from stylegan_ray.report.console import ProgressLine, format_time
from stylegan_ray.run_folder import as_path, refuse_relative
from stylegan_ray.storage import Storage, absolute, one_line

Run = Callable[[PartWriter, Iterable[Part]], Iterator[int]]
"""Writes parts; yields the number of images of each as it is done."""


def generate_many(options: GenerateOptions) -> int:
    """Writes the images of the seeds 0 to n-1 that are not there yet; returns the exit status."""
    num = check_options(options)
    networks = load(options.checkpoint)
    outdir = absolute(options.outdir or "")
    with outdir_lease(outdir), runner(options) as (run, device):
        recipe = recipe_of(options, networks, device)
        began = time.monotonic()
        try:
            storage = Storage.at(outdir)
            done = finished_parts(recipe, num, begin_folder(storage, outdir, recipe))
            made = num - sum(done.values())
            writer = PartWriter(networks.G_ema, networks.config.train.drange_net, networks.lod, recipe, outdir)
            write_parts(run(writer, parts_of(recipe, num, done)), made, num)
            end_folder(storage, recipe)
        except OSError as error:
            raise ConfigError(
                f"--outdir {outdir} cannot be written: {one_line(error)}; run it again to go on"
            ) from error
    rate = f" ({made / (time.monotonic() - began):.1f} images/s)" if made else ""
    print(f"{num} images in {without_credentials(outdir)}: {made} made{rate}, {num - made} were there")
    return 0


def check_options(options: GenerateOptions) -> int:
    """The number of images; raises ConfigError for options that do not go with --n."""
    num = options.n or 0
    check_ranges(options)
    check_least(options, n=1, shard=1)
    if num > (most := (LARGEST + 1) // options.batch * options.batch):
        raise ConfigError(
            f"--n {num} must be at most {most}: seeds are at most {LARGEST}, and a batch is computed whole (--batch "
            f"{options.batch})"
        )
    if options.shard % options.batch and options.format == "tar":
        near = max(options.shard // options.batch, 1) * options.batch
        raise ConfigError(f"--shard {options.shard} must be a multiple of --batch {options.batch}; try {near}")
    if not options.outdir:
        raise ConfigError(f"--n {num} writes files: give their folder, as in --outdir images or --outdir s3://...")
    for name in ("seeds", "grid", "video", "mix_seeds", "tiles", "load_w", "save_w", "directions"):
        if getattr(options, name):
            word = name.replace("_", "-")
            raise ConfigError(f"--{word} shows single images and does not go with --n; leave one of them out")
    refuse_relative({"CHECKPOINT": as_path(options.checkpoint), "--outdir": options.outdir})
    return num


def recipe_of(options: GenerateOptions, networks: Networks, device: str) -> Recipe:
    """What decides the bytes; raises ConfigError for a class that the network does not have."""
    class_labels([0], networks.G_ema.label_size, options.class_index)
    return Recipe(
        network=checksum_of(networks.G_ema), trunc=options.trunc, cutoff=options.cutoff,
        class_index=options.class_index, noise=options.noise_mode, format=options.format,
        batch=options.batch, shard=options.shard, device=device,
    )  # fmt: skip


@contextmanager
def runner(options: GenerateOptions) -> Iterator[tuple[Run, str]]:
    """What writes parts, and its device: tasks on a cluster, which is left afterwards, or this process."""
    if options.num_tasks == 0:
        from stylegan_ray.images.gallery import choose_device

        device = choose_device(options.device)
        yield (lambda writer, parts: map(replace(writer, device=str(device)), parts)), device.type
        return
    from stylegan_ray.cluster.resources import joined_for_tasks
    from stylegan_ray.cluster.task_pool import TaskPool

    with joined_for_tasks(options.address, options.num_tasks, options.device) as (num_tasks, device):

        def run(writer: PartWriter, parts: Iterable[Part]) -> Iterator[int]:
            for _, num in TaskPool(writer, num_tasks, device).as_they_come(parts):
                yield num

        yield run, device


def write_parts(results: Iterator[int], left: int, num: int) -> None:
    """Waits for the parts with the images that are left of all, with a line of progress."""
    done, began = num - left, time.monotonic()
    with ProgressLine() as progress:
        for made in results:
            done += made
            rate = (done - num + left) / max(time.monotonic() - began, 1e-9)
            progress(done, num, f"{rate:.1f} images/s, {format_time((num - done) / rate)} left, images")
