"""The cluster a run lives on: joining or starting one, and every worker's share of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import ray

from stylegan_ray.config import ConfigError, RunConfig

Say = Callable[[str], None]


@dataclass(frozen=True)
class Share:
    """What each worker gets."""

    num_workers: int | tuple[int, int]
    cpus: float
    gpus: int
    threads: int

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def workers_range(cfg: RunConfig) -> tuple[int, int]:
    """Least and most workers."""
    parts = [int(part) for part in str(cfg.cluster.num_workers).split(":")]
    if parts[0] > parts[-1]:
        raise ConfigError(f"cluster.num_workers={cfg.cluster.num_workers}: the least comes first, as in 1:4")
    return parts[0], parts[-1]


@contextmanager
def joined(cfg: RunConfig, say: Say) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at cluster.address, of the job's, or of a new local one."""
    address = cfg.cluster.address or os.environ.get("RAY_ADDRESS")
    # What workers have to say comes through the mailbox; their streams, with Ray's own remarks, stay in Ray's logs.
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"cluster.address={address}: no Ray cluster answers there: {error}") from error
    else:
        start_local(cfg, say, quiet)
    try:
        yield
    finally:
        ray.shutdown()


def start_local(cfg: RunConfig, say: Say, quiet: dict[str, Any]) -> None:
    """A cluster of this machine alone; more workers than cores share them, with a warning."""
    cores, most = available_cores(), workers_range(cfg)[1]
    wanted = most * (cfg.cluster.cpus_per_worker or 1)
    if wanted > cores:
        say(f"{most} workers want {wanted:g} CPUs and this machine has {cores}: they will share them")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # nobody else is to reach a cluster on loopback
    ray.init(address="local", num_cpus=max(cores, math.ceil(wanted)), include_dashboard=True, **quiet)


def available_cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_cluster(cfg: RunConfig) -> Share:
    """What each worker gets of the cluster; raises ConfigError when it has too little."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    least, most = workers_range(cfg)
    gpus = cfg.cluster.gpus_per_worker
    if gpus is None:
        gpus = 1 if sum(node.get("GPU", 0) for node in nodes) >= 1 else 0
    hosts = [node for node in nodes if node.get("GPU" if gpus else "CPU", 0) >= 1]
    slots = sum(node["GPU"] for node in hosts) if gpus else sum(node["CPU"] for node in hosts)
    if gpus and slots < least:
        raise ConfigError(
            f"cluster.num_workers={cfg.cluster.num_workers} with cluster.gpus_per_worker={gpus} needs {least} GPUs, "
            f"and the cluster has {slots:g}; use fewer workers, or cluster.gpus_per_worker=0 to train on CPUs"
        )
    per_node = math.ceil(most / max(len(hosts), 1))
    smallest = min((node["CPU"] for node in hosts), default=0)
    cpus = cfg.cluster.cpus_per_worker or max(smallest // per_node, 1)
    if cpus * least > sum(node.get("CPU", 0) for node in nodes):
        raise ConfigError(
            f"cluster.num_workers={cfg.cluster.num_workers} with cluster.cpus_per_worker={cpus:g} needs "
            f"{cpus * least:g} CPUs, and the cluster has {sum(n.get('CPU', 0) for n in nodes):g}; use fewer of either"
        )
    return Share(most if least == most else (least, most), float(cpus), gpus, threads=max(int(cpus), 1))
