"""The sink of a run's own files: stats.jsonl, metrics.jsonl, log.txt and images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor

from stylegan_ray.credentials import without_credentials
from stylegan_ray.images.grid import png
from stylegan_ray.jsonl import jsonl_line
from stylegan_ray.report.console import tick_line
from stylegan_ray.report.spool import Spool
from stylegan_ray.run_folder import (
    GROWING,
    LOG,
    METRICS,
    TICKS,
)
from stylegan_ray.storage import Storage


class RunFiles:
    """Appends rows and lines, and writes images whole.

    Text that a full disk refuses waits in memory, in order. `sync` raises OSError until the storage has all of it, so a
    checkpoint that is written after it never knows of a tick that the files lack.
    """

    def __init__(self, write: Callable[[str, bytes], None]) -> None:
        self.write = write
        """Writes a whole file to the run's folder, in the background."""
        self.spool: Spool | None = None
        self._waiting: dict[str, bytes] = {}
        self._lock = threading.Lock()
        """Held while text is appended: `sync` is called from the thread that writes checkpoints."""

    def begin(self, run: Storage, nimg: int) -> None:
        """Appends to the files in the run's folder from here on; `run_folder.cut` comes first."""
        self._waiting.clear()
        if self.spool is not None:
            self.spool.delete()
        self.spool = Spool(run)
        for name in GROWING:
            self.spool.fetch(name)

    def tick(self, row: Mapping[str, Any]) -> None:
        """Appends a tick to stats.jsonl and its line to log.txt."""
        self._append(TICKS, jsonl_line(row))
        self._append(LOG, f"{tick_line(row)}\n".encode())

    def metric(self, row: Mapping[str, Any]) -> None:
        """Appends a row to metrics.jsonl; its Progress/tick says where a resume cuts it."""
        self._append(METRICS, jsonl_line(row))

    def images(self, name: str, grid: Tensor, nimg: int) -> None:
        """Writes a uint8 grid [C,H,W] to NAME.png."""
        self.write(f"{name}.png", png(grid))

    def histograms(self, name: str, values: Tensor, nimg: int) -> None:
        """Histograms have no file."""

    def message(self, text: str) -> None:
        """Appends lines of text to log.txt."""
        self._append(LOG, f"{without_credentials(text)}\n".encode("utf-8", "backslashreplace"))

    def sync(self) -> None:
        """Brings the storage up to date; raises OSError when it refuses. May be called in any thread."""
        if self.spool is not None:
            self._flush()
            self.spool.sync()

    def close(self) -> None:
        """Brings the storage up to date and ends; raises OSError, and may be called again then."""
        self.sync()
        if self.spool is not None:
            self.spool.delete()
            self.spool = None

    def _append(self, name: str, text: bytes) -> None:
        with self._lock:
            self._waiting[name] = self._waiting.get(name, b"") + text
        with suppress(OSError):  # the next line, or the sync before a checkpoint, tries again
            self._flush()

    def _flush(self) -> None:
        assert self.spool is not None, "begin comes first"
        with self._lock:
            for name in [name for name, text in self._waiting.items() if text]:
                # Unbuffered: a killed process leaves at most one torn line, at the end.
                with open(self.spool.folder / name, "ab", buffering=0) as file:
                    while self._waiting[name]:
                        self._waiting[name] = self._waiting[name][file.write(self._waiting[name]) :]
