"""Checkpoints: folders of tensors and plain text, complete once COMPLETE with their checksums stands in them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from stylegan_ray.config import FORMAT_VERSION, RunConfig, validated
from stylegan_ray.storage import Storage
from stylegan_ray.train.state import TrainState

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
COMPLETE = "COMPLETE"


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or damaged."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of a TrainState on the CPU that training no longer touches."""

    tensors: dict[str, Tensor]
    counters: dict[str, Any]
    config_yaml: str

    @classmethod
    def of(cls, state: TrainState, cfg: RunConfig) -> Snapshot:
        """Copies the state; all the time that a checkpoint takes from the training."""
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
            "state.safetensors": safetensors.torch.save(contiguous),
            "state.json": json.dumps(self.counters, indent=1).encode(),
            "config.yaml": self.config_yaml.encode(),
        }

    def restore(self, state: TrainState) -> None:
        """Puts the state where the snapshot was taken."""
        state.load(self.tensors, self.counters)

    def config(self) -> RunConfig:
        return validated(yaml.safe_load(self.config_yaml))


def checkpoint_name(nimg: int) -> str:
    return f"ckpt-{nimg:012d}"


def write_checkpoint(snapshot: Snapshot, checkpoints: Storage) -> str:
    """Writes a checkpoint into the folder of checkpoints, COMPLETE last; returns its name."""
    folder = checkpoints.folder(snapshot.name)
    checkpoints.delete_folder(snapshot.name)  # left over from a run that died while writing it
    sums = {}
    for name, content in snapshot.files().items():
        folder.write(name, content)
        sums[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    folder.write(COMPLETE, json.dumps({"format_version": FORMAT_VERSION, "files": sums}, indent=1).encode())
    return snapshot.name


def read_checkpoint(folder: Storage) -> Snapshot:
    """Reads and verifies one checkpoint; raises CheckpointError that names what is wrong with it."""
    try:
        complete = json.loads(folder.read(COMPLETE))
    except (FileNotFoundError, ValueError):
        raise CheckpointError(f"checkpoint {folder.path()} is not complete: no valid {COMPLETE} file") from None
    contents = {}
    for name, expected in complete["files"].items():
        contents[name] = _verified(folder, name, expected)
    tensors = safetensors.torch.load(contents["state.safetensors"])
    return Snapshot(tensors, json.loads(contents["state.json"]), contents["config.yaml"].decode())


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


def complete_checkpoints(checkpoints: Storage) -> list[str]:
    """Names of the complete checkpoints, oldest first (their files are not verified)."""
    names = [name for name in checkpoints.names() if name.startswith("ckpt-")]
    return [name for name in names if checkpoints.exists(f"{name}/{COMPLETE}")]


def newest_checkpoint(checkpoints: Storage) -> Snapshot | None:
    """The newest checkpoint that is complete and undamaged, else None; damaged ones are named in the log."""
    for name in reversed(complete_checkpoints(checkpoints)):
        try:
            return read_checkpoint(checkpoints.folder(name))
        except CheckpointError as error:
            log.warning("%s; falling back to the checkpoint before it", error)
    return None


def delete_old_checkpoints(checkpoints: Storage, keep: int) -> None:
    """Keeps the newest complete checkpoints, and whatever is being written beside them."""
    for name in complete_checkpoints(checkpoints)[:-keep]:
        checkpoints.delete_folder(name)
