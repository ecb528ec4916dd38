"""Where runs are: their storage, finding one by name, and asking one to stop."""

from __future__ import annotations

import os
from collections.abc import Mapping

from stylegan_ray.config import ConfigError, nearest
from stylegan_ray.storage import Storage, join_address

DEFAULT_STORAGE = "~/stylegan_ray/runs"
STOP = "STOP"
"""A run that finds a file of this name in its folder saves and stops."""


def storage_address(configured: str | None = None) -> str:
    """Where runs are kept: as configured (run.storage), else $STYLEGAN_RAY_STORAGE, else ~/stylegan_ray/runs."""
    address = configured or os.environ.get("STYLEGAN_RAY_STORAGE") or DEFAULT_STORAGE
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def refuse_relative(given: Mapping[str, str | None]) -> None:
    """Raises ConfigError for a relative path inside a submitted job, whose working directory vanishes with the job."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    for key, path in given.items():
        if path and path != "openmoji" and "://" not in path and not os.path.isabs(os.path.expanduser(path)):
            raise ConfigError(
                f"{key}={path!r} is relative, and a submitted job's working directory vanishes with it; "
                f"give an absolute path that every node sees, or an s3:// or gs:// address"
            )


def is_run(address: str) -> bool:
    """Whether a folder is that of a run."""
    try:
        return Storage.at(address).exists("config.yaml")
    except (ValueError, OSError):
        return False


def find_run(run: str, storage: str | None = None) -> str:
    """The address of a run, given as an address or by its name in the storage; raises ConfigError."""
    base = storage_address(storage)
    for address in (run, join_address(base, run)):
        if is_run(address):
            return address.rstrip("/") if "://" in address else os.path.abspath(os.path.expanduser(address))
    try:
        known = [name for name in Storage.at(base).names() if is_run(join_address(base, name))]
    except (ValueError, OSError) as error:
        raise ConfigError(f"no run {run!r}, and the storage {base} cannot be read: {error}") from error
    known_runs = f"; runs there: {', '.join(known[:10])}{', ...' if known[10:] else ''}" if known else ""
    raise ConfigError(f"no run {run!r}, neither as a folder nor by name in {base}{nearest(run, known) or known_runs}")


def ask_to_stop(run: str, storage: str | None = None) -> str:
    """Writes the STOP file of a run; returns what to tell the person who asked."""
    address = find_run(run, storage)
    Storage.at(address).write(STOP, b"")
    return (
        f"Asked {address} to stop. It saves its state after the minibatches it is at and ends;\n"
        f"the command that started it continues it."
    )
