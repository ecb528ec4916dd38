"""The GPUs of this machine as torch sees them, and whether they can sum over NCCL.

Not tried on a machine with a GPU.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stylegan_ray.storage import one_line

NVIDIA = "0x10de"
SUMMED_BYTES = 64 << 20
ROOM = 2 << 30
"""Free memory of each GPU with which a sum is tried."""
NO_SUM = "not tried"


@dataclass(frozen=True)
class Gpu:
    name: str
    total: int
    free: int
    capability: str


@dataclass(frozen=True)
class Gpus:
    """What torch says of GPUs."""

    devices: tuple[Gpu, ...] = ()
    built_for: str | None = None
    """The version of CUDA that torch was built for; None: for CPUs only."""
    hardware: int = 0
    """NVIDIA's devices on the bus."""
    problem: str = ""
    """Why torch cannot be used, or not with the GPUs."""
    sum_gb_s: float | None = None
    """Bytes of a GPU over the time of an all-reduce of all GPUs of this machine."""
    sum_said: str = ""
    """Why there is no figure."""


def gpus(with_sum: bool = True) -> Gpus:
    """The GPUs that this process may use."""
    hardware = devices_on_bus()
    try:
        import torch
    except Exception as error:  # a broken library raises anything
        return Gpus(hardware=hardware, problem=f"torch cannot be imported: {one_line(error)}")
    built_for = torch.version.cuda or torch.version.hip
    try:
        devices = tuple(_gpu(index) for index in range(torch.cuda.device_count())) if built_for else ()
    except (RuntimeError, AssertionError) as error:
        return Gpus((), built_for, hardware, one_line(error))
    speed, said = _sum(devices) if with_sum else (None, NO_SUM)
    return Gpus(devices, built_for, hardware, "", speed, said)


def _gpu(index: int) -> Gpu:
    import torch

    about, (free, total) = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
    return Gpu(about.name, total, free, f"{about.major}.{about.minor}")


def _sum(devices: tuple[Gpu, ...]) -> tuple[float | None, str]:
    """GB/s of an all-reduce over all GPUs in this process, or why there is none."""
    if len(devices) < 2:
        return None, NO_SUM
    if min(gpu.free for gpu in devices) < ROOM:
        return None, f"{NO_SUM}: a GPU is in use"
    import torch
    from torch.cuda import nccl

    try:
        tensors = [torch.ones(SUMMED_BYTES // 4, device=f"cuda:{index}") for index in range(len(devices))]
        nccl.all_reduce(tensors)  # connects them
        _wait(len(devices))
        begin = time.perf_counter()
        nccl.all_reduce(tensors)
        _wait(len(devices))
        seconds = time.perf_counter() - begin
        expected = float(len(devices) ** 2)
        if any(bool((tensor != expected).any()) for tensor in tensors):
            return None, "the sum is wrong"
    except RuntimeError as error:
        return None, f"it failed: {one_line(error)}"
    return round(SUMMED_BYTES / 1e9 / seconds, 2), ""


def _wait(num: int) -> None:
    import torch

    for index in range(num):
        torch.cuda.synchronize(index)


def devices_on_bus() -> int:
    """NVIDIA's display devices and accelerators, whether or not their driver is loaded."""
    num = 0
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
            num += vendor == NVIDIA and kind.startswith("0x03")
    return num
