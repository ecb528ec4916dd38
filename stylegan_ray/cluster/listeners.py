"""Whether the training workers reach each other: each listens on a port, and all others connect to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from stylegan_ray.config import ConfigError
from stylegan_ray.machine.network import interface_address, interfaces

Address = tuple[str, int]
"""Host and port that a worker listens on."""


def choose_interface(interface: str | None, host: str) -> str:
    """Sets the interface of gloo and NCCL on the node that Ray knows as `host`; returns its address.

    Unless somebody has chosen otherwise, gloo uses the interface of that address; by itself it would use what the
    host's own name resolves to, which is often loopback. NCCL finds its network by itself.
    """
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
        os.environ["NCCL_SOCKET_IFNAME"] = ",".join(f"={name}" for name in interface.split(","))
    elif "GLOO_SOCKET_IFNAME" not in os.environ:
        own = [name for name, address in interfaces().items() if address == host]
        if not own:
            return host
        os.environ["GLOO_SOCKET_IFNAME"] = own[0]
    name = os.environ["GLOO_SOCKET_IFNAME"].split(",")[0]
    address = interface_address(name)
    if address is None:
        there = ", ".join(f"{name} ({address})" for name, address in interfaces().items())
        raise ConfigError(
            f"cluster.interface={interface}: node {host} has no network interface {name} (GLOO_SOCKET_IFNAME), but "
            f"{there}; name one that every node has"
        )
    return address


@contextmanager
def listener(host: str) -> Iterator[Address]:
    """A port that accepts connections while the context lasts; the system accepts them by itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=4096) as server:
        yield host, server.getsockname()[1]


def unreached(addresses: Sequence[Address], timeout_sec: float) -> list[int]:
    """Ranks of the listeners that this process cannot connect to."""

    def is_reached(address: Address) -> bool:
        try:
            socket.create_connection(address, timeout=timeout_sec).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(min(len(addresses), 64)) as pool:
        return [rank for rank, reached in enumerate(pool.map(is_reached, addresses)) if not reached]


def check_reach(hosts: Sequence[str], unreached_by: Sequence[Sequence[int]]) -> None:
    """Raises ConnectionError that names the workers which most others cannot connect to.

    `unreached_by[rank]` lists the ranks that this rank could not connect to.
    """
    misses = [sum(rank in others for others in unreached_by) for rank in range(len(hosts))]
    if not any(misses):
        return
    ranks = [rank for rank, count in enumerate(misses) if count == max(misses)]
    tried = [rank for rank, others in enumerate(unreached_by) if set(others) & set(ranks)]
    raise ConnectionError(
        f"{format_workers(ranks, hosts)} cannot be reached from {format_workers(tried, hosts)}; let the nodes reach "
        f"each other on all ports, or name the network between them in cluster.interface"
    )


def format_workers(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Workers with their addresses."""
    return ", ".join(f"worker {rank} on {hosts[rank]}" for rank in ranks)
