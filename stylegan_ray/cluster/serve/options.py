"""Options of the serve command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from stylegan_ray.images.view import Prefer
from stylegan_ray.options import ClusterAddress


@dataclass(frozen=True)
class ServeOptions:
    """Serves a page to walk the latent space of a network, with an HTTP interface beside it.

    The page is at http://127.0.0.1:PORT/, the description of the interface at /openapi.json. Ctrl-C ends it.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run (its folder or name), one of its checkpoints, or a network file (.safetensors, .pkl)."""
    port: int = 8000
    """Port of the page."""
    host: str = "127.0.0.1"
    """Address to listen at; any other than that of this machine alone needs a token."""
    token: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """A secret that every request must carry; default: none on 127.0.0.1, a random one elsewhere."""
    network: Prefer = "newest"
    """Which network of a run: its newest, or its best by its first metric."""
    follow: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Load the run's next network when it writes a newer (or better) one."""
    follow_seconds: float = 10.0
    """How often --follow looks for it."""
    replicas: int = 1
    """Processes that compute images."""
    threads: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: half of the cores, over replicas)")] = (
        None
    )
    """Threads of each of them."""
    batch: int = 8
    """Images of concurrent users computed at once, at most."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device: cpu, cuda, or auto for a GPU if the cluster has one."""
    address: ClusterAddress = None
    """Ray cluster to join; default: that of this job, or a new local one."""
