"""The files of a checkpoint: COMPLETE, written last, states sizes and checksums, and all are verified when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from stylegan_ray.config import FORMAT_VERSION, ConfigError
from stylegan_ray.run_folder import COMPLETE, CONFIG, COUNTERS, STATE
from stylegan_ray.storage import Storage
from stylegan_ray.untrusted import CONFIG_BYTES, BadFileError, printable
from stylegan_ray.untrusted_text import parse_json

CHECKPOINT_BYTES = 16 << 30
"""Largest STATE of a checkpoint; that of StyleGAN2 at 1024 pixels takes 0.7 GB in float32."""


class CheckpointError(BadFileError):
    """A checkpoint is missing, incomplete or damaged."""


def completion(files: Mapping[str, bytes | memoryview]) -> bytes:
    """The content of COMPLETE for the files of a checkpoint."""
    sums = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()
    }
    return json.dumps({"format_version": FORMAT_VERSION, "files": sums}, indent=1).encode()


def read_complete(folder: Storage) -> dict[str, bytes]:
    """The contents of STATE, COUNTERS and CONFIG of a checkpoint, which are those that COMPLETE promises.

    Sizes are compared before a file is read, then checksums. Raises CheckpointError where one is missing or damaged,
    and ConfigError for a checkpoint of another format, since older ones cannot be read either.
    """
    promised = _promised(folder)
    return {name: _verified(folder, name, *promised[name]) for name in (STATE, COUNTERS, CONFIG)}


def _promised(folder: Storage) -> dict[str, tuple[int, str]]:
    """Size and sha256 of the files of a checkpoint, as COMPLETE states them."""
    where = f"checkpoint {printable(folder.path(), 500)}"
    try:
        content = parse_json(folder.read(COMPLETE, CONFIG_BYTES), COMPLETE)
        version, files = content["format_version"], content["files"]
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"{where} has format {printable(version, 20)} and this version reads {FORMAT_VERSION}; continue the "
                "run with the version that wrote it"
            )
        if {*files} != {STATE, COUNTERS, CONFIG}:
            raise BadFileError(f"it names {printable(sorted(files), 100)}, not {STATE}, {COUNTERS} and {CONFIG}")
        promised = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
        if not all(type(size) is int and isinstance(checksum, str) for size, checksum in promised.values()):
            raise BadFileError("its sizes and checksums are not integers and text")
        return promised
    except (FileNotFoundError, BadFileError, KeyError, TypeError, AttributeError) as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" ({printable(error)})"
        raise CheckpointError(f"{where} is not complete: no valid {COMPLETE} file{reason}") from None


def _verified(folder: Storage, name: str, size: int, checksum: str) -> bytes:
    where = f"checkpoint file {printable(folder.path(name), 500)}"
    most = CHECKPOINT_BYTES if name == STATE else CONFIG_BYTES
    try:
        there = folder.size(name)
        content = folder.read(name, most) if there in (None, size) else None
    except FileNotFoundError:
        raise CheckpointError(f"{where} is missing") from None
    except BadFileError as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from None
    if content is None or len(content) != size or hashlib.sha256(content).hexdigest() != checksum:
        found = there if content is None else len(content)
        raise CheckpointError(
            f"{where} is damaged: {found} bytes that do not match its checksum ({size} bytes were written)"
        )
    return content
