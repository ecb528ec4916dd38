"""The command `doctor` for a cluster: the facts of each node by an actor there, and what nodes differ in."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import RayError

from stylegan_ray.cluster.addresses import given_address
from stylegan_ray.cluster.listeners import Address, check_reach, choose_interface, listener, unreached
from stylegan_ray.cluster.nodes import MARKER, Node, alive_nodes, read_marker
from stylegan_ray.cluster.pinned import Failure, on_node, results
from stylegan_ray.cluster.process_group import new_store
from stylegan_ray.cluster.resources import joined
from stylegan_ray.config import load_config
from stylegan_ray.credentials import without_credentials
from stylegan_ray.machine.command import DoctorOptions, check_output, describe, write_report
from stylegan_ray.machine.facts import Facts, gather
from stylegan_ray.machine.findings import (
    MOST_SKEW_SEC,
    Finding,
    about_token,
    findings,
    format_findings,
    verdict,
    worst,
)
from stylegan_ray.machine.memory import gib
from stylegan_ray.storage import Storage, join_address, one_line
from stylegan_ray.table import format_table

TIMEOUT_SEC = 60.0
"""How long a node may take to start a process and to answer."""
CONNECT_SEC = 5.0
SUM_SEC = 30.0
SUMMED_BYTES = 16 << 20
NUM_SUMS = 3
NUM_LOOKS = 5
"""How often the clock of a node is read: the quickest answer tells it best."""
CLUSTER_WIDE_SUBJECTS = frozenset({"token", "ports", "extras"})
"""Subjects that are not reported for each node: a cluster has one token, and Ray's own ports are taken."""


