"""The faults of a run, told in one line each; without torch, so that the process that keeps it starts at once."""

from __future__ import annotations

import time


class Logbook:
    """The faults of a run since the driver began: makes one line of each, and counts those without progress between."""

    def __init__(self) -> None:
        self.kimg = 0.0
        """Where the run stood at its last tick."""
        self.num_without_progress = 0
        self._pending: list[str] = []
        self._since = 0.0
        self._last_nimg = -1
        self._num_workers = 0

    def fault(self, text: str) -> bool:
        """Notes what ended a group of workers; whether it is news."""
        if text in self._pending:
            return False
        if not self._pending:
            self._since = time.monotonic()
        self._pending.append(text)
        self.num_without_progress += 1
        return True

    def begins(self, nimg: int, came_from: str, num_workers: int) -> str:
        """Notes that a group begins at a clock value; returns the line to say."""
        if nimg > self._last_nimg:
            self.num_without_progress = 0
        line = came_from
        if self._pending:
            sec = time.monotonic() - self._since
            stood = f"; the run stood at {self.kimg:g} kimg" if self.kimg else ""
            line = f"fault: {'; '.join(self._pending)}{stood}; {came_from}, {sec:.0f} s later"
        elif self._num_workers and self._num_workers != num_workers:
            line = f"the group goes from {self._num_workers} to {num_workers} workers; {came_from}"
        self._pending, self._last_nimg, self._num_workers = [], nimg, num_workers
        return line
