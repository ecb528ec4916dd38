"""What a run says of its origin: its command without secrets, and its data."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylegan_ray.credentials import host_of, without_credentials
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.machine.software import code_checksum, version_of
from stylegan_ray.train.source import Source, source_entry

if TYPE_CHECKING:
    from stylegan_ray.cluster.resources import Share


def provenance(name: str | None, command: str, data: Dataset, source: Source | None, share: Share) -> dict[str, Any]:
    """The content of run.json: versions, host, command, and where data and first networks are from."""
    packages = ("stylegan-ray", "torch", "ray", "numpy", "pillow", "pyarrow")
    return {
        "name": name,
        "command": command,
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in packages} | {"stylegan_ray": code_checksum()},
        "workers": share.describe(),
        "resume_from": source.given if source else None,
        "source": source_entry(source),
        "ended": None,
        "data": data_entry(data),
    }


def data_entry(data: Dataset) -> dict[str, Any]:
    """What run.json says of the data."""
    return {
        "path": data.path,
        "fingerprint": data.fingerprint,
        "num_images": data.num_images,
        "resolution": list(data.resolution),
        "num_channels": data.num_channels,
        "label_size": data.label_size,
        "class_names": data.class_names,
        "attribution": data.attribution,
    }


def without_hooks(words: Sequence[str]) -> list[str]:
    """The words of a command in which report.notify has its host only, or null where it has none."""
    found, key = [], re.compile(r"--report\.notify", re.IGNORECASE)
    for before, word in zip(["", *words], words, strict=False):
        if key.fullmatch(before):
            word = host_of(word) or "null"
        elif (match := key.match(word)) and word[match.end() :].startswith("="):
            word = f"{match[0]}={host_of(word[match.end() + 1 :]) or 'null'}"
        found.append(word)
    return found


def command_line() -> str:
    """The command line of this process, without credentials."""
    program, *words = map(without_credentials, without_hooks(sys.argv))
    if os.path.realpath(program) == str(Path(__file__).resolve().parents[1] / "cli.py"):
        return shlex.join(["python", "-m", "stylegan_ray.cli", *words])
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *words])
