"""Options of the project command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from stylegan_ray.options import ClusterAddress


@dataclass(frozen=True)
class ProjectOptions:
    """Finds the w with which a network makes given images (StyleGAN2, appendix D).

    For each image the projection is written as STEM.png, its w and noise maps as STEM.npz. Several images are
    distributed over the nodes of a cluster, or over the cores of this machine. Images that the same command has
    finished before are skipped.
    """

    network: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK")]
    """A run (its folder or name), one of its checkpoints, or a network file."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """Image files."""
    outdir: Annotated[str, tyro.conf.arg(metavar="DIR")] = "projected"
    """Where the results are written: a folder, s3:// or gs:// address."""
    space: Literal["w", "w+"] = "w"
    """One w for all layers, or one for each layer (w+): closer to the image, harder to edit."""
    steps: int = 1000
    """Steps of the optimization."""
    noise: Literal["optimize", "const"] = "optimize"
    """Optimize noise maps too, or keep those stored in the network: w alone then makes the image."""
    distance: Literal["auto", "lpips", "pyramid"] = "auto"
    """What is minimized: LPIPS, or a pyramid of pixels and features of the packaged detector; auto: LPIPS where its
    weights are stored."""
    detectors: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where weights of LPIPS are stored (default: where evaluate prefetch puts them)."""
    crop: Literal["center", "none"] = "center"
    """Cut the middle out of images of another shape, or refuse them."""
    resize: Literal["lanczos", "box", "none"] = "lanczos"
    """Filter for images of another size, or refuse them."""
    alpha: Literal["white", "black", "drop", "error"] = "white"
    """What is behind transparent pixels, or refuse them."""
    class_index: Annotated[int | None, tyro.conf.arg(name="class", metavar="IDX", help_behavior_hint="")] = None
    """Class whose mean w is the start (conditional networks); default: the mean over classes."""
    load_w: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the mean w)")] = None
    """Start from the first w of this .npz file."""
    video: Annotated[Literal["mp4", "webp", "gif"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Write the descent as STEM.mp4 (needs the extra `video`), STEM.webp or STEM.gif: the image on the left."""
    frames: int = 100
    """Frames of the video."""
    seed: int = 0
    """Seed of the noise added to w."""
    num_tasks: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Ray tasks that project several images, by default one per GPU or core; 0: this process."""
    address: ClusterAddress = None
    """Ray cluster to join for several images; default: that of this job, or a new local one."""
    device: str = "auto"
    """Device of this process: cpu, cuda, cuda:1, or auto for a GPU if there is one."""
