"""Machines inside this one: commands in network, mount and process namespaces of their own, all gone with one kill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import textwrap
import time
from contextlib import suppress
from pathlib import Path

from support.jobs import ROOT

UNSHARE = ["unshare", "-n", "-m", "-p", "-f", "--mount-proc", "--kill-child"]
WHY_NOT = "this machine does not let us make network, mount and process namespaces (needs root, unshare and ip)"


def are_allowed() -> bool:
    """Whether this machine lets us make them."""
    tools = shutil.which("unshare") and shutil.which("ip")
    trial = "ip link set lo up && ip link add v0 type veth peer name v1"
    return bool(tools) and not subprocess.run([*UNSHARE, "bash", "-c", trial], capture_output=True).returncode


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment without what this process knows of Ray and of runs, with a home and a storage in the folder."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "STYLEGAN_RAY_"))}
    (folder / "home").mkdir(exist_ok=True)
    return {
        **ours,
        "HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "STYLEGAN_RAY_STORAGE": str(folder / "storage"),
        **more,
    }


def copy_of_code(folder: Path) -> Path:
    """The package and its jobs as they are now: nodes with different code are refused."""
    for name in ("stylegan_ray", "jobs"):
        shutil.copytree(ROOT / name, folder / "code" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "code"


def two_hosts(folder: Path) -> str:
    """A set-up of two hosts on a bridge, host1 at 10.77.0.1 and host2 at 10.77.0.2, with folders tmp1 and tmp2.

    /run/netns is a file system of our own, so nothing is left of the hosts when everything is killed.
    """
    return f"""
        mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns
        ip link add br0 type bridge && ip link set br0 up
        for host in 1 2; do
            ip netns add host$host
            ip link add link$host type veth peer name eth0 netns host$host
            ip link set link$host master br0 up
            ip -n host$host addr add 10.77.0.$host/24 dev eth0
            ip -n host$host link set lo up
            ip -n host$host link set eth0 up
            mkdir {folder}/tmp$host
        done
    """


class Namespaces:
    """Runs a set-up, and then one command after another beside it, each in the background."""

    def __init__(self, folder: Path, setup: str, env: dict[str, str], cwd: Path = ROOT) -> None:
        self.folder, self.scripts, self.log = folder, folder / "scripts", folder / "log"
        self.scripts.mkdir()
        Path("/tmp/ray").mkdir(exist_ok=True)
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                [*UNSHARE, "bash", "-c", self._script(setup)],
                env=env, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _script(self, setup: str) -> str:
        loop = f"""
            touch {self.folder}/ready
            set +e
            while true; do
                for script in {self.scripts}/*.sh; do
                    [ -e "$script" ] || continue
                    mv "$script" "$script.run"
                    (
                        bash "$script.run" > "$script.out" 2>&1
                        echo $? > "$script.rc.part"
                        mv "$script.rc.part" "$script.rc"
                    ) &
                done
                sleep 0.5
            done
        """
        return f"set -e\nip link set lo up\n{textwrap.dedent(setup)}\n{textwrap.dedent(loop)}"

    def wait_until_ready(self, seconds: float = 300) -> None:
        self.wait_for((self.folder / "ready").exists, seconds)

    def start(self, name: str, command: str) -> Path:
        """Begins a command; its output goes to the file returned."""
        partial = self.scripts / f"{name}.part"
        partial.write_text(command)
        partial.rename(self.scripts / f"{name}.sh")
        return self.scripts / f"{name}.sh.out"

    def status(self, name: str) -> int | None:
        """The exit status of a command that has ended."""
        path = self.scripts / f"{name}.sh.rc"
        return int(path.read_text()) if path.exists() else None

    def run(self, name: str, command: str, seconds: float = 300) -> tuple[int, str]:
        """Exit status and output of a command."""
        out = self.start(name, command)
        self.wait_for(lambda: self.status(name) is not None, seconds)
        return self.status(name) or 0, out.read_text()

    def wait_for(self, condition, seconds: float = 300, while_running: str | None = None) -> None:
        """Returns when the condition holds; fails when it takes too long, or a command that it needs has ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert while_running is None or self.status(while_running) is None, f"has ended:\n{self.text()}"
            assert self.process.poll() is None, f"ended before:\n{self.text()}"
            assert time.monotonic() < deadline, f"waited {seconds} s:\n{self.text()}"
            time.sleep(0.2)

    def text(self) -> str:
        """Everything that was said, for a test that fails."""
        outputs = sorted(self.scripts.glob("*.out"))
        return "\n".join([self.log.read_text(), *(f"--- {path.name}\n{path.read_text()}" for path in outputs)])

    def kill(self) -> None:
        """SIGKILL to everything at once."""
        with suppress(ProcessLookupError):  # it may have ended by itself, which a test says with its output
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
