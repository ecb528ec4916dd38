"""What is checked before a worker starts: that every node has the same code, data and storage, and enough memory.

The stream of reals needs no free CPU: its tasks ask for none (see reals.py). Whether the workers reach each other is
checked each time that they start (see process_group.py).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from stylegan_ray.cluster.nodes import (
    MARKER,
    Findings,
    Missing,
    Node,
    Probe,
    alive_nodes,
    findings,
    findings_on,
    readable_image,
    this_node,
)
from stylegan_ray.cluster.resources import Say, Share
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.storage import Storage

TIMEOUT_SEC = 180.0
"""How long a node may take to start a process, unpack the files of the job and answer."""


@dataclass(frozen=True)
class Clearance:
    """What the driver's node has, which every other one must have too, and the nodes that have been checked."""

    cfg: RunConfig
    probe: Probe
    expected: Findings
    nodes: frozenset[str]
    placement: str = "inline"
    """Where metrics are computed: inline or async."""

    def check_here(self, dataset: Dataset) -> None:
        """Checks the node of a worker if it has joined after the preflight; raises ConfigError."""
        if this_node() not in self.nodes:
            (node,) = (node for node in alive_nodes() if node.id == this_node())
            refuse(problems(node, findings(self.probe, dataset), self))


@contextmanager
def checked_nodes(cfg: RunConfig, dataset: Dataset, address: str, share: Share, say: Say) -> Iterator[Clearance]:
    """Checks all nodes; raises ConfigError with a line for everything that is wrong. Workers start inside."""
    storage, token = Storage.at(address), uuid.uuid4().hex
    storage.write(MARKER, token.encode())
    try:
        nodes = alive_nodes()
        probe = Probe(address, cfg.data, readable_image(dataset))
        placement = placement_of_metrics(cfg, share, nodes, say)
        known = frozenset(node.id for node in nodes)
        clearance = Clearance(cfg, probe, findings(probe, dataset), known, placement)
        found: dict[str, Findings | str] = {this_node(): clearance.expected}
        if len(nodes) > 1:
            found |= findings_on(nodes[1:], probe, dataset, TIMEOUT_SEC)
        refuse([text for node in nodes for text in problems(node, found[node.id], clearance)])
        check_memory(cfg, dataset, share, nodes, say)
        for node in nodes:
            check_shared_memory(node, found[node.id], say)
        yield clearance
    finally:
        with suppress(OSError):
            storage.delete(MARKER)


def refuse(problems: Sequence[str]) -> None:
    """Raises ConfigError when there are problems."""
    if problems:
        raise ConfigError(*problems)


def problems(node: Node, found: Findings | str, clearance: Clearance) -> list[str]:
    """What is wrong with a node, one line each."""
    where, expected, run = f"node {node.address}", clearance.expected, clearance.cfg.run
    if isinstance(found, str):
        return [f"{where} {found}; see `ray status` and the logs on that node. Restart Ray there, or remove the node"]
    lines = [
        f"{where} has {name} {found.software.get(name)} where the driver has {version}: every node needs the same; "
        f"submit with `ray job submit --working-dir .`, or install the same on {node.address}"
        for name, version in expected.software.items()
        if found.software.get(name) != version
    ]
    shared = "put it where every node sees the same: a network file system, or an s3:// or gs:// address"
    if found.marker != expected.marker:
        what = found.marker if isinstance(found.marker, Missing) else "another folder of the same name there"
        lines.append(f"run.storage={run.storage}: {where} does not see the run's folder ({what}); {shared}")
    elif found.write is not None:
        lines.append(f"run.storage={run.storage}: {where} cannot keep the run ({found.write}); give it the rights to")
    if found.image != expected.image:
        what = found.image if isinstance(found.image, Missing) else "an image has other pixels there"
        lines.append(f"data.path={clearance.cfg.data.path}: {where} does not see the data ({what}); {shared}")
    return lines + missing_interfaces(where, found, clearance.cfg.cluster.interface)


