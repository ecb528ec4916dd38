"""The cluster of a run: joining or starting one, and the share of it that each worker gets."""

from __future__ import annotations

import math
import os
import secrets
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import ray
import ray.util
from ray.autoscaler.sdk import request_resources
from ray.exceptions import AuthenticationError

import stylegan_ray
from stylegan_ray import interrupts
from stylegan_ray.config import ConfigError, RunConfig, load_config
from stylegan_ray.cores import num_cores
from stylegan_ray.orphans import end_late_orphans, end_orphans
from stylegan_ray.storage import one_line
from stylegan_ray.untrusted import printable

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
ANSWER_SEC = 6.0
"""How long what is at an address has to answer."""
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HTTP2_SETTINGS = b"\4"
"""The type of the frame that a server begins with."""
RAY_TLS = os.environ.get("RAY_USE_TLS", "0") not in ("0", "false")
MOST_TEMP_CHARACTERS = 107 - len("/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store_0123")
"""Of the folder for temporary files: the path of a socket has at most 107 characters."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts in whose place Ray asks the address of this machine."""
CONNECT_TRIES = "RAY_gcs_server_port_wait_time_s"
"""Ray's variable for how often, once a second, it asks for a cluster where something else answers; 20 unless set."""
FEW_TRIES = "4"
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
def joined(cfg: RunConfig, say: Say, num_runs: int = 1, dashboard: bool = False) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at cluster.address, of that of the job, or of a new local one.

    A local one has room for `num_runs` runs at once, even if they share cores. With its dashboard, Ray Train frees the
    workers of a run whose driver was an actor and died: its PlacementGroupCleaner asks there.
    No runtime environment is passed: a submitted job has one, and Ray refuses a second that says anything else.
    """
    # Messages of workers come through the channel; their output, and what Ray prints, stays in Ray's logs.
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    starts_ray = is_local(cfg)
    with interrupts.kept(), code_of_driver():
        if starts_ray:
            start_local(cfg, say, quiet | {"include_dashboard": dashboard}, num_runs)
        else:
            join(*given_address(cfg), quiet)
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
    with joined(load_config("tiny", {"cluster.address": address, "cluster.num_workers": num_tasks or 1}), print):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not gpus):
            raise ConfigError(f"--device {device}: the cluster has {gpus} GPUs; write auto or cpu")
        if gpus and device != "cpu":
            yield num_tasks or gpus, "cuda"
        else:
            yield num_tasks or max(int(resources.get("CPU", 1)), 1), "cpu"


def given_address(cfg: RunConfig) -> tuple[str | None, str]:
    """The address of the cluster to join, and what gives it; None for a new local one."""
    if cfg.cluster.address:
        return cfg.cluster.address, "cluster.address"
    return os.environ.get("RAY_ADDRESS") or None, "RAY_ADDRESS"


def is_local(cfg: RunConfig) -> bool:
    """Whether a cluster of this machine alone is started."""
    return given_address(cfg)[0] in (None, "local")


def join(address: str | None, source: str, quiet: dict[str, Any]) -> None:
    """Makes this process a driver of a running cluster; raises ConfigError that names what gives the address."""
    assert address is not None
    here = "cluster.address=local starts Ray on this machine" + (
        ", and so does a shell without the variable: unset RAY_ADDRESS" if source == "RAY_ADDRESS" else ""
    )
    if "://" in address:
        jobs = f"http://{urlsplit(address).hostname}:8265" if address.startswith("ray://") else address
        submit = submit_words(jobs)  # the port of ray:// is that of Ray's client
        raise ConfigError(
            f"{source}={address}: a driver runs on a node of the cluster and joins it by HOST:PORT or auto; from "
            f"elsewhere, submit the job: {submit}; {here}"
        )
    if not RAY_TLS and (problem := no_answer(address)):
        raise ConfigError(
            f"{source}={address}: {problem}; start Ray there (ray start --head --port=...), or give the address of a "
            f"cluster that runs; {here}"
        )
    try:
        with few_tries():
            ray.init(address=address, **quiet)
    except (AuthenticationError, ConnectionError, ValueError) as error:
        raise ConfigError(f"{source}={address}: {why_not_joined(address, error)}; {here}") from error
    except RuntimeError as error:
        raise ConfigError(f"{source}={address} cannot be joined: {one_line(error)}") from error


@contextmanager
def few_tries() -> Iterator[None]:
    """Inside, Ray gives up soon where a server that is no Ray answers, unless the user has set how often it tries."""
    if CONNECT_TRIES in os.environ:
        yield
        return
    os.environ[CONNECT_TRIES] = FEW_TRIES
    try:
        yield
    finally:
        os.environ.pop(CONNECT_TRIES, None)


def why_not_joined(address: str, error: Exception) -> str:
    """Why Ray did not join the cluster at an address where a server like Ray's answers, with the way out.

    A driver looks for the process of a node among those of its machine; those of another container are hidden from it.
    """
    if isinstance(error, AuthenticationError) or AuthenticationError.__name__ in str(error.__cause__):
        return (
            "the cluster requires its token, in ~/.ray/auth_token, in a file that RAY_AUTH_TOKEN_PATH names or in "
            "RAY_AUTH_TOKEN, on every node and here alike, and RAY_AUTH_MODE=token"
        )
    said = ": ".join(one_line(last_line(part)) for part in (error, error.__cause__) if part)
    if "connect to GCS" in str(error.__cause__):
        return f"what answers there is no Ray ({said}); give the address of a cluster that runs"
    if address == "auto":
        return f"no Ray cluster was found on this machine ({said}); start Ray here (ray start --head)"
    return (
        f"no node of the cluster there runs on this machine, in this container ({said}); a driver needs one: "
        f"ray start --address={address}, or submit the job: {submit_words('http://HEAD:8265')}"
    )


def last_line(error: BaseException) -> str:
    """The last line of a message: Ray's may end with a traceback."""
    return (str(error).splitlines() or [""])[-1]


