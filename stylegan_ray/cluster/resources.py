"""The cluster of a run: joining or starting one, and the share of it that each worker gets."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import AuthenticationError

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.cores import num_cores
from stylegan_ray.storage import one_line

Say = Callable[[str], None]
LOCAL_DEFAULTS = {
    # Nobody takes this machine away or collects its figures: watching and counting for them would cost some 6 % of a
    # core with two trials at once.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
}
"""What a cluster of this machine alone is started with, where nobody has set it."""
SEC_BETWEEN_LOOKS = 5.0
"""How often a run that waits for nodes looks for them."""


class TooSmallError(ConfigError):
    """The cluster is too small for the least number of workers."""


@dataclass(frozen=True)
class Share:
    """What each worker gets."""

    num_workers: int | tuple[int, int]
    cpus: float
    gpus: int
    threads: int

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def format(self) -> str:
        """The number of workers, for the log."""
        least, most = self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers,) * 2
        return f"{least} worker{'s' if least > 1 else ''}" if least == most else f"{least} to {most} workers"


def workers_range(cfg: RunConfig) -> tuple[int, int]:
    """Least and most workers."""
    parts = [int(part) for part in str(cfg.cluster.num_workers).split(":")]
    if parts[0] > parts[-1]:
        raise ConfigError(f"cluster.num_workers={cfg.cluster.num_workers}: the least comes first, as in 1:4")
    return parts[0], parts[-1]


@contextmanager
def joined(cfg: RunConfig, say: Say, num_runs: int = 1, dashboard: bool = False) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at cluster.address, of that of the job, or of a new local one.

    A local one has room for `num_runs` runs at once, even if they share cores. With its dashboard, Ray Train frees the
    workers of a run whose driver was an actor and died: its PlacementGroupCleaner asks there.
    No runtime environment is passed: a submitted job has one, and Ray refuses a second that says anything else.
    """
    address = cfg.cluster.address or os.environ.get("RAY_ADDRESS")
    # Messages of workers come through the channel; their output, and what Ray prints, stays in Ray's logs.
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address:
        join(address, quiet)
    else:
        start_local(cfg, say, quiet | {"include_dashboard": dashboard}, num_runs)
    try:
        yield
    finally:
        ray.shutdown()


def join(address: str, quiet: dict[str, Any]) -> None:
    """Makes this process a driver of a running cluster; raises ConfigError."""
    if "://" in address:
        raise ConfigError(
            f"cluster.address={address}: a driver runs on a node of the cluster and joins it by HOST:PORT or auto; "
            f"from elsewhere, submit the job: ray job submit --address {address.replace('ray://', 'http://')} "
            f"--working-dir . -- python jobs/train.py ..."
        )
    try:
        ray.init(address=address, **quiet)
    except AuthenticationError as error:
        raise ConfigError(
            f"cluster.address={address}: the cluster requires its token, in ~/.ray/auth_token, in a file that "
            f"RAY_AUTH_TOKEN_PATH names or in RAY_AUTH_TOKEN, on every node and here alike: {one_line(error)}"
        ) from error
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"cluster.address={address}: no Ray cluster answers there: {one_line(error)}") from error
    except RuntimeError as error:
        raise ConfigError(f"cluster.address={address} cannot be joined: {one_line(error)}") from error


def start_local(cfg: RunConfig, say: Say, quiet: dict[str, Any], num_runs: int = 1) -> None:
    """Starts a cluster of this machine alone; more workers than cores share them, with a warning."""
    cores, most = num_cores(), workers_range(cfg)[1] * num_runs
    wanted = most * (cfg.cluster.cpus_per_worker or 1)
    if wanted > cores:
        say(f"{most} workers want {wanted:g} CPUs and this machine has {cores}: they will share them")
    set_token()
    os.environ.update({key: value for key, value in LOCAL_DEFAULTS.items() if key not in os.environ})
    ray.init(address="local", num_cpus=max(cores, math.ceil(wanted)), **quiet)


def set_token() -> None:
    """Sets a token for this run, unless the user has one: Ray listens where other machines can reach it."""
    has_one = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if not has_one and not Path("~/.ray/auth_token").expanduser().exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def share_of_cluster(cfg: RunConfig, say: Say) -> Share:
    """What each worker gets of the cluster; waits up to cluster.wait_minutes where the cluster is too small."""
    deadline, is_waiting = time.monotonic() + cfg.cluster.wait_minutes * 60, False
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        try:
            share = share_of_nodes(cfg, nodes)
        except TooSmallError:
            if time.monotonic() >= deadline:
                raise
            if not is_waiting:
                say(f"Waiting for nodes, {cfg.cluster.wait_minutes:g} minutes at most")
            is_waiting = True
            request_resources(bundles=[bundle(cfg, nodes)] * workers_range(cfg)[0])
            time.sleep(min(SEC_BETWEEN_LOOKS, max(deadline - time.monotonic(), 0)))
        else:
            if is_waiting:
                request_resources(bundles=[])  # from here on Ray Train asks; our request would outlive this process
            return share


def bundle(cfg: RunConfig, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The resources of one worker, as an autoscaler is asked for them."""
    gpus = gpus_of_worker(cfg, nodes)
    return {"CPU": cfg.cluster.cpus_per_worker or 1} | ({"GPU": gpus} if gpus else {})


def gpus_of_worker(cfg: RunConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """GPUs of a worker: as configured, else 1 where there are any."""
    if cfg.cluster.gpus_per_worker is not None:
        return cfg.cluster.gpus_per_worker
    return 1 if sum(node.get("GPU", 0) for node in nodes) >= 1 else 0


def share_of_nodes(cfg: RunConfig, nodes: Sequence[Mapping[str, float]]) -> Share:
    """What each worker gets of nodes with these resources; raises TooSmallError when the workers do not fit."""
    least, most = workers_range(cfg)
    gpus = gpus_of_worker(cfg, nodes)
    hosts = [node for node in nodes if node.get("GPU" if gpus else "CPU", 0) >= 1]
    slots = sum(node["GPU"] for node in hosts) if gpus else sum(node["CPU"] for node in hosts)
    way_out = "use fewer of either, or wait for a cluster that grows on demand: cluster.wait_minutes=15"
    if gpus and slots < least:
        raise TooSmallError(
            f"cluster.num_workers={cfg.cluster.num_workers} with cluster.gpus_per_worker={gpus} needs {least} GPUs, "
            f"and the cluster has {slots:g}; {way_out}; cluster.gpus_per_worker=0 trains on CPUs"
        )
    per_node = math.ceil(most / max(len(hosts), 1))
    smallest = min((node["CPU"] for node in hosts), default=0)
    cpus = cfg.cluster.cpus_per_worker or max(smallest // per_node, 1)
    fitting = sum(int(node.get("CPU", 0) // cpus) for node in hosts)
    if fitting < least:
        raise TooSmallError(
            f"cluster.num_workers={cfg.cluster.num_workers} with cluster.cpus_per_worker={cpus:g}: {fitting} workers "
            f"fit on a cluster of {sum(node.get('CPU', 0) for node in nodes):g} CPUs; {way_out}"
        )
    return Share(most if least == most else (least, most), float(cpus), gpus, threads=max(int(cpus), 1))
