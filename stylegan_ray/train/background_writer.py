"""Files on their way to storage: written by a thread, in the order given, again and again until the storage takes them.

The training neither waits for the storage nor ends when it fails: a file stays here until it is written, and of the
checkpoints that wait the newest makes the others needless.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from stylegan_ray.run_folder import CHECKPOINTS
from stylegan_ray.storage import Storage, one_line
from stylegan_ray.train.checkpoint import Snapshot, delete_old_checkpoints, write_checkpoint

PAUSES_SEC = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between two attempts on one file; the last one repeats."""
MOST_BYTES = 1 << 30
"""What may wait while the storage fails; beyond it the oldest files are given up."""


@dataclass(frozen=True, eq=False)
class Letter:
    """Something to be written."""

    name: str
    deliver: Callable[[], None]
    num_bytes: int = 0
    is_checkpoint: bool = False


class Outbox:
    """Belongs to the one process that writes a run's folder; `say` hears of trouble, once when it begins and ends."""

    def __init__(
        self,
        run: Storage,
        keep_checkpoints: int,
        say: Callable[[str], None],
        pauses_sec: Sequence[float] = PAUSES_SEC,
    ) -> None:
        self.run, self.keep, self.say, self.pauses_sec = run, keep_checkpoints, say, pauses_sec
        self.newest: str | None = None
        """Name of the last checkpoint that was written whole."""
        self.last_sec = 0.0
        """How long that took."""
        self._letters: deque[Letter] = deque()
        self._in_hand: Letter | None = None
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._trouble_since: float | None = None
        self._num_given_up = 0
        threading.Thread(target=self._work, daemon=True, name="outbox").start()

    def file(self, name: str, content: bytes) -> None:
        """Queues a whole file."""
        self._put(Letter(name, partial(self.run.write, name, content), len(content)))

    def action(self, name: str, do: Callable[[], None]) -> None:
        """Queues something else that the storage must take part in; its turn comes when all before it is written."""
        self._put(Letter(name, do))

    def checkpoint(self, snapshot: Snapshot, before: Callable[[], None] = lambda: None) -> None:
        """Queues a checkpoint; `before` is called before it is written and brings up to date what it rests on.

        A checkpoint that still waits for its turn is left out: this one says more.
        """
        self._put(Letter(snapshot.name, partial(self._write_checkpoint, snapshot, before), is_checkpoint=True))

    def finish(self, sec: float | None = None) -> bool:
        """Waits until all is written, or for some seconds; whether all is."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not (self._letters or self._in_hand), sec)
            self._raise_failure()
            return not (self._letters or self._in_hand)

    def _put(self, letter: Letter) -> None:
        with self._changed:
            self._raise_failure()
            if letter.is_checkpoint:
                self._give_up([waiting for waiting in self._letters if waiting.is_checkpoint])
            self._letters.append(letter)
            while sum(waiting.num_bytes for waiting in self._letters) > MOST_BYTES:
                oldest = next(waiting for waiting in self._letters if waiting.num_bytes)
                self._give_up([oldest])
                self.say(f"storage: {oldest.name} is given up, too much waits to be written")
            self._changed.notify_all()

    def _give_up(self, letters: Sequence[Letter]) -> None:
        for letter in letters:
            self._letters.remove(letter)
            self._num_given_up += letter.is_checkpoint

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._letters)
                self._in_hand = self._letters.popleft()
            try:
                self._deliver(self._in_hand)
            except Exception as error:  # not the storage's fault: the training shall hear of it
                self._failure = error
            with self._changed:
                self._in_hand = None
                self._changed.notify_all()

    def _deliver(self, letter: Letter) -> None:
        attempt = 0
        while not self._is_outdated(letter):
            try:
                letter.deliver()
            except OSError as error:
                self._say_trouble(letter, error)
                with self._changed:  # a newer checkpoint ends the wait
                    pause = self.pauses_sec[min(attempt, len(self.pauses_sec) - 1)]
                    self._changed.wait_for(lambda: self._is_outdated(letter), pause)
                attempt += 1
            else:
                self._say_works()
                return
        self._num_given_up += 1

    def _is_outdated(self, letter: Letter) -> bool:
        """Whether a newer checkpoint waits, after an attempt on this one has failed."""
        in_trouble = self._trouble_since is not None
        return letter.is_checkpoint and in_trouble and any(waiting.is_checkpoint for waiting in self._letters)

    def _write_checkpoint(self, snapshot: Snapshot, before: Callable[[], None]) -> None:
        began = time.monotonic()
        before()
        self.newest = write_checkpoint(snapshot, self.run.folder(CHECKPOINTS))
        self.last_sec = time.monotonic() - began
        try:
            delete_old_checkpoints(self.run.folder(CHECKPOINTS), self.keep)
        except OSError as error:  # the new one counts all the same; the next one tries again
            self.say(f"storage: old checkpoints could not be deleted: {one_line(error)}")

    def _say_trouble(self, letter: Letter, error: OSError) -> None:
        if self._trouble_since is None:
            self._trouble_since, self._num_given_up = time.monotonic(), 0
            back = f"a restart would continue from {self.newest}" if self.newest else "there is no checkpoint yet"
            self.say(f"fault: storage does not take {letter.name}: {one_line(error)}; training goes on, {back}")

    def _say_works(self) -> None:
        if self._trouble_since is not None:
            sec, self._trouble_since = time.monotonic() - self._trouble_since, None
            left_out = f"; {self._num_given_up} checkpoints were left out" if self._num_given_up else ""
            self.say(f"storage works again after {sec:.0f} s{left_out}")
