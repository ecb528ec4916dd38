"""CPU cores and the instructions that speed up training on them."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from stylegan_ray.cores import num_cores
from stylegan_ray.machine import cgroups

CPU_INFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "AMX": ("amx_tile",),
    "SVE": ("sve",),
}
"""Names of instructions, and the flags of Linux any of which stands for them."""


@dataclass(frozen=True)
class Processor:
    """The processor of a machine, and how much of it this process may use."""

    model: str
    cores: int
    usable: int
    """Cores on which the system lets this process run; Ray counts them as its CPUs."""
    limit: float | None
    """Cores whose time a container or batch job may use in all; None without a limit."""
    instructions: tuple[str, ...]


def processor() -> Processor:
    """The processor of this machine."""
    return Processor(
        model=_field("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        usable=num_cores(),
        limit=cgroups.cpu_limit(),
        instructions=instructions((_field("flags") or _field("Features")).split()),
    )


def instructions(flags: list[str]) -> tuple[str, ...]:
    """The instructions that a processor with these flags has."""
    return tuple(name for name, any_of in INSTRUCTIONS.items() if any(flag in flags for flag in any_of))


def _field(name: str) -> str:
    """A field of the first core, empty where the system does not tell."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
