"""The network of the training workers: the interface each uses, and whether all answer before anything is computed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
import ray.train.torch
from ray.exceptions import RayTaskError
from ray.train.torch import TorchConfig

from stylegan_ray import distributed
from stylegan_ray.cluster.nodes import interface_address, interfaces
from stylegan_ray.cluster.ray_private import TorchBackend
from stylegan_ray.config import ConfigError
from stylegan_ray.storage import one_line

ANSWER_SEC = 60.0
CONNECT_SEC = 10.0
FIRST_SUM_SEC = 120.0

Door = tuple[str, int]
"""An address and a port that a worker listens on."""


@dataclass
class GroupConfig(TorchConfig):
    """A process group of torch over the interface that cluster.interface names."""

    interface: str | None = None

    @property
    def backend_cls(self) -> type:
        return GroupBackend


class GroupBackend(TorchBackend):
    """Connects the workers; what keeps them from reaching each other is told with rank and address."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called by Ray Train whenever a group of workers has started, before it trains."""
        assert isinstance(backend_config, GroupConfig)
        if len(worker_group) == 1:
            return  # nobody to talk to; a group of one would still wake a hundred times a second
        hosts = ask_all(worker_group, [], ray.util.get_node_ip_address)
        if len(set(hosts)) > 1 or backend_config.interface:
            hosts = ask_all(worker_group, hosts, choose_interface, backend_config.interface)
        if len(set(hosts)) > 1:
            doors = ask_all(worker_group, hosts, open_door)
            check_reach(hosts, ask_all(worker_group, hosts, unreached, doors, CONNECT_SEC))
        super().on_start(worker_group, backend_config)
        ask_all(worker_group, hosts, first_sum, hosts, FIRST_SUM_SEC, timeout_sec=FIRST_SUM_SEC + ANSWER_SEC)


def ask_all(
    worker_group: Any, hosts: Sequence[str], question: Callable[..., Any], *args: Any, timeout_sec: float = ANSWER_SEC
) -> list[Any]:
    """What all workers answer, in the order of ranks; raises ConnectionError that names who does not."""
    answers = worker_group.execute_async(question, *args)
    _, late = ray.wait(answers, num_returns=len(answers), timeout=timeout_sec)
    if late:
        ranks = [rank for rank, answer in enumerate(answers) if answer in late]
        raise ConnectionError(f"no answer from {named(ranks, hosts)} within {timeout_sec:g} s")
    try:
        return ray.get(answers)
    except RayTaskError as error:
        raise ConnectionError(one_line(error.cause, 1000)) from None


def named(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Workers with their addresses, where these are known."""
    return ", ".join(f"worker {rank}" + (f" on {hosts[rank]}" if hosts else "") for rank in ranks)


def check_reach(hosts: Sequence[str], unreached_by: Sequence[Sequence[int]]) -> None:
    """Raises ConnectionError when a worker could not connect to another one; names those that most others miss."""
    misses = [sum(rank in others for others in unreached_by) for rank in range(len(hosts))]
    if not any(misses):
        return
    ranks = [rank for rank, count in enumerate(misses) if count == max(misses)]
    asked = [rank for rank, others in enumerate(unreached_by) if set(others) & set(ranks)]
    raise ConnectionError(
        f"{named(ranks, hosts)} cannot be reached from {named(asked, hosts)}; let the nodes reach each other on all "
        f"ports, or name the network between them in cluster.interface"
    )


_doors: list[socket.socket] = []


def choose_interface(interface: str | None) -> str:
    """Tells gloo and NCCL which interface to use; returns its address.

    Unless somebody has said otherwise, gloo uses the interface of the address by which Ray knows this node; by itself
    it would take what the host's own name resolves to, which is often loopback. NCCL finds its network by itself.
    """
    host = ray.util.get_node_ip_address()
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
        raise ConfigError(f"node {host} has no network interface {name} (cluster.interface, GLOO_SOCKET_IFNAME)")
    return address


def open_door() -> Door:
    """Listens on the address that the others will use; the system accepts connections by itself."""
    host = choose_interface(None)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    _doors.append(socket.create_server((host, 0), family=family, backlog=4096))
    return host, _doors[-1].getsockname()[1]


def unreached(doors: Sequence[Door], timeout_sec: float) -> list[int]:
    """The ranks whose doors this worker cannot connect to."""

    def is_reached(door: Door) -> bool:
        try:
            socket.create_connection(door, timeout=timeout_sec).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(min(len(doors), 64)) as pool:
        return [rank for rank, reached in enumerate(pool.map(is_reached, doors)) if not reached]


def first_sum(hosts: Sequence[str], timeout_sec: float) -> None:
    """The first reduction of the group."""
    while _doors:
        _doors.pop().close()
    distributed.first_sum(ray.train.torch.get_device(), hosts, timeout_sec)
