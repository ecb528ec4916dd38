"""Checkpoints: folders of tensors and JSON, complete once COMPLETE with their checksums is written."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from stylegan_ray.config import FORMAT_VERSION, RunConfig, validated
from stylegan_ray.run_folder import COMPLETE, CONFIG, COUNTERS, STATE, checkpoint_name, complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.state import TrainState

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a TrainState on the CPU, which training does not change."""

    tensors: dict[str, Tensor]
    counters: dict[str, Any]
    config_yaml: str

    @classmethod
    def of(cls, state: TrainState, cfg: RunConfig) -> Snapshot:
        """Copies the state, the only part of writing a checkpoint that training waits for."""
        tensors = state.tensors()
        copies = {
            name: torch.empty_like(value, device="cpu", pin_memory=value.is_cuda) for name, value in tensors.items()
        }
        for name, value in tensors.items():
            copies[name].copy_(value, non_blocking=True)
        if state.device.type == "cuda":
            torch.cuda.synchronize()
        return cls(copies, state.counters(), cfg.to_yaml())

    @property
    def name(self) -> str:
        return checkpoint_name(self.counters["cur_nimg"])

    def files(self) -> dict[str, bytes]:
        """The files of the checkpoint, without COMPLETE."""
        contiguous = {name: value.contiguous() for name, value in self.tensors.items()}
        return {
            STATE: safetensors.torch.save(contiguous),
            COUNTERS: json.dumps(self.counters, indent=1).encode(),
            CONFIG: self.config_yaml.encode(),
        }

    def restore(self, state: TrainState) -> None:
        """Restores the state to that of the snapshot."""
        state.load(self.tensors, self.counters)

    def is_finite(self) -> bool:
        """Whether all weights and moments are finite."""
        return all(bool(value.isfinite().all()) for value in self.tensors.values() if value.is_floating_point())

    def config(self) -> RunConfig:
        return validated(yaml.safe_load(self.config_yaml))


def write_checkpoint(snapshot: Snapshot, checkpoints: Storage) -> str:
    """Writes a checkpoint into the folder of checkpoints, COMPLETE last; returns its name."""
    folder, files = checkpoints.folder(snapshot.name), snapshot.files()
    sums = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in files.items()
    }
    if _holds(folder, sums):
        return snapshot.name
    delete_checkpoint(checkpoints, snapshot.name)  # left over from a run that died while writing it
    for name, content in files.items():
        folder.write(name, content)
    folder.write(COMPLETE, json.dumps({"format_version": FORMAT_VERSION, "files": sums}, indent=1).encode())
    return snapshot.name


def _holds(folder: Storage, sums: Mapping[str, Any]) -> bool:
    """Whether the folder holds a complete checkpoint of the same tensors, which then is not rewritten."""
    try:
        there = json.loads(folder.read(COMPLETE))["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    return there.get(STATE) == sums[STATE]


def read_checkpoint(folder: Storage) -> Snapshot:
    """Reads and verifies one checkpoint; raises CheckpointError when it is incomplete or damaged.

    One of another format is not damaged: it raises ValueError, since older ones cannot be read either.
    """
    try:
        complete = json.loads(folder.read(COMPLETE))
        version, files = complete["format_version"], complete["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"checkpoint {folder.path()} is not complete: no valid {COMPLETE} file") from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {folder.path()} has format {version} and this version reads {FORMAT_VERSION}; continue the "
            f"run with the version that wrote it"
        )
    contents = {name: _verified(folder, name, expected) for name, expected in files.items()}
    tensors = safetensors.torch.load(contents[STATE])
    return Snapshot(tensors, json.loads(contents[COUNTERS]), contents[CONFIG].decode())


def _verified(folder: Storage, name: str, expected: Mapping[str, Any]) -> bytes:
    try:
        content = folder.read(name)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint file {folder.path(name)} is missing") from None
    if len(content) != expected["bytes"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise CheckpointError(
            f"checkpoint file {folder.path(name)} is damaged: {len(content)} bytes that do not match its checksum "
            f"({expected['bytes']} bytes were written)"
        )
    return content


def newest_checkpoint(checkpoints: Storage, usable: Callable[[Snapshot], bool] = lambda _: True) -> Snapshot | None:
    """The newest checkpoint that is complete and undamaged, or None without any; logs damaged ones.

    Raises CheckpointError when all are damaged: whether to start over is for the user to decide.
    """
    damaged: list[str] = []
    for name in reversed(complete_checkpoints(checkpoints)):
        try:
            snapshot = read_checkpoint(checkpoints.folder(name))
            if not usable(snapshot):
                raise CheckpointError(f"checkpoint {checkpoints.path(name)} holds NaN or infinite weights")
        except CheckpointError as error:
            damaged.append(name)
            log.warning("fault: %s; trying the checkpoint before it", error)
            continue
        for later in damaged:  # else they would count as checkpoints to keep
            delete_checkpoint(checkpoints, later)
        return snapshot
    if damaged:
        raise CheckpointError(
            f"all checkpoints in {checkpoints.path()} are damaged ({', '.join(damaged)}); restore a good "
            f"copy of one, or start a new run with another --run.name"
        )
    return None


def delete_checkpoint(checkpoints: Storage, name: str) -> None:
    """Deletes a checkpoint, COMPLETE first, so that a part of it is never read as complete."""
    checkpoints.delete(f"{name}/{COMPLETE}")
    checkpoints.delete_folder(name)


def delete_old_checkpoints(checkpoints: Storage, keep: int) -> None:
    """Deletes complete checkpoints but the newest `keep`; incomplete ones, which may be being written, stay."""
    for name in complete_checkpoints(checkpoints)[:-keep]:
        delete_checkpoint(checkpoints, name)
