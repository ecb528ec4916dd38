"""What every benchmark writes: raw figures, the bars they are held to, and where they were taken."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from stylegan_ray.cores import num_cores
from stylegan_ray.table import format_table

PACKAGES = ("stylegan-ray", "torch", "ray", "numpy", "pillow", "pyarrow")


def at_least(name: str, value: float, bar: float) -> dict[str, Any]:
    """A bar that the value must reach."""
    return {"name": f"{name}, at least", "value": value, "bar": bar, "holds": bool(value >= bar)}


def at_most(name: str, value: float | str, bar: float) -> dict[str, Any]:
    """A bar that the value must not pass; a word in its place, such as "not reached", does not hold."""
    holds = not isinstance(value, str) and bool(value <= bar)
    return {"name": f"{name}, at most", "value": value, "bar": bar, "holds": holds}


def circumstances(name: str, command: str) -> dict[str, Any]:
    """The head of a result; ask before measuring, so that the load is that of the others."""
    return {"name": name, "machine": machine(), "versions": versions(), "commit": commit(), "command": command}


def machine() -> dict[str, Any]:
    """The computer, and how busy it was."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": num_cores(),
        "memory_gb": round(memory / 2**30, 1),
        "gpu": gpu_model(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """The processor by name, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_model() -> str | None:
    """The first GPU by name."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that count; null for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def commit() -> str | None:
    """The commit that this package is at, with a + when tracked files differ from it; null outside a repository."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *words], cwd=here, check=True, capture_output=True, text=True).stdout.strip()


def table(result: Mapping[str, Any]) -> str:
    """Figures and bars for people to read."""
    rows = [(key, _shown(value)) for key, value in _flat(result["figures"])]
    rows += [(bar["name"], f"{_shown(bar['bar'])}: {_held(bar)} with {_shown(bar['value'])}") for bar in result["bars"]]
    return format_table(rows, head=False)


def _held(bar: Mapping[str, Any]) -> str:
    return "holds" if bar["holds"] else "MISSED"


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    """A number in four digits; of several ones their median and range; what is longer stands in the JSON alone."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and value and all(isinstance(v, float) for v in value):
        return f"{_shown(median(value))}  ({_shown(min(value))} to {_shown(max(value))})"
    if isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value):
        return f"{len(value)} in the JSON"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
