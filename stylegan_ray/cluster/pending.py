"""Requests for metrics that wait in the run's folder, so that they outlive every process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stylegan_ray.run_folder import PENDING_METRICS
from stylegan_ray.storage import Storage


@dataclass(frozen=True)
class Request:
    """Networks that are to be measured."""

    provenance: Mapping[str, Any]
    plan: Mapping[str, Any]
    """Settings of the plan that depend on where the run stands."""

    @property
    def tick(self) -> int:
        return self.provenance["Progress/tick"]

    @property
    def kimg(self) -> float:
        return self.provenance["kimg"]

    @property
    def network(self) -> str:
        """The networks' file."""
        return f"{PENDING_METRICS}/{self.tick:06d}.safetensors"

    @property
    def note(self) -> str:
        """The file that says what else there is to know; with it the request is whole."""
        return f"{PENDING_METRICS}/{self.tick:06d}.json"

    def write_note(self, run: Storage) -> None:
        """Makes the request whole, once its networks are there."""
        run.write(self.note, json.dumps([self.provenance, self.plan]).encode())

    def delete(self, run: Storage) -> None:
        """Deletes its files."""
        run.delete(self.note)
        run.delete(self.network)


def pending(run: Storage) -> list[Request]:
    """The requests that are whole in a run's folder, oldest first."""
    notes = [name for name in run.names(PENDING_METRICS) if name.endswith(".json")]
    return [Request(*json.loads(run.read(f"{PENDING_METRICS}/{name}"))) for name in notes]
