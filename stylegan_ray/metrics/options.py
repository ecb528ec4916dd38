"""What can be asked of the command that takes and compares metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

Detector = Annotated[
    str | None, tyro.conf.arg(metavar="ADDRESS", aliases=["--metrics.detector"], help_behavior_hint="")
]
Checkpoint = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]


@dataclass(frozen=True)
class EvaluateOptions:
    """Takes metrics of a trained network, in tasks on all CPUs or GPUs of a Ray cluster.

    Names that end in _tiny look through the small detector that ships with the package; the others need weights.
    The numbers do not depend on how many tasks there are. Rows with everything that one must know to compare them go
    to evaluations.jsonl in the run's folder, or beside a network file that belongs to no run. Further commands, each
    with --help: compare A B, plot RUN ..., prefetch DETECTOR ....
    """

    checkpoint: Checkpoint
    """A run (its folder or name), one of its checkpoints, or a network file (.safetensors, .pkl)."""
    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]", help_behavior_hint="")] = None
    """Real pictures to compare with; otherwise those that the network was trained on."""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Which, with any count: fid50k, kid50k_full, is50k, pr50k3, ppl_wend, ls, fid5k_tiny, ...; otherwise the run's."""
    repeat: int = 1
    """Take them with so many seeds, and their mean and spread."""
    seed: int = 0
    """Seed of the latents and noise; repeats take the next ones."""
    trunc: float = 1.0
    """Truncation psi; 1: none."""
    noise_mode: Literal["random", "const"] = "random"
    """Noise inputs: others for each picture, or those of the training."""
    dialect: Literal["original", "ada"] = "original"
    """Arithmetic of the TensorFlow original, or of StyleGAN2-ADA."""
    detector: Detector = None
    """Weights of the detectors: a folder, a file or a URL, perhaps with #sha256=... behind it."""
    num_tasks: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: as many as CPUs or GPUs)")] = None
    """Parallel tasks of one thread or one GPU each; 0: compute here, without Ray."""
    address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Ray cluster to join; otherwise the one this job runs in, or a new local one."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.jsonl", help_behavior_hint="")] = None
    """Where to add the rows instead."""


@dataclass(frozen=True)
class CompareOptions:
    """Compares the last rows of every metric of A and B; refuses where they were not taken alike, and says why."""

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A run, a network that was evaluated, or a .jsonl file of rows."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Another one."""


@dataclass(frozen=True)
class PlotOptions:
    """Draws every metric over thousands of images and over time, as PNG and as HTML."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Runs, by folder or name."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where to write metrics.png and metrics.html; otherwise the first run's folder."""


@dataclass(frozen=True)
class PrefetchOptions:
    """Fetches the weights of detectors, once for all nodes that see the folder."""

    detectors: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DETECTOR ...")]
    """inception (fid, kid, is), vgg16 (pr), lpips (ppl)."""
    detector: Detector = None
    """The folder to fetch into; otherwise $STYLEGAN_RAY_DETECTORS or a cache of the user."""
