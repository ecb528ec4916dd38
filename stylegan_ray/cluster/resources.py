"""The cluster of a run: joining or starting one, and the share of it that each worker gets."""

from __future__ import annotations

import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import ray.util
from ray.autoscaler.sdk import request_resources

import stylegan_ray
from stylegan_ray import interrupts
from stylegan_ray.cluster.addresses import OPTION, given_address, join
from stylegan_ray.config import ConfigError, RunConfig, load_config
from stylegan_ray.cores import num_cores
from stylegan_ray.orphans import end_late_orphans, end_orphans
from stylegan_ray.storage import one_line

Say = Callable[[str], None]
LOCAL_DEFAULTS = {
    # Nobody takes this machine away or collects its figures: watching and counting for them would cost some 6 % of a
    # core with two trials at once.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    # Ray's daemons have the allocator that Ray brings, jemalloc; with this its workers have it, too. With glibc's a
    # training worker of tiny grew by 3 % an hour: no hole that an aligned tensor left is large enough for the next one.
    "RAY_LD_PRELOAD_ON_WORKERS": "1",
}
"""What a cluster of this machine alone is started with, where nobody has set it."""
SPIN = 10_000
"""How often an idle thread of OpenMP looks for work before it sleeps.

Ray knows nothing of other commands on this machine, whose threads want the same cores. With libgomp's own 300,000 a
thread that waits for another one keeps that one from running. The benchmark shared_cores compares both.
"""
WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""Variables that say how threads of OpenMP wait."""
MOST_TEMP_CHARACTERS = 107 - len("/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store_0123")
"""Of the folder for temporary files: the path of a socket has at most 107 characters."""
SEC_BETWEEN_LOOKS = 5.0
"""How often a run that waits for nodes looks for them."""


class StartError(SystemExit):
    """Ray could not be started; ends the command with status 1 and this message, not with a traceback of Ray."""

    def __init__(self, text: str) -> None:
        super().__init__(f"error: {text}")


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


@contextmanager
def joined(
    cfg: RunConfig, say: Say, num_runs: int = 1, dashboard: bool = False, option: str = OPTION
) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at cluster.address, of that of the job, or of a new local one.

    A local one has room for `num_runs` runs at once, even if they share cores. With its dashboard, Ray Train frees the
    workers of a run whose driver was an actor and died: its PlacementGroupCleaner asks there. Errors name `option`.
    No runtime environment is passed: a submitted job has one, and Ray refuses a second that says anything else.
    """
    # Messages of workers come through the channel; their output, and what Ray prints, stays in Ray's logs.
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    starts_ray = is_local(cfg)
    with interrupts.kept(), code_of_driver():
        if starts_ray:
            start_local(cfg, say, quiet | {"include_dashboard": dashboard}, num_runs)
        else:
            join(*given_address(cfg, option), quiet, option)
    try:
        yield
    finally:
        leave(starts_ray)


def leave(ends_ray: bool) -> None:
    """Leaves the cluster, and ends one that this process has started."""
    with interrupts.kept():  # Ray takes the handler of SIGTERM away
        ray.shutdown(wait_for_processes=ends_ray)
    if ends_ray:
        end_orphans()


@contextmanager
def joined_for_tasks(
    address: str | None, num_tasks: int | None, device: str = "auto"
) -> Iterator[tuple[int, Literal["cpu", "cuda"]]]:
    """Inside, this process has joined a cluster as in `joined`; gives how many tasks run at once, and their device.

    num_tasks None: one per GPU, or per CPU where GPUs are absent or not wanted. Raises ConfigError for another device.
    """
    cfg = load_config("tiny", {"cluster.address": address, "cluster.num_workers": num_tasks or 1})
    with joined(cfg, print, option="--address"):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not gpus):
            raise ConfigError(f"--device {device}: the cluster has {gpus} GPUs; write auto or cpu")
        if gpus and device != "cpu":
            yield num_tasks or gpus, "cuda"
        else:
            yield num_tasks or max(int(resources.get("CPU", 1)), 1), "cpu"


def is_local(cfg: RunConfig) -> bool:
    """Whether a cluster of this machine alone is started."""
    return given_address(cfg)[0] in (None, "local")


