"""What a run remembers of a tracker, in a small file of its folder."""

from __future__ import annotations

import json
import time
import uuid

from stylegan_ray.credentials import without_credentials
from stylegan_ray.run_folder import tracker_file
from stylegan_ray.storage import Storage
from stylegan_ray.untrusted import reading
from stylegan_ray.untrusted_text import parse_json

MEMORY_BYTES = 1 << 20


class Memory:
    """A small file in the run's folder: the id of the run in a tracker, and what the tracker has of it."""

    def __init__(self, run: Storage, name: str, address: str) -> None:
        self.run, self.file, self.address = run, tracker_file(name), without_credentials(address)
        self.id, self.began = uuid.uuid4().hex, time.time()
        self.sent: dict[str, int] = {}
        """The last clock value of each series that the tracker has."""
        self.late: list[tuple[str, int, int]] = []
        """Series and clock value of what a tracker got at a later step than its clock value, and that step."""
        self.session: str | None = None
        """What the tracker has not stored for good yet."""
        self.ended: str | None = None
        """How the run ended, where the tracker knows it."""

    def read(self) -> None:
        """Reads the file, unless it is about another address; a new one gets a new id."""
        if not self.run.exists(self.file):
            return
        where = self.run.path(self.file)
        with reading(where, ValueError):
            found = parse_json(self.run.read(self.file, MEMORY_BYTES), where, MEMORY_BYTES)
            if found["address"] == self.address:
                self.id, self.began = str(uuid.UUID(found["id"]).hex), float(found["began"])
                self.sent = {str(series): int(nimg) for series, nimg in found["sent"].items()}
                self.late = [(str(series), int(nimg), int(step)) for series, nimg, step in found.get("late", [])]
                self.session, self.ended = found["session"], found["ended"]

    def write(self) -> None:
        names = ("address", "id", "began", "sent", "late", "session", "ended")
        self.run.write(self.file, json.dumps({name: getattr(self, name) for name in names}, indent=1).encode())