def submit_words(address: str) -> str:
    """This command as a job for the cluster whose dashboard is at an address.

    A job file comes with the folder of its code; the installed command needs none, and the current folder may be large.
    """
    program, *words = sys.argv
    name, words = os.path.basename(program), without_address(words)
    if name.endswith(".py") and name != "cli.py":
        return f"ray job submit --address {address} --working-dir . -- {shlex.join(['python', program, *words])}"
    return f"ray job submit --address {address} -- {shlex.join(['stylegan-ray', *words])}"


def without_address(words: Sequence[str]) -> list[str]:
    """The words of a command without the address of a cluster: a job is in its cluster already."""
    kept, rest = [], list(words)
    while rest:
        name, equals, _ = (word := rest.pop(0)).partition("=")
        if name.lower() not in ("--cluster.address", "--address"):
            kept.append(word)
        elif not equals:
            rest = rest[1:]
    return kept


def no_answer(address: str) -> str | None:
    """Why no Ray can be at HOST:PORT, found within ANSWER_SEC; None where one may be.

    Ray itself would wait for minutes. Its server speaks HTTP/2: it greets whoever opens a connection. In place of
    localhost Ray asks the address of this machine, where a server that listens on the loopback interface is not found.
    """
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65535):
        return None if address == "auto" else "an address is HOST:PORT, auto or local"
    there = "there"
    if host in LOOPBACK:
        host = ray.util.get_node_ip_address()
        there = f"at {host}:{port}, where Ray looks for the clusters of this machine"
    deadline = time.monotonic() + ANSWER_SEC
    try:
        with socket.create_connection((host, int(port)), ANSWER_SEC / 2) as connection:
            connection.settimeout(max(deadline - time.monotonic(), 0.1))
            connection.sendall(HTTP2_GREETING)
            answer = connection.recv(9)
    except TimeoutError:
        return f"nothing answers {there} within {ANSWER_SEC:g} s"
    except OSError as error:
        return f"nothing answers {there}: {one_line(error)}"
    except ValueError:  # of the encoding of names
        return f"{printable(host)} cannot be the name of a host"
    return None if answer[3:4] == HTTP2_SETTINGS else f"what answers {there} is no Ray"


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
