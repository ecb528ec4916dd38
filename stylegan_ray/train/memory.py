"""Peak memory of a training by analysis: phases run on tensors without memory, and the bytes of live ones count."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylegan_ray.augment import check_augmentable
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.machine.memory import machine_bytes
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.ops import forced
from stylegan_ray.rng import Place, SeededDraws, Shape
from stylegan_ray.train.schedule import Schedule, growing_stages, places_of_rank, training_schedule
from stylegan_ray.train.state import Batch, TrainState, freeze
from stylegan_ray.train.step import accumulate, phases_of

META = torch.device("meta")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations inside have made and that still live, and their most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.storages: dict[int, Any] = {}
        """Weak references to what is counted, by address."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.count(leaf.untyped_storage())
        return out

    def count(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage until it is freed, once."""
        key, size = id(storage), storage.nbytes()
        if key not in self.storages:
            self.storages[key] = weakref.ref(storage, lambda _: self.forget(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def forget(self, key: int, size: int) -> None:
        """Takes note that a storage is freed."""
        del self.storages[key]
        self.live -= size

    def peak_of(self, work: Callable[[], object]) -> int:
        """The most bytes alive during a piece of work, those from before included."""
        self.peak = self.live
        work()
        return self.peak


class WithoutValues(SeededDraws):
    """Draws of which those that are made on the device have shapes only."""

    def noise(
        self, purpose: str, place: Place, shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype
    ) -> list[Tensor]:
        return [torch.empty(shape, device=device, dtype=dtype) for shape in shapes]

    def pl_noise(self, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    def augment_noise(
        self, purpose: str, place: Place, shape: Shape, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        return torch.empty(shape, device=device, dtype=dtype)

    def fake_labels(self, purpose: str, place: Place, num: int, label_size: int) -> Tensor:
        return torch.zeros(num, label_size)


@dataclass(frozen=True)
class Subject:
    """What is trained: a configuration without open choices, and the shape of its data."""

    cfg: RunConfig
    resolution: tuple[int, int]
    """Height and width."""
    num_channels: int = 3
    label_size: int = 0

    def state(self) -> TrainState:
        """A state without memory, its optimizers with moments."""
        state = TrainState.around(self.cfg, *self.networks(), META)
        for optimizer in state.optimizers.values():
            optimizer.load(optimizer.tensors(), num_steps=1)
        if self.cfg.augment.mode == "ada":
            state.augment_p = 1.0  # it begins at 0, where nothing is augmented
        return state

    def networks(self) -> tuple[Any, Any]:
        """G and D without memory."""
        shape = (self.resolution, self.num_channels, self.label_size)
        with META:
            return build_generator(self.cfg.model, *shape), build_discriminator(self.cfg.model, *shape)

    def check(self) -> None:
        """Raises ConfigError where such networks cannot be built, or images of this size not be augmented."""
        try:
            check_augmentable(self.cfg.augment, self.resolution)
            freeze(self.networks()[1], self.cfg.train.freeze_D)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def batches(self, state: TrainState, schedule: Schedule) -> list[Batch]:
        """The micro-batches of a worker where there are fewest workers."""
        num, (height, width) = schedule.minibatch_gpu, (side >> schedule.level for side in self.resolution)
        images = torch.empty(num, self.num_channels, height, width, dtype=torch.uint8, device=META)
        draws, labels = WithoutValues(self.cfg.run.seed), torch.zeros(num, self.label_size)
        places = places_of_rank(0, schedule, 0, self.cfg.cluster.fewest_workers)
        return [Batch(state, self.cfg, schedule, draws, place, images.clone(), labels) for place in places]


def peak_bytes(subject: Subject, device: str = "cpu") -> dict[str, int]:
    """Bytes of all tensors of a worker, at most, by phase: `G`, `G_reg`, `D`, `D_reg`; and of the `state` between them.

    For growing networks at the resolution that needs most. Nothing is allocated. `device` is `cpu` or `cuda`.
    """
    cfg = subject.cfg
    with forced("as_on_gpus") if device == "cuda" else nullcontext(), LiveBytes() as count:
        state = subject.state()
        peaks = {"state": count.live}
        for schedule in schedules(cfg, math.log2(max(subject.resolution))):
            batch, *_waiting = subject.batches(state, schedule)
            for phase in (phase for network in ("G", "D") for phase in phases_of(cfg, network, schedule)):
                peak = count.peak_of(partial(accumulate, phase, state, batch))
                peaks[phase.part] = max(peak, peaks.get(phase.part, 0))
    return peaks


def checkpoint_bytes(subject: Subject) -> int:
    """Bytes of the tensors of a checkpoint."""
    return sum(value.nbytes for value in subject.state().tensors().values())


def schedules(cfg: RunConfig, resolution_log2: float) -> list[Schedule]:
    """The schedules that may need most memory: that of the end, and for networks that grow one in each transition."""
    sched, last = cfg.schedule, cfg.train.total_kimg
    if sched.lod_initial_resolution is None:
        return [training_schedule(cfg, round(last * 1000), resolution_log2)]
    points = {min((fade + end) / 2, last) for _, fade, end in growing_stages(cfg, resolution_log2)}
    return [training_schedule(cfg, round(kimg * 1000), resolution_log2) for kimg in sorted(points)]


PROCESS_BYTES = 110 << 20
"""What a process on a CPU needs beside tensors once it has trained: code, and programs that oneDNN makes."""
ALLOCATED = 1.2
"""Memory of a process for each byte of its tensors: freed blocks that the allocator keeps, and buffers of kernels."""
FOR_WORKERS = {"cpu": 0.5, "cuda": 0.9}
"""Share of a device's memory for workers. Ray's object store takes a third of a machine."""


def growth(tensor_bytes: int) -> int:
    """By how many bytes a process grows that has tensors of so many bytes, on a CPU."""
    return round(PROCESS_BYTES + ALLOCATED * tensor_bytes)


def peak(cfg: RunConfig, resolution: tuple[int, int], device: str) -> int:
    """Bytes that a worker needs on its device, at most."""
    tensors = max(peak_bytes(Subject(cfg, resolution), device).values())
    return growth(tensors) if device == "cpu" else tensors


def largest_that_fits(cfg: RunConfig, resolution: tuple[int, int], parts: Sequence[int], room: int) -> tuple[int, int]:
    """The first of some sizes of a micro-batch with which a worker fits into so many bytes, or the last one.

    With the bytes that a worker needs then. `parts` begins with the largest size.
    """
    device, needed = device_of(cfg), 0
    for part in parts:
        keys = {"schedule.minibatch_gpu": part, "schedule.minibatch_size": part * cfg.cluster.most_workers}
        needed = peak(cfg.with_overrides(keys), resolution, device)
        if needed <= room:
            break
    return part, needed


def device_of(cfg: RunConfig) -> str:
    """Where this machine's workers train: `cuda` where it has a GPU that they may use, else `cpu`."""
    return "cuda" if cfg.cluster.gpus_per_worker != 0 and torch.cuda.is_available() else "cpu"


def bytes_of_worker(cfg: RunConfig) -> int:
    """Memory that a worker may need: cluster.memory_gb, or its share of this machine's GPU or memory."""
    if cfg.cluster.memory_gb is not None:
        return round(cfg.cluster.memory_gb * 2**30)
    device = device_of(cfg)
    if device == "cuda":
        return round(FOR_WORKERS[device] * torch.cuda.get_device_properties(0).total_memory)
    return round(FOR_WORKERS[device] * machine_bytes()) // cfg.cluster.most_workers
