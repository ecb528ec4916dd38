"""Checkpoints: folders of tensors and JSON, complete once COMPLETE with their checksums is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch

from stylegan_ray.checkpoint_files import CheckpointError, completion, read_complete
from stylegan_ray.config import RunConfig, validated
from stylegan_ray.credentials import logger_of
from stylegan_ray.packed_tensors import PackedTensors
from stylegan_ray.run_folder import COMPLETE, CONFIG, COUNTERS, STATE, checkpoint_name, complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.state import COUNTERS as NUMBERS
from stylegan_ray.train.state import TrainState
from stylegan_ray.untrusted import CONFIG_BYTES, BadFileError, printable, reading
from stylegan_ray.untrusted_text import decode_utf8, parse_json, parse_yaml

log = logger_of(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A copy of a TrainState on the CPU, which training does not change."""

    tensors: PackedTensors
    counters: dict[str, Any]
    config_yaml: str

    @classmethod
    def of(cls, state: TrainState, cfg: RunConfig, spare: Snapshot | None = None) -> Snapshot:
        """Copies the state, the only part of writing a checkpoint that training waits for.

        The copy takes the place of `spare`, one that is not needed any more.
        """
        tensors = PackedTensors(state.tensors(), spare=spare.tensors if spare else None)
        return cls(tensors, state.counters(), cfg.to_yaml())

    @property
    def name(self) -> str:
        return checkpoint_name(self.counters["cur_nimg"])

    def files(self) -> dict[str, bytes | memoryview]:
        """The files of the checkpoint, without COMPLETE."""
        return {
            STATE: self.tensors.content,
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
        with reading(CONFIG, CheckpointError):
            return validated(parse_yaml(self.config_yaml, CONFIG))


def write_checkpoint(snapshot: Snapshot, checkpoints: Storage) -> str:
    """Writes a checkpoint into the folder of checkpoints, COMPLETE last; returns its name."""
    folder, files = checkpoints.folder(snapshot.name), snapshot.files()
    complete = completion(files)
    if _holds(folder, json.loads(complete)["files"][STATE]):
        return snapshot.name
    delete_checkpoint(checkpoints, snapshot.name)  # left over from a run that died while writing it
    for name, content in files.items():
        folder.write(name, content)
    folder.write(COMPLETE, complete)
    return snapshot.name


def _holds(folder: Storage, state: Mapping[str, Any]) -> bool:
    """Whether the folder holds a complete checkpoint of the same tensors, which then is not rewritten."""
    try:
        return parse_json(folder.read(COMPLETE, CONFIG_BYTES), COMPLETE)["files"].get(STATE) == state
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False


def read_checkpoint(folder: Storage) -> Snapshot:
    """Reads and verifies one checkpoint; raises CheckpointError when it is incomplete or damaged.

    One of another format is not damaged: it raises ConfigError, since older ones cannot be read either.
    """
    contents = read_complete(folder)
    with reading(f"checkpoint {folder.path()}", CheckpointError):
        counters = parse_json(contents[COUNTERS], COUNTERS)
        check_counters(counters)
        tensors = PackedTensors(safetensors.torch.load(contents[STATE]))
        return Snapshot(tensors, counters, decode_utf8(contents[CONFIG], CONFIG))


def check_counters(counters: Any) -> None:
    """Raises BadFileError where the numbers of a state are not numbers in their range."""
    if not isinstance(counters, dict):
        raise BadFileError(f"{COUNTERS} is not an object of JSON")
    for name, value in counters.items():
        if NUMBERS.get(name) is int and (type(value) is not int or not 0 <= value < 2**53):
            raise BadFileError(f"{COUNTERS}: {name}={printable(value, 40)} must be an integer from 0")
    p = counters.get("augment_p", 0.0)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise BadFileError(f"{COUNTERS}: augment_p={printable(p, 40)} must be a number from 0 to 1")


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
