"""What is found out about a machine within seconds, without Ray."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

from stylegan_ray.machine.disks import Disk, temporary_folder, try_storage
from stylegan_ray.machine.gpus import Gpus, gpus
from stylegan_ray.machine.memory import available_bytes, machine_bytes, shared_memory
from stylegan_ray.machine.network import interfaces, taken_ports
from stylegan_ray.machine.processor import Processor, processor
from stylegan_ray.machine.software import OWN, extras, software, unmet, version_of

STORAGE_SEC = 10.0
"""How long a storage may take; to measure a slow one takes half as long."""
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


@dataclass(frozen=True)
class Token:
    """What Ray's token authentication would use; never the token."""

    mode: str | None
    """RAY_AUTH_MODE."""
    source: str | None
    """Where a token is."""
    is_private: bool = True
    """Whether other users of this machine can neither read its file nor reach it."""


@dataclass(frozen=True)
class Facts:
    """A machine as a training would find it."""

    host: str
    system: str
    package: str
    python: str
    software: dict[str, str]
    unmet: list[str]
    extras: dict[str, bool]
    processor: Processor
    gpus: Gpus
    memory: int
    memory_available: int | None
    shared_memory: int | None
    open_files: int
    """Files that a process may have open."""
    interfaces: dict[str, str]
    taken_ports: dict[int, str]
    token: Token
    storage: Disk
    temporary: Disk
    in_container: bool


def gather(storage: str, with_gpus: bool = True) -> Facts:
    """The facts of this machine; `storage` is where runs are stored. With GPUs, they are tried."""
    stored = try_storage(storage, STORAGE_SEC)  # while the rest is looked up
    return Facts(
        host=platform.node(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        package=version_of(OWN),
        python=platform.python_version(),
        software=software(),
        unmet=unmet(),
        extras=extras(),
        processor=processor(),
        gpus=gpus(with_gpus),
        memory=machine_bytes(),
        memory_available=available_bytes(),
        shared_memory=shared_memory(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        interfaces=interfaces(),
        taken_ports=taken_ports(),
        token=token(),
        temporary=temporary_folder(),
        in_container="KUBERNETES_SERVICE_HOST" in os.environ or any(Path(mark).exists() for mark in CONTAINER_MARKS),
        storage=stored(),
    )


def token() -> Token:
    """The token of Ray's authentication, as Ray looks for it."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if "RAY_AUTH_TOKEN" in os.environ:
        return Token(mode, "RAY_AUTH_TOKEN")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    try:
        rights = os.stat(path).st_mode
    except OSError:
        return Token(mode, None)
    return Token(mode, path, not rights & 0o044 or not all(map(others_enter, Path(path).absolute().parents)))


def others_enter(folder: Path) -> bool:
    """Whether the rights of a folder let its group or all users go through it."""
    return bool(folder.stat().st_mode & 0o011)
