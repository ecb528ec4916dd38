"""A Ray cluster of several nodes on this machine, for benchmarks that inject faults into its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ray.util import get_node_ip_address

TRAIN = [sys.executable, "-m", "benchmarks.cluster.trace"]
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
TRAINING_WORKER, DECODER = "ray::RayTrainWorker", "ray::ReadReals"
"""Beginnings of what Ray names its processes."""
NODE_ENV = {
    "RAY_AUTH_MODE": "disabled",
    # A lost node is to be noticed in seconds, and a busy machine is not to be taken for one.
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_agent_register_timeout_ms": "300000",
}
MOST_SEC = 300.0


class Node:
    """One Ray node: the head, which trains nothing, or one with CPUs and a loopback address of its own.

    So the driver, which looks for a node with the machine's address, finds the head.
    """

    def __init__(self, number: int, head: str, num_cpus: int, folder: Path, env: Mapping[str, str]) -> None:
        self.number = number
        where = ["--head", f"--port={head.rpartition(':')[2]}"] if number == 0 else [f"--address={head}"]
        words = [
            "start", *where, "--block", f"--num-cpus={num_cpus}", "--object-store-memory=100000000",
            "--disable-usage-stats", "--include-log-monitor=false",
        ]  # fmt: skip
        if number == 0:
            words += [f"--temp-dir={folder / 'ray'}", "--include-dashboard=false"]
        else:
            words.append(f"--node-ip-address=127.0.0.{number + 1}")
        self.log = folder / f"node{number}.log"
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen([*RAY, *words], stdout=out, stderr=out, env={**os.environ, **env})

    @property
    def has_joined(self) -> bool:
        """Whether it is a part of the cluster."""
        return b"Ray runtime started" in self.log.read_bytes()

    @property
    def raylet(self) -> int | None:
        """Its raylet's process id, once there is one."""
        return next((pid for pid in descendants(self.process.pid) if "/raylet/raylet" in command_of(pid)), None)

    @property
    def id(self) -> str:
        """What Ray calls it, from its raylet's command line."""
        words = command_of(self.raylet or 0).split()
        return next(word.removeprefix("--node_id=") for word in words if word.startswith("--node_id="))

    def processes(self, title: str) -> list[int]:
        """Processes of the node whose title begins so."""
        return [pid for pid in descendants(self.process.pid) if command_of(pid).startswith(title)]


class Cluster:
    """A head and some nodes of one training worker each; use it as a context manager, so that nothing stays behind."""

    def __init__(self, folder: Path, num_nodes: int, env: Mapping[str, str] | None = None) -> None:
        self.folder, self.env = folder, {**NODE_ENV, **(env or {})}
        self.address = ""
        self.num_nodes = num_nodes
        self.nodes: dict[int, Node] = {}
        self._newest = num_nodes

    @property
    def workers_nodes(self) -> list[int]:
        """The numbers of the nodes with CPUs."""
        return [number for number in self.nodes if number > 0]

    def add_spare(self) -> int:
        """Starts a further node and waits for it; returns its number."""
        self._newest += 1
        self.add(self._newest)
        wait_for(lambda: self.has_joined(self._newest), f"node {self._newest} to start")
        return self._newest

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the head, then the others, one at a time: Ray gives a node 30 s, and a busy machine few of them."""
        self.address = f"{get_node_ip_address()}:{free_port()}"
        for number in range(self.num_nodes + 1):
            self.add(number)
            wait_for(lambda: self.has_joined(number), f"node {number} to start")  # noqa: B023

    def add(self, number: int) -> None:
        """Starts a node."""
        self.nodes[number] = Node(number, self.address, int(number > 0), self.folder, self.env)

    def has_joined(self, number: int) -> bool:
        """Whether a node is a part of the cluster; one that has given up is started anew."""
        self.replace_lost()
        return self.nodes[number].has_joined

    def replace_lost(self) -> None:
        """Starts nodes anew that have ended by themselves, as a cloud does."""
        for number, node in list(self.nodes.items()):
            if number and node.process.poll() is not None:
                self.add(number)

    def processes(self, title: str) -> list[int]:
        """Processes of all nodes whose title begins so."""
        return [pid for node in self.nodes.values() for pid in node.processes(title)]

    def kill_raylet(self, number: int) -> None:
        """SIGKILL to the raylet of a node; the rest of the node dies of it."""
        node = self.nodes.pop(number)
        raylet = node.raylet
        assert raylet is not None, f"node {number} has no raylet"
        os.kill(raylet, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            node.process.wait(20)
        kill([node.process.pid])
        node.process.wait()

    def end_drained(self, node: Node) -> None:
        """Ends a node that was to be taken away, if it has not ended by itself: Ray ends one that does nothing."""
        if self.nodes.get(node.number) is node and node.raylet is not None:
            self.kill_raylet(node.number)

    def drain(self, number: int, sec: int) -> None:
        """Says, as a cloud does of spot machines, that a node will be taken away in so many seconds."""
        told = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds"]
        words = ["drain-node", "--address", self.address, "--node-id", self.nodes[number].id, *told, str(sec)]
        subprocess.run([*RAY, *words], check=True, capture_output=True, env={**os.environ, **self.env})

    def kill(self) -> None:
        """SIGKILL to everything."""
        pids = [pid for node in self.nodes.values() for pid in (*descendants(node.process.pid), node.process.pid)]
        kill(pids)
        for node in self.nodes.values():
            node.process.wait()
        self.nodes.clear()
        wait_for(lambda: not any(is_alive(pid) for pid in pids), "killed processes to be gone")


class Driver:
    """The traced train command in the background; its output goes to a log."""

    def __init__(self, words: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with open(log, "ab") as out:
            self.process = subprocess.Popen([*TRAIN, *words], stdout=out, stderr=out, env={**os.environ, **env})

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL to it and what it has started."""
        kill([*descendants(self.process.pid), self.process.pid])
        self.process.wait()

    def words(self, num_lines: int = 20) -> str:
        """Its last words."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-num_lines:])


def kill_while_running(processes: Callable[[], Sequence[int]], title: str) -> None:
    """SIGKILL to a process while its title names the task that it runs, which may end in milliseconds."""
    end = time.monotonic() + MOST_SEC
    while time.monotonic() < end:
        for pid in processes()[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # from here on the title stays as it is
                if command_of(pid).startswith(title):
                    os.kill(pid, signal.SIGKILL)
                    return
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.001)
    raise TimeoutError(f"no process {title} in {MOST_SEC:.0f} s")


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to processes by id; those that are gone do not matter."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found += new
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to notice its end does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def command_of(pid: int) -> str:
    """A process's command line, or the title it gave itself."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _stat(pid: int) -> list[str]:
    """State, parent and more of a process; empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], object], what: str, sec: float = MOST_SEC, every_sec: float = 0.05) -> None:
    """Returns when the condition holds; raises TimeoutError that says what was waited for."""
    deadline = time.monotonic() + sec
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {sec:.0f} s for {what}")
        time.sleep(every_sec)
