"""Options of the evaluate command and of its sub-commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from stylegan_ray.options import ClusterAddress

Detector = Annotated[
    str | None, tyro.conf.arg(metavar="ADDRESS", aliases=["--metrics.detector"], help_behavior_hint="")
]
Checkpoint = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]


@dataclass(frozen=True)
class EvaluateOptions:
    """Computes metrics of a trained network, in tasks on all CPUs or GPUs of a Ray cluster.

    Metrics that end in _tiny use the small packaged detector; the others need weights. Values do not depend on the
    number of tasks. Rows with everything needed to compare them are added to evaluations.jsonl in the run's folder,
    or beside a network file that belongs to no run. Further commands, each with --help: compare A B, plot RUN ...,
    prefetch DETECTOR ....
    """

    checkpoint: Checkpoint
    """A run (its folder or name), one of its checkpoints, or a network file (.safetensors, .pkl)."""
    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]", help_behavior_hint="")] = None
    """Reals to compare with; default: the training data of the network."""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Metrics with any count: fid50k, kid50k_full, is50k, pr50k3, ppl_wend, ls, fid5k_tiny, ...; default: the run's."""
    repeat: int = 1
    """Number of seeds; with several, also mean and spread."""
    by_class: bool = False
    """Also compute each metric for every class of 100 images or more, of a conditional network."""
    mirror: Annotated[
        Literal["yes", "no"] | None,
        tyro.conf.arg(metavar="yes|no", help_behavior_hint="(default: as data.mirror_augment of the run)"),
    ] = None
    """Compare with every real image and its mirror image. Networks of other programs count as trained without."""
    seed: int = 0
    """Seed of latents and noise; repeats use the following ones."""
    trunc: float = 1.0
    """Truncation psi; 1: off."""
    noise_mode: Literal["random", "const"] = "random"
    """Noise inputs: random for each image, or the constants stored in the network."""
    dialect: Literal["original", "ada"] = "original"
    """Arithmetic of the TensorFlow original, or of StyleGAN2-ADA."""
    detector: Detector = None
    """Weights of the detectors: a folder, a file or a URL, optionally followed by #sha256=..."""
    num_tasks: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: as many as CPUs or GPUs)")] = None
    """Parallel tasks of one thread or one GPU each; 0: compute in this process, without Ray."""
    address: ClusterAddress = None
    """Ray cluster to join; default: that of this job, or a new local one."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.jsonl", help_behavior_hint="")] = None
    """Another file for the rows."""


@dataclass(frozen=True)
class CompareOptions:
    """Compares the last rows of every metric of A and B; rows with other settings are an error that names them."""

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A run, an evaluated network, or a .jsonl file of rows."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Another one."""


@dataclass(frozen=True)
class PlotOptions:
    """Plots every metric over kimg and over time, as PNG and HTML."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Runs, by folder or name."""
    by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY ...")] = ()
    """One curve for all runs with the same values of these keys, such as augment.mode: their mean and range."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder for metrics.png and metrics.html; default: that of the first run."""


@dataclass(frozen=True)
class PrefetchOptions:
    """Fetches the weights of detectors, once for all nodes that share the folder."""

    detectors: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DETECTOR ...")]
    """inception (fid, kid, mind, is), vgg16 (pr), lpips (ppl)."""
    detector: Detector = None
    """The folder to fetch to; default: $STYLEGAN_RAY_DETECTORS or a cache of the user."""
