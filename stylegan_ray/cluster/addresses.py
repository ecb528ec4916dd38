"""Addresses of clusters: where no Ray answers, and why a command cannot join one."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import ray.util
from ray.exceptions import AuthenticationError

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.storage import one_line
from stylegan_ray.untrusted import printable

OPTION, VARIABLE = "cluster.address", "RAY_ADDRESS"
"""What gives the address of a cluster; some commands have the option --address instead."""
GCS_WORD = "--gcs-address="
ANSWER_SEC = 6.0
"""How long what is at an address has to answer."""
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HTTP2_SETTINGS = b"\4"
"""The type of the frame that a server begins with."""
RAY_TLS = os.environ.get("RAY_USE_TLS", "0") not in ("0", "false")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts in whose place Ray asks the address of this machine."""
CONNECT_TRIES = "RAY_gcs_server_port_wait_time_s"
"""Ray's variable for how often, once a second, it asks for a cluster where something else answers; 20 unless set."""
FEW_TRIES = "4"


def given_address(cfg: RunConfig, option: str = OPTION) -> tuple[str | None, str]:
    """The address of the cluster to join, and what gives it; None for a new local one."""
    if cfg.cluster.address:
        return cfg.cluster.address, option
    return os.environ.get(VARIABLE) or None, VARIABLE


def join(address: str | None, source: str, quiet: dict[str, Any], option: str = OPTION) -> None:
    """Makes this process a driver of a running cluster; raises ConfigError that names what gives the address.

    That is `source`; `option` is where a user gives another one.
    """
    assert address is not None
    here = f"{option}=local starts Ray on this machine" + (
        ", and so does a shell without the variable: unset RAY_ADDRESS" if source == VARIABLE else ""
    )
    if "://" in address:
        jobs = f"http://{urlsplit(address).hostname}:8265" if address.startswith("ray://") else address
        submit = submit_words(jobs)  # the port of ray:// is that of Ray's client
        raise ConfigError(
            f"{source}={address}: a driver runs on a node of the cluster and joins it by HOST:PORT or auto; from "
            f"elsewhere, submit the job: {submit}; {here}"
        )
    at = address if RAY_TLS or address != "auto" else found_here(source, here)
    if not RAY_TLS and (problem := no_answer(at)):
        raise ConfigError(
            f"{source}={address}: {problem}; start Ray there (ray start --head --port=...), or give the address of a "
            f"cluster that runs; {here}"
        )
    try:
        with few_tries():
            ray.init(address=at, **quiet)
    except (AuthenticationError, ConnectionError, ValueError) as error:
        raise ConfigError(f"{source}={address}: {why_not_joined(address, error)}; {here}") from error
    except RuntimeError as error:
        raise ConfigError(f"{source}={address} cannot be joined: {one_line(error)}") from error


def found_here(source: str, here: str) -> str:
    """The address of a cluster with a node on this machine, as Ray finds it for auto; raises ConfigError.

    Ray may take that of a command which started one for itself alone, and then waits for minutes. `auto` is left to
    Ray where none is seen, or where each may be joined.
    """
    found = addresses_here()
    open_ones = [address for address in found if no_answer(address) is None]
    if found and not open_ones:
        raise ConfigError(
            f"{source}=auto: no cluster that can be joined was found on this machine: Ray at {', '.join(found)} serves "
            f"the command alone that started it; start one (ray start --head), or give its address; {here}"
        )
    return "auto" if len(open_ones) == len(found) else open_ones[0]


def addresses_here() -> list[str]:
    """The clusters that processes of this machine belong to, by the command lines of their raylets (on Linux)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            program, *words = path.read_bytes().decode(errors="replace").split("\0")
            if os.path.basename(program) == "raylet":
                found |= {word.removeprefix(GCS_WORD) for word in words if word.startswith(GCS_WORD)}
    return sorted(found)


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
    if address == "auto":
        return f"no Ray cluster was found on this machine ({said}); start Ray here (ray start --head)"
    if "connect to GCS" in str(error.__cause__):
        return f"what answers there is no Ray ({said}); give the address of a cluster that runs"
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
