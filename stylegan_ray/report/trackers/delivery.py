"""Brings a run to a tracker: reads what its folder holds, sends what the tracker lacks, remembers what it has.

It runs in the process that drives the run, beside the training, which never waits for it. Only what a complete
checkpoint covers is sent, so a resume takes nothing back. Each series of a run is sent in the order of its clock and
never twice, whatever dies in between.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stylegan_ray.report.trackers.covered import mark_of, new_points
from stylegan_ray.report.trackers.memory import Memory
from stylegan_ray.report.trackers.protocol import NETWORK, About, Tracker
from stylegan_ray.run_folder import FINAL_NETWORK, newest_nimg
from stylegan_ray.storage import one_line

LOOK_SEC = 2.0
"""How often the run's folder is looked at on a disk; in object storage ten times less often."""
PAUSES_SEC = (5.0, 15.0, 30.0, 60.0)
"""Between attempts on a tracker that fails; the last one repeats."""
SEC_TO_END = 60.0
"""How long the end of a run waits for a tracker."""
POINTS_AT_ONCE = 30


class Delivery(threading.Thread):
    """Brings one run to one tracker until the run ends."""

    def __init__(self, tracker: Tracker, memory: Memory, about: About, say: Callable[[str], None]) -> None:
        super().__init__(daemon=True, name=f"delivery to {tracker.title}")
        self.tracker, self.memory, self.about, self.say = tracker, memory, about, say
        self.run_folder = memory.run
        self.look_sec = LOOK_SEC if memory.run.is_local else 10 * LOOK_SEC
        self._ending = threading.Event()
        self._state = ""
        self._is_open = self._was_read = False
        self._seen: object = None
        self._num_failed, self._failing_since, self._again_at = 0, 0.0, -math.inf

    def run(self) -> None:
        """The thread: sends until the run has ended."""
        while not self._ending.wait(self.look_sec):
            if time.monotonic() >= self._again_at:
                self._attempt()
        self._attempt(self._state)

    def end_with(self, state: str) -> None:
        """Lets the thread send the rest and end."""
        self._state = state
        self._ending.set()

    def wait(self) -> None:
        """Waits for the end of the thread, SEC_TO_END at most."""
        self.join(SEC_TO_END)
        if self.is_alive():
            self.say(f"warning: {self.tracker.title} is too slow; the same command sends what it lacks")

    def lacks_something(self, state: str) -> bool:
        """Whether the tracker has not got everything of a run that ended so; True where that cannot be read."""
        try:
            self._read_memory()
            memory = self.memory
            has_points = bool(new_points(self.run_folder, memory.sent, memory.began))
            return memory.ended != state or has_points or self._network_nimg() is not None
        except (OSError, ValueError):
            return True  # the attempt to send says why

    def _attempt(self, ended: str | None = None) -> None:
        try:
            self._send(ended)
        except Exception as error:  # a tracker is never a reason to lose a run
            self._fail(error, ended)
        else:
            if self._num_failed:
                self.say(f"{self.tracker.title} works again after {time.monotonic() - self._failing_since:.0f} s")
            self._num_failed = 0

    def _fail(self, error: Exception, ended: str | None) -> None:
        self.tracker.drop()
        self._is_open, self._seen = False, None
        self._was_read = False  # what was not stored for good is sent again
        if not self._num_failed:
            self._failing_since = time.monotonic()
        if not self._num_failed or ended:
            then = "the same command sends the rest" if ended else "the training continues, and its rows follow"
            self.say(f"warning: {self.tracker.title} at {self.memory.address}: {one_line(error)}; {then}")
        self._again_at = time.monotonic() + PAUSES_SEC[min(self._num_failed, len(PAUSES_SEC) - 1)]
        self._num_failed += 1

    def _send(self, ended: str | None) -> None:
        self._read_memory()
        self._open()
        mark = mark_of(self.run_folder)
        if mark != self._seen or ended:
            self._send_points()
            self._seen = mark
        if ended:
            self._send_network()
            self.tracker.end(ended)
            self.memory.ended = ended
            self.memory.write()

    def _read_memory(self) -> None:
        if not self._was_read:
            self.memory.read()
            self._was_read = True

    def _open(self) -> None:
        if self._is_open:
            return
        self.memory.ended = None
        self.memory.write()  # the id, before the tracker gets it
        if text := self.tracker.begin(self.memory, self.about):
            self.say(text)
        self.memory.write()
        self._is_open = True

    def _send_points(self) -> None:
        memory = self.memory
        points = new_points(self.run_folder, memory.sent, memory.began)
        for first in range(0, len(points), POINTS_AT_ONCE):
            batch = points[first : first + POINTS_AT_ONCE]
            is_stored = self.tracker.add(batch, memory)
            for point in batch:
                memory.sent |= {series: max(point.nimg, memory.sent.get(series, -1)) for series in point.series}
            if is_stored:
                memory.write()

    def _network_nimg(self) -> int | None:
        """cur_nimg of the final network, where the tracker should get it and has it not."""
        if not (self.about.cfg.report.artifacts and self.run_folder.exists(FINAL_NETWORK)):
            return None
        nimg = newest_nimg(self.run_folder) or 0
        return nimg if self.memory.sent.get(NETWORK, -1) < nimg else None

    def _send_network(self) -> None:
        nimg = self._network_nimg()
        if nimg is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, FINAL_NETWORK)
            path.write_bytes(self.run_folder.read(FINAL_NETWORK))
            self.tracker.add_network(str(path), nimg)
        self.memory.sent[NETWORK] = nimg