class Machine:
    """A process on a node that looks at it."""

    def gather(self, storage: str) -> Facts:
        """The facts of the node. Its GPUs are shown to this process, though it reserves none."""
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            del os.environ["CUDA_VISIBLE_DEVICES"]
        return gather(storage)

    def seconds(self) -> float:
        """The clock of the node."""
        return time.time()

    def marker(self, storage: str) -> str:
        """What this node reads in the file that the driver has written to the storage."""
        return read_marker(Storage.at(storage))

    def listen(self, host: str) -> Address:
        """Opens a port on the network that the workers would use; returns where."""
        self.stack = ExitStack()
        return self.stack.enter_context(listener(choose_interface(None, host)))

    def unreached(self, addresses: Sequence[Address]) -> list[int]:
        """The listeners that cannot be reached from this node."""
        return unreached(addresses, CONNECT_SEC)

    def open_store(self, host: str) -> Address:
        """Starts the store where the processes of an all-reduce meet."""
        self.store = new_store(host, 0, is_server=True)
        return host, self.store.port

    def all_reduce(self, backend: str, store: Address, rank: int, num: int) -> float:
        """Seconds of an all-reduce of SUMMED_BYTES over all nodes, the quickest of NUM_SUMS."""
        import torch
        import torch.distributed as dist

        own = getattr(self, "store", None) or new_store(*store, is_server=False)
        dist.init_process_group(backend, store=own, rank=rank, world_size=num, timeout=timedelta(seconds=SUM_SEC))
        try:
            ones = torch.ones(SUMMED_BYTES // 4, device="cuda" if backend == "nccl" else "cpu")
            times = []
            for _ in range(NUM_SUMS):
                total, begin = ones.clone(), time.perf_counter()
                dist.all_reduce(total)
                if float(total[-1]) != num:  # waits for a GPU, too
                    raise ValueError("the sum is wrong")
                times.append(time.perf_counter() - begin)
        finally:
            dist.destroy_process_group()
        return min(times)


@dataclass(frozen=True)
class Group:
    """Nodes that answer, this one first, and their actors."""

    nodes: Sequence[Node]
    actors: Sequence[Any]

    @classmethod
    def on(cls, nodes: Sequence[Node]) -> Group:
        remote = ray.remote(num_cpus=0)(Machine)
        return cls(nodes, [remote.options(scheduling_strategy=on_node(node.id)).remote() for node in nodes])

    def ask(self, method: str, *words: Any, timeout_sec: float = TIMEOUT_SEC) -> list[Any]:
        """What every node answers, text of what went wrong in the place of an answer that is missing."""
        return results([getattr(actor, method).remote(*words) for actor in self.actors], timeout_sec)

    def those(self, good: Sequence[bool]) -> Group:
        pairs = [pair for pair, keep in zip(zip(self.nodes, self.actors, strict=True), good, strict=True) if keep]
        return Group([node for node, _ in pairs], [actor for _, actor in pairs])


def examine_cluster(options: DoctorOptions) -> int:
    """Prints the findings about each node and about the cluster; returns the exit status."""
    check_output(options.json)
    cfg = load_config("tiny", {"cluster.address": options.address})
    with joined(cfg, print, option="--address"):
        nodes = alive_nodes()
        print(f"Cluster {given_address(cfg)[0]}: {len(nodes)} node{'s' * (len(nodes) > 1)}")
        group = Group.on(nodes)
        try:
            return examine(group, options)
        finally:
            for actor in group.actors:
                ray.kill(actor)


def examine(group: Group, options: DoctorOptions) -> int:
    """Looks at all nodes, and then at what is between them."""
    storage = options.where()
    facts = group.ask("gather", storage)
    silent = [
        Finding("problem", node.address, str(found), "see `ray status` and the logs there; restart Ray, or remove it")
        for node, found in zip(group.nodes, facts, strict=True)
        if isinstance(found, Failure)
    ]
    group = group.those([isinstance(found, Facts) for found in facts])
    facts = [found for found in facts if isinstance(found, Facts)]
    by_node = {node.address: findings_of_node(found) for node, found in zip(group.nodes, facts, strict=True)}
    clocks = skews(group)
    between = [*silent, *about_cluster(group, facts, clocks, storage)]
    print(format_table(rows(group.nodes, facts, clocks)))
    for address, found in by_node.items():
        wrong = [finding for finding in found if finding.level != "OK"]
        if wrong:
            print(f"\nnode {address} ({len(found) - len(wrong)} findings OK)\n{format_findings(wrong)}")
    print(f"\nbetween the nodes\n{format_findings(between)}")
    everything = [*between, *(finding for found in by_node.values() for finding in found)]
    print(verdict(everything, "this cluster"))
    reports = {
        node.address: describe(found, by_node[node.address]) for node, found in zip(group.nodes, facts, strict=True)
    }
    write_report(options.json, {"nodes": reports, "cluster": [vars(finding) for finding in between]})
    return int(worst(everything) == "problem")


def findings_of_node(facts: Facts) -> list[Finding]:
    return [finding for finding in findings(facts) if finding.subject not in CLUSTER_WIDE_SUBJECTS]


def rows(nodes: Sequence[Node], facts: Sequence[Facts], clocks: Sequence[float | None]) -> list[tuple[str, ...]]:
    """The table of nodes."""
    head = ("node", "CPUs", "GPUs", "memory", "/dev/shm", "write MB/s", "read MB/s", "clock s")
    return [head, *(
        (
            node.address, f"{node.resources.get('CPU', 0):g}", f"{node.resources.get('GPU', 0):g}", gib(found.memory),
            gib(found.shared_memory or 0), f"{found.storage.write_mb_s or 0:g}", f"{found.storage.read_mb_s or 0:g}",
            "" if clock is None else f"{clock:+.2f}",
        )
        for node, found, clock in zip(nodes, facts, clocks, strict=True)
    )]  # fmt: skip


def skews(group: Group) -> list[float | None]:
    """Seconds by which the clock of each node is ahead of that of this process; None where none was reported."""
    found: list[float | None] = []
    for actor in group.actors:
        looks = []
        with suppress(RayError):
            for _ in range(NUM_LOOKS):
                begin = time.time()
                there: Any = ray.get(actor.seconds.remote(), timeout=CONNECT_SEC)
                end = time.time()
                looks.append((end - begin, there - (begin + end) / 2))
        found.append(min(looks)[1] if looks else None)
    return found


def about_cluster(group: Group, facts: Sequence[Facts], clocks: Sequence[float | None], storage: str) -> list[Finding]:
    """What nodes differ in, and whether they reach each other; nothing where no node answers."""
    if not facts:
        return []
    hosts = [node.address for node in group.nodes]
    return [
        about_versions(hosts, [found.software for found in facts]),
        about_clocks(hosts, clocks),
        about_same_storage(group, storage),
        *about_links(group, facts),
        *(about_token(found) for found in facts[:1]),
    ]


def about_versions(hosts: Sequence[str], versions: Sequence[Mapping[str, str]]) -> Finding:
    """Whether all nodes have what the first one has."""
    others = [
        f"{host} has {name} {version}, {hosts[0]} has {versions[0][name]}"
        for host, installed in zip(hosts, versions, strict=True)
        for name, version in installed.items()
        if version != versions[0][name]
    ]
    if others:
        way_out = "install the same everywhere, or send the code: ray job submit --working-dir ."
        return Finding("problem", "versions", "; ".join(others), way_out)
    return Finding("OK", "versions", f"the same everywhere: {', '.join(map(' '.join, versions[0].items()))}")


def about_clocks(hosts: Sequence[str], clocks: Sequence[float | None]) -> Finding:
    """Whether the nodes agree on the time."""
    off = [
        f"{host} {clock:+.1f} s" for host, clock in zip(hosts, clocks, strict=True) if abs(clock or 0) > MOST_SKEW_SEC
    ]
    if off:
        way_out = "let all nodes keep time by NTP (chrony, systemd-timesyncd): logs and requests to S3 are dated"
        return Finding("warning", "clocks", f"differ from the clock of this node: {', '.join(off)}", way_out)
    most = max((abs(clock) for clock in clocks if clock is not None), default=0.0)
    return Finding("OK", "clocks", f"differ by at most {most:.2f} s")


def about_same_storage(group: Group, address: str) -> Finding:
    """Whether all nodes see the folder that this one sees."""
    shown = without_credentials(address)
    hidden, token = join_address(address, f".doctor-{uuid.uuid4().hex}"), uuid.uuid4().hex
    storage = None
    try:
        storage = Storage.at(hidden)
        storage.write(MARKER, token.encode())
        seen = group.ask("marker", hidden)
    except (OSError, ValueError) as error:
        said = without_credentials(one_line(error))
        return Finding("problem", "same storage", f"{shown}: {said}", "--run.storage names another")
    finally:
        if storage is not None:
            with suppress(OSError, ValueError):
                storage.delete(MARKER)
                storage.filesystem.delete_dir(storage.root)
    blind = [node.address for node, found in zip(group.nodes, seen, strict=True) if found != token]
    if blind:
        way_out = "put it where every node sees the same: a network file system, or an s3:// or gs:// address"
        return Finding("problem", "same storage", f"{', '.join(blind)} see another {shown} than this node", way_out)
    return Finding("OK", "same storage", f"all nodes see the same {shown}")


def about_links(group: Group, facts: Sequence[Facts]) -> list[Finding]:
    """Whether all nodes reach each other on free ports, and how fast they sum."""
    if len(group.nodes) < 2:
        return [Finding("OK", "network", "one node")]
    hosts = [node.address for node in group.nodes]
    open_ports = "let the nodes reach each other on all ports, or name the network between them in cluster.interface"
    addresses = results([actor.listen.remote(host) for actor, host in zip(group.actors, hosts, strict=True)], SUM_SEC)
    if failed := failures(hosts, addresses):
        return [Finding("problem", "network", failed, open_ports)]
    misses = group.ask("unreached", addresses)
    if failed := failures(hosts, misses):
        return [Finding("problem", "network", failed, open_ports)]
    try:
        check_reach(hosts, misses)
    except ConnectionError as error:
        said, _, way_out = str(error).replace("worker", "node").partition("; ")
        return [Finding("problem", "network", said, way_out)]
    reached = Finding("OK", "network", f"{len(hosts)} nodes reach each other")
    return [reached, about_sum(group, facts, addresses[0][0])]


def about_sum(group: Group, facts: Sequence[Facts], host: str) -> Finding:
    """An all-reduce over all nodes: with NCCL where all have GPUs that nobody uses, else with gloo.

    The way with NCCL has not been tried on GPUs.
    """
    hosts, backend = [node.address for node in group.nodes], "gloo"
    text = ""
    if all(found.gpus.devices for found in facts):
        free, there = (resources().get("GPU", 0) for resources in (ray.available_resources, ray.cluster_resources))
        backend, text = ("nccl", "") if free == there else ("gloo", " (NCCL is not tried: GPUs are in use)")
    store = results([group.actors[0].open_store.remote(host)], SUM_SEC)
    if failed := failures(hosts[:1], store):
        return Finding("problem", "all-reduce", failed, "let the nodes reach each other on all ports")
    num = len(hosts)
    tasks = [actor.all_reduce.remote(backend, store[0], rank, num) for rank, actor in enumerate(group.actors)]
    times = results(tasks, 2 * SUM_SEC)
    if failed := failures(hosts, times):
        way_out = "name the network between the nodes in cluster.interface, or see NCCL_DEBUG=INFO"
        return Finding("problem", "all-reduce", f"{backend}: {failed}", way_out)
    speed = SUMMED_BYTES / 1e9 / max(times)
    return Finding("OK", "all-reduce", f"{gib(SUMMED_BYTES)} over {num} nodes with {backend}: {speed:.2f} GB/s{text}")


def failures(hosts: Sequence[str], found: Sequence[Any]) -> str:
    """What failed where, empty where nothing did."""
    return "; ".join(f"{host} {text}" for host, text in zip(hosts, found, strict=True) if isinstance(text, Failure))