@contextmanager
def code_of_driver() -> Iterator[None]:
    """Inside, the current folder is that of this package's code: Ray lets workers look for modules there first.

    They would import another checkout of this package, or a torch.py, from where the command was given. Installed code
    needs no folder, and what a folder like site-packages holds must not come before Python's own modules. A submitted
    job has its own folder, which holds its code.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        yield
        return
    before, own = os.open(".", os.O_RDONLY), Path(stylegan_ray.__file__).parents[1]
    os.chdir("/" if own.name in ("site-packages", "dist-packages") else own)
    try:
        yield
    finally:
        os.chdir(before)
        os.close(before)


def start_local(cfg: RunConfig, say: Say, quiet: dict[str, Any], num_runs: int = 1) -> None:
    """Starts a cluster of this machine alone; more workers than cores share them, with a warning."""
    cores, most = num_cores(), cfg.cluster.most_workers * num_runs
    wanted = most * (cfg.cluster.cpus_per_worker or 1)
    if wanted > cores:
        say(f"{most} workers want {wanted:g} CPUs and this machine has {cores}: they will share them")
    set_token()
    set_folder(say)
    os.environ.update({key: value for key, value in local_defaults().items() if key not in os.environ})
    try:
        # A terminal that is closed sends SIGHUP to the whole process group: Ray must live until the state is saved.
        with interrupts.hangups_held():
            # Where the command line has set Ray's switch (cli.keep_to_loopback), this is also where its servers listen.
            ray.init(address="local", num_cpus=max(cores, math.ceil(wanted)), _node_ip_address="127.0.0.1", **quiet)
    except BaseException as error:
        leave(ends_ray=True)
        end_late_orphans()
        if isinstance(error, Exception):  # Ray raises bare ones
            raise StartError(
                f"Ray did not start on this machine: {one_line(error, 500)}; where it is too busy, try again when it "
                f"is less so"
            ) from error
        raise


def local_defaults() -> dict[str, str]:
    """Variables that the processes of a new local cluster inherit, where nobody has set them."""
    is_chosen = any(name in os.environ for name in WAITING)
    return LOCAL_DEFAULTS | ({} if is_chosen else {"GOMP_SPINCOUNT": str(SPIN)})


def set_folder(say: Say) -> None:
    """Gives Ray a folder that this user can write and whose sockets' paths are short enough, where its own has none."""
    given = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = os.environ[given] if given else tempfile.gettempdir()
    why = None
    if len(os.path.abspath(folder)) > MOST_TEMP_CHARACTERS:
        why = f"{given}={folder} is too long for the paths of Ray's sockets"
    elif not can_write(Path(folder, "ray")):
        why = f"{Path(folder, 'ray')} cannot be written by this user"
    if why is None:
        return
    own = Path("/tmp", f"stylegan_ray-{os.getuid()}")
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        is_ours = own.stat(follow_symlinks=False).st_uid == os.getuid() and own.is_dir() and not own.is_symlink()
    except OSError:
        is_ours = False
    if not is_ours:
        raise ConfigError(f"{why}, nor can {own}; give Ray a short folder of your own with RAY_TMPDIR")
    say(f"{why}; Ray's files go to {own}, or to where RAY_TMPDIR says")
    os.environ["RAY_TMPDIR"] = str(own)


def can_write(folder: Path) -> bool:
    """Whether a folder is there or can be made, and files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def set_token() -> None:
    """Sets a token for this run, unless the user has one: Ray listens where other machines can reach it."""
    has_one = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if not has_one and not Path("~/.ray/auth_token").expanduser().exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def share_of_cluster(cfg: RunConfig, say: Say) -> Share:
    """What each worker gets of the cluster; waits up to cluster.wait_minutes where the cluster is too small."""
    try:
        return share_of_nodes(cfg, resources_of_nodes())
    except TooSmallError:
        if not cfg.cluster.wait_minutes:
            raise
    say(f"Waiting for nodes, {cfg.cluster.wait_minutes:g} minutes at most")
    deadline = time.monotonic() + cfg.cluster.wait_minutes * 60
    try:
        while time.monotonic() < deadline:
            request_resources(bundles=[bundle(cfg, resources_of_nodes())] * cfg.cluster.fewest_workers)
            time.sleep(min(SEC_BETWEEN_LOOKS, max(deadline - time.monotonic(), 0)))
            with suppress(TooSmallError):
                return share_of_nodes(cfg, resources_of_nodes())
        return share_of_nodes(cfg, resources_of_nodes())
    finally:
        request_resources(bundles=[])  # from here on Ray Train asks; our request would outlive this process


def resources_of_nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


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
    least, most = cfg.cluster.fewest_workers, cfg.cluster.most_workers
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
    smallest = min((node.get("CPU", 0) for node in hosts), default=0)
    cpus = cfg.cluster.cpus_per_worker or max(smallest // per_node, 1)
    fitting = sum(int(node.get("CPU", 0) // cpus) for node in hosts)
    if fitting < least:
        raise TooSmallError(
            f"cluster.num_workers={cfg.cluster.num_workers} with cluster.cpus_per_worker={cpus:g}: {fitting} workers "
            f"fit on a cluster of {sum(node.get('CPU', 0) for node in nodes):g} CPUs; {way_out}"
        )
    return Share(most if least == most else (least, most), float(cpus), gpus, threads=max(int(cpus), 1))
