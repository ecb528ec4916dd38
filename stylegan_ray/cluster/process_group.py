"""The process group of the training workers, set up inside the train function: its failures count as a worker's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig

from stylegan_ray import distributed
from stylegan_ray.cluster.listeners import Address, check_reach, choose_interface, format_workers, listener, unreached
from stylegan_ray.cluster.signals import notice_sigterm
from stylegan_ray.machine.network import interfaces
from stylegan_ray.scratch import new_folder

STORE_SEC = 60.0
"""How long a worker waits for what another one stores."""
LOOPBACK = "lo"
CONNECT_SEC = 10.0
FIRST_SUM_SEC = 120.0
OPERATION_SEC = 1800.0
"""How long a collective operation waits for the others."""


@dataclass
class WorkerSetup(TorchConfig):
    """Instead of connecting the workers, tells each where all of them are; `connected` does the rest."""

    @property
    def backend_cls(self) -> type:
        return SetupBackend


class SetupBackend(Backend):
    """Prepares the processes of a new group of workers."""

    share_cuda_visible_devices = True  # NCCL's connections inside a node need it

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Runs in the controller after the workers have started, and Ray's handlers with them."""
        hosts = worker_group.execute(ray.util.get_node_ip_address)
        worker_group.execute(prepare_worker, hosts)


def prepare_worker(hosts: Sequence[str]) -> None:
    """Runs in the main thread of each worker, with the addresses of the nodes of all ranks."""
    notice_sigterm()
    _hosts[:] = hosts


_hosts: list[str] = []


@contextmanager
def connected(interface: str | None, device: torch.device) -> Iterator[None]:
    """Inside, the workers are a process group of torch.

    Raises ConnectionError that names the workers which cannot be reached. A single worker gets no group: it would wake
    a hundred times a second for nothing.
    """
    if len(_hosts) < 2:
        yield
        return
    rank, own = ray.train.get_context().get_world_rank(), _hosts
    host = own[rank]
    if len(set(own)) > 1 or interface:
        host = choose_interface(interface, host)
    elif LOOPBACK in interfaces():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    store = connect_store(rank, own, host) if len(set(own)) > 1 else file_store(len(own))
    if len(set(own)) > 1:
        meet(store, rank, own, host)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=len(own),
        store=dist.PrefixStore("group", store), timeout=timedelta(seconds=OPERATION_SEC),
    )  # fmt: skip
    distributed.first_sum(dist.PrefixStore("first_sum", store), device, own, FIRST_SUM_SEC)
    yield
    dist.destroy_process_group()  # after an error it might wait for workers that are gone


def file_store(num_workers: int) -> dist.FileStore:
    """The store of workers on one machine: a file, since a server would listen on all of its addresses.

    The last worker deletes it, and the first one's process its folder.
    """
    is_first = ray.train.get_context().get_world_rank() == 0
    shared: Any = broadcast_from_rank_zero(str(new_folder() / "group") if is_first else None)
    return dist.FileStore(shared, num_workers)


def connect_store(rank: int, hosts: Sequence[str], host: str) -> dist.TCPStore:
    """The store of rank 0, whose address the workers learn over Ray."""
    store, address = None, None
    if rank == 0:
        store = new_store(host, 0, is_server=True)
        address = (host, store.port)
    where: Any = broadcast_from_rank_zero(address)
    if store is not None:
        return store
    try:
        return new_store(*where, is_server=False)
    except dist.DistError as error:
        raise ConnectionError(
            f"{format_workers([0], hosts)} cannot be reached at {where[0]}:{where[1]} from "
            f"{format_workers([rank], hosts)}; let the nodes reach each other on all ports, or name the network "
            f"between them in cluster.interface"
        ) from error


def new_store(host: str, port: int, is_server: bool) -> dist.TCPStore:
    """A store that waits for values, and for its server, as long as STORE_SEC."""
    timeout = timedelta(seconds=STORE_SEC)
    return dist.TCPStore(host, port, is_master=is_server, wait_for_workers=False, timeout=timeout)


def meet(store: dist.Store, rank: int, hosts: Sequence[str], host: str) -> None:
    """Connects to all other workers; every rank raises the same ConnectionError when one cannot be reached."""
    with listener(host) as address:
        addresses: list[Address] = exchange(store, "address", rank, hosts, address)
        check_reach(hosts, exchange(store, "unreached", rank, hosts, unreached(addresses, CONNECT_SEC)))


def exchange(store: dist.Store, name: str, rank: int, hosts: Sequence[str], mine: Any) -> list[Any]:
    """What the ranks store under a name, in order; raises ConnectionError that names those that store nothing."""
    keys = [f"{name}/{other}" for other in range(len(hosts))]
    try:
        store.set(keys[rank], json.dumps(mine))
        store.wait(keys, timedelta(seconds=STORE_SEC))
        return [json.loads(store.get(key)) for key in keys]
    except dist.DistError as error:
        missing = [other for other, key in enumerate(keys) if not store.check([key])]
        raise ConnectionError(
            f"no answer from {format_workers(missing, hosts)} within {STORE_SEC:g} s; check the network to them"
        ) from error