def missing_interfaces(where: str, found: Findings, interface: str | None) -> list[str]:
    """A line when a node lacks the network interface of cluster.interface."""
    missing = [name for name in (interface or "").split(",") if name and name not in found.interfaces]
    if not missing:
        return []
    there = ", ".join(f"{name} ({address})" for name, address in found.interfaces.items()) or "none with an address"
    return [
        f"cluster.interface={interface}: {where} has no {missing[0]}, but {there}; name one that every node has, or "
        f"leave it out, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME where Ray is started on each node"
    ]


def check_memory(cfg: RunConfig, dataset: Dataset, share: Share, nodes: Sequence[Node], say: Say) -> None:
    """Compares the images decoded ahead with the object store of each node that workers fit on."""
    group = group_bytes(cfg, dataset)
    for node in nodes:
        workers = min(node.workers(share.cpus, share.gpus), cfg.cluster.most_workers)
        if workers:
            check_object_store(cfg, node, group * workers // max(workers, cfg.cluster.fewest_workers), say)


def placement_of_metrics(cfg: RunConfig, share: Share, nodes: Sequence[Node], say: Say) -> str:
    """Where metrics are computed: on a device that the workers leave free (async), or by the workers (inline)."""
    wanted, most = cfg.metrics.placement, cfg.cluster.most_workers
    if wanted == "inline" or not cfg.metrics.names:
        return "inline"
    kind, used = ("GPU", most * share.gpus) if share.gpus else ("CPU", most * share.cpus)
    if sum(node.resources.get(kind, 0) for node in nodes) - used >= 1:
        say(f"Metrics are computed beside the training: a {kind} is free")
        return "async"
    if wanted == "async":
        raise ConfigError(
            f"metrics.placement=async: {most} workers leave no {kind} free; use inline, or give them less: "
            f"cluster.num_workers, cluster.{kind.lower()}s_per_worker"
        )
    return "inline"


def group_bytes(cfg: RunConfig, dataset: Dataset) -> int:
    """Bytes of the decoded images of one group of minibatches, the unit in which the stream reads ahead."""
    schedule = cfg.schedule
    size = schedule.minibatch_size_dict.get(max(dataset.resolution), schedule.minibatch_size)
    return size * schedule.minibatch_repeats * math.prod(dataset.shape())


def check_object_store(cfg: RunConfig, node: Node, group: int, say: Say) -> None:
    """Compares the images decoded ahead on a node with its object store."""
    store, ahead = node.resources.get("object_store_memory", 0), cfg.cluster.read_ahead
    way_out = "start Ray there with a larger --object-store-memory (and /dev/shm), or use a smaller"
    if group > store:
        raise ConfigError(
            f"schedule.minibatch_repeats={cfg.schedule.minibatch_repeats}: the images of one group of minibatches "
            f"take {mib(group)} on node {node.address}, and its object store has {mib(store)}; {way_out} "
            f"schedule.minibatch_repeats or schedule.minibatch_size"
        )
    if group * (ahead + 1) > store:
        say(
            f"warning: cluster.read_ahead={ahead} takes {mib(group * ahead)} on node {node.address}, and its object "
            f"store has {mib(store)}, so images will be written to disk and read again; {way_out} "
            f"cluster.read_ahead"
        )


def check_shared_memory(node: Node, found: Findings | str, say: Say) -> None:
    """Warns where the object store is on disk, as in containers with their default /dev/shm of 64 MiB."""
    assert isinstance(found, Findings)
    shm, store = found.shared_memory, node.resources.get("object_store_memory", 0)
    if shm is not None and shm < store:
        say(
            f"warning: the object store of node {node.address} ({mib(store)}) is larger than its /dev/shm "
            f"({mib(shm)}), so Ray keeps it on disk, which is slow; give containers more: docker run --shm-size "
            f"(docker.run_options in cluster.yaml), or a memory volume (rayjob.yaml)"
        )


def mib(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
