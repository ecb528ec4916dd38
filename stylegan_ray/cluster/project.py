"""The command `project`: one image in this process, several in Ray tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.images.gallery import choose_device
from stylegan_ray.images.generate import class_labels
from stylegan_ray.images.perceptual import choose_distance
from stylegan_ray.images.project_options import ProjectOptions
from stylegan_ray.images.projected import Projected, Projector, Target, read_targets
from stylegan_ray.images.projection import ProjectionPlan, WStatistics, w_statistics
from stylegan_ray.images.saved_w import load_w
from stylegan_ray.images.video import check_video_path
from stylegan_ray.interop import Networks
from stylegan_ray.interop.loading import load
from stylegan_ray.options import check_least
from stylegan_ray.outputs import check_file
from stylegan_ray.report.console import ProgressLine
from stylegan_ray.run_folder import as_path, refuse_relative
from stylegan_ray.storage import Storage, one_line

MOST_FRAMES = 10_000
"""Of a video."""


def project_images(options: ProjectOptions) -> int:
    """Projects the images of the command and writes their files as soon as each is done; returns the exit status.

    Images whose files are there, made with the same network and options, are skipped.
    """
    refuse_relative({
        "NETWORK": as_path(options.network), "--outdir": options.outdir, "--load-w": options.load_w,
        "--detectors": options.detectors,
    })  # fmt: skip
    for image in options.images:
        refuse_relative({"IMAGE": image})
    _check(options)
    networks = load(options.network)
    targets = read_targets(options, networks.G_ema.resolution, networks.G_ema.num_channels)
    outdir = _storage(options.outdir)
    projector = make_projector(options, networks)
    print(f"Distance  {projector.distance.description}")
    left = []
    for target in targets:
        for name in projector.names(target) if outdir.is_local else ():
            check_file(outdir.path(name), "--outdir")
        if projector.is_done(target, outdir):
            print(f"{target.stem}  skipped: {outdir.path(f'{target.stem}.npz')} is of this network, image and options")
        else:
            left.append(target)
    if not left:
        return 0
    with ProgressLine() as progress:
        for result in results(options, projector, left, progress):
            try:
                for name, content in result.files.items():
                    outdir.write(name, content)
            except OSError as error:
                raise ConfigError(
                    f"--outdir {outdir.root} cannot be written: {one_line(error)}; run it again to go on"
                ) from error
            line = f"{result.stem}  PSNR {result.psnr:.2f} dB, distance {result.distance:.5f}"
            print("\n".join([line, *(f"  {outdir.path(name)}" for name in result.files)]), flush=True)
    return 0


def make_projector(options: ProjectOptions, networks: Networks) -> Projector:
    """What projects an image, on the device of this process; raises ConfigError."""
    G = networks.G_ema.to(choose_device(options.device)).requires_grad_(False)
    class_labels([0], G.label_size, options.class_index)  # an unknown class is refused
    start = load_w([options.load_w], G, networks.lod).ws[:1] if options.load_w else None
    return Projector(
        G, choose_distance(options.distance, options.detectors), w_statistics(G, options.class_index),
        ProjectionPlan(num_steps=options.steps, space=options.space, noise=options.noise, seed=options.seed),
        networks.config.train.drange_net, networks.lod, start, options.video, options.frames,
        options.class_index,
    )  # fmt: skip


def results(
    options: ProjectOptions, projector: Projector, targets: Sequence[Target], progress: ProgressLine
) -> Iterator[Projected]:
    """The results of all targets; in tasks, as they are done."""
    if options.num_tasks == 0 or (len(targets) == 1 and options.num_tasks is None):
        for target in targets:
            yield projector(target, progress)
        return
    from stylegan_ray.cluster.resources import joined_for_tasks

    most = None if options.num_tasks is None else min(options.num_tasks, len(targets))
    with joined_for_tasks(options.address, most) as (num_tasks, device):
        for done, result in enumerate(in_tasks(projector, targets, num_tasks, device), 1):
            progress(done, len(targets), "images")
            yield result


def in_tasks(projector: Projector, targets: Sequence[Target], num_tasks: int, device: str) -> Iterator[Projected]:
    """The results in the order in which tasks finish them."""
    from stylegan_ray.cluster.task_pool import TaskPool

    # Networks travel on the CPU: the driver's node may have another device.
    pool = TaskPool(ProjectWork(moved(projector, "cpu"), device), min(num_tasks, len(targets)), device)
    for _, result in pool.as_they_come(targets):
        yield result


@dataclass(frozen=True)
class ProjectWork:
    """Projects one target in a task of one thread or one GPU."""

    projector: Projector
    device: str

    def __call__(self, target: Target) -> Projected:
        return self._projector(target)

    @cached_property
    def _projector(self) -> Projector:
        if self.device == "cpu":
            torch.set_num_threads(1)
        return moved(self.projector, self.device)


def moved(projector: Projector, device: str) -> Projector:
    """The projector on another device."""
    statistics = WStatistics(projector.statistics.mean.to(device), projector.statistics.sigma)
    start = None if projector.start is None else projector.start.to(device)
    return replace(projector, G=projector.G.to(device), statistics=statistics, start=start)


def _check(options: ProjectOptions) -> None:
    """Raises ConfigError for mistakes that would otherwise show only after the network has been loaded."""
    check_least(options, steps=1, frames=1, seed=0)
    if options.frames > MOST_FRAMES:
        raise ConfigError(f"--frames {options.frames} must be at most {MOST_FRAMES}")
    if options.num_tasks is not None and options.num_tasks < 0:
        raise ConfigError(f"--num-tasks {options.num_tasks} must be at least 0; 0 projects in this process")
    if options.video:
        check_video_path(Path(f"STEM.{options.video}"))


def _storage(address: str) -> Storage:
    try:
        return Storage.at(address)
    except ValueError as error:
        raise ConfigError(f"--outdir {address}: {error}") from error
