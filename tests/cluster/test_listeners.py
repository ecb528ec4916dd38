"""Whether workers reach each other: listeners, interfaces, and who is named."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

ray = pytest.importorskip("ray")

import torch.distributed as dist  # noqa: E402

from stylegan_ray.cluster import process_group  # noqa: E402
from stylegan_ray.cluster.listeners import check_reach, choose_interface, listener, unreached  # noqa: E402
from stylegan_ray.config import ConfigError  # noqa: E402


def test_workers_that_cannot_be_reached_are_named():
    hosts = ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
    check_reach(hosts, [[], [], []])
    with pytest.raises(ConnectionError, match=r"worker 2 on 10\.0\.0\.2 cannot be reached from worker 0 .*, worker 1 "):
        check_reach(hosts, [[2], [2], [0, 1]])
    with pytest.raises(ConnectionError, match=r"cluster\.interface"):
        check_reach(hosts, [[2], [], []])


def test_a_listener_is_reached_while_it_is_open():
    with listener("127.0.0.1") as address:
        closed = socket.create_server(("127.0.0.1", 0))
        shut = closed.getsockname()
        closed.close()
        assert unreached([address, shut], timeout_sec=5) == [1]
    assert unreached([address], timeout_sec=5) == [0]


def store_of(port: int = 0) -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", port, is_master=not port, wait_for_workers=False, timeout=timedelta(seconds=10))


HOSTS = ["127.0.0.1", "127.0.0.1"]


def test_workers_that_reach_each_other_meet():
    server = store_of()
    stores = [server, store_of(server.port)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: process_group.meet(stores[rank], rank, HOSTS, "127.0.0.1"), range(2)))


def test_a_worker_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(process_group, "STORE_SEC", 0.5)
    with pytest.raises(ConnectionError, match=r"no answer from worker 1 on 127\.0\.0\.1"):
        process_group.meet(store_of(), 0, HOSTS, "127.0.0.1")


def test_the_interface_reaches_gloo_and_nccl(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    assert choose_interface(None, "127.0.0.1") == "127.0.0.1"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo" and "NCCL_SOCKET_IFNAME" not in os.environ
    assert choose_interface("lo", "127.0.0.1") == "127.0.0.1" and os.environ["NCCL_SOCKET_IFNAME"] == "=lo"
    with pytest.raises(ConfigError, match=r"cluster\.interface=nowhere0.*lo \(127\.0\.0\.1\)"):
        choose_interface("nowhere0", "127.0.0.1")
