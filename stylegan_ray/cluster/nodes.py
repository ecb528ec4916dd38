"""What the nodes of a cluster have: code, storage, data, memory, network; found out by tasks pinned to them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import ray

from stylegan_ray.cluster.pinned import call_on_nodes
from stylegan_ray.config import DataConfig
from stylegan_ray.data import BadImage, openmoji
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.machine.memory import shared_memory
from stylegan_ray.machine.network import interfaces
from stylegan_ray.machine.software import software
from stylegan_ray.storage import Storage, one_line

MARKER = ".driver"
"""A file in the run's folder during the preflight, by which nodes find out whether they see the same folder."""
MOST_IMAGE_TRIES = 20


@dataclass(frozen=True)
class Node:
    """A node that is alive, as Ray knows it."""

    id: str
    address: str
    resources: dict[str, float]

    def workers(self, cpus: float, gpus: int) -> int:
        """Number of workers that fit."""
        by_cpu = int(self.resources.get("CPU", 0) // cpus)
        return min(by_cpu, int(self.resources.get("GPU", 0) // gpus)) if gpus else by_cpu


@dataclass(frozen=True)
class Probe:
    """What is looked for on a node."""

    run_address: str
    data: DataConfig
    image: int | None
    """An image of the data set to read; None where none can be read."""


class Missing(str):
    """What a node lacks, in words."""


@dataclass(frozen=True)
class Findings:
    """What a node has."""

    software: dict[str, str]
    marker: str
    write: Missing | None
    """Why it cannot write into the run's folder; None where it can."""
    image: str
    shared_memory: int | None
    """Bytes of /dev/shm; None where there is none."""
    interfaces: dict[str, str]


def alive_nodes() -> list[Node]:
    """The nodes of the cluster, this one first."""
    nodes = [Node(n["NodeID"], n["NodeManagerAddress"], n["Resources"]) for n in ray.nodes() if n["Alive"]]
    return sorted(nodes, key=lambda node: (node.id != this_node(), node.address))


def this_node() -> str:
    """The id of the node of this process."""
    return ray.get_runtime_context().get_node_id()


def findings_on(nodes: Sequence[Node], probe: Probe, dataset: Dataset, timeout_sec: float) -> dict[str, Findings | str]:
    """The findings of each node by its id; text where it has none."""
    inputs = ray.put((probe, dataset))
    found = call_on_nodes([(node.id, _findings, (inputs,)) for node in nodes], timeout_sec, max_retries=2)
    return {node.id: answer for node, answer in zip(nodes, found, strict=True)}


def _findings(inputs: tuple[Probe, Dataset]) -> Findings:
    return findings(*inputs)


def findings(probe: Probe, dataset: Dataset) -> Findings:
    """The findings of this node."""
    storage = Storage.at(probe.run_address)
    return Findings(
        software=software(),
        marker=read_marker(storage),
        write=try_to_write(storage),
        image=read_image(probe, dataset),
        shared_memory=shared_memory(),
        interfaces=interfaces(),
    )


def read_marker(storage: Storage) -> str:
    """The content of the driver's marker."""
    try:
        return storage.read(MARKER).decode()
    except FileNotFoundError:
        return Missing("no file of the driver there")
    except (OSError, ValueError) as error:
        return Missing(f"no way to read there: {one_line(error)}")


def try_to_write(storage: Storage) -> Missing | None:
    """Why this node cannot write into the run's folder; None where it can."""
    name = f"{MARKER}-{platform.node()}-{os.getpid()}"
    try:
        storage.write(name, b"")
        storage.delete(name)
    except (OSError, ValueError) as error:
        return Missing(f"no way to write there: {one_line(error)}")
    return None


def read_image(probe: Probe, dataset: Dataset) -> str:
    """A checksum of the pixels of the probe's image, as this node reads them."""
    if probe.image is None:
        return ""
    try:
        if probe.data.path in (None, openmoji.NAME):
            openmoji.prepare(probe.data)  # each node renders its own
        pixels = dataset.images.read(probe.image, dataset.names[probe.image], 0)
        return hashlib.sha256(pixels.tobytes()).hexdigest()
    except (OSError, ValueError) as error:
        return Missing(f"no way to read it: {one_line(error)}")


def readable_image(dataset: Dataset) -> int | None:
    """The entry of the first image that can be read on this node, the same in every subset of the data set."""
    for index in range(min(dataset.num_images, MOST_IMAGE_TRIES)):
        with suppress(BadImage):
            dataset.read(index)
            return int(dataset.rows[index])
    return None
