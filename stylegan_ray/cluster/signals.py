"""Signals: what asks a run to save, to stop or to leave a machine, in the driver and in its workers."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray.train
import torch

from stylegan_ray import distributed
from stylegan_ray.cluster.channel import Sender
from stylegan_ray.config import RunConfig
from stylegan_ray.interrupts import handled_by, hear_sigint, note_hangup
from stylegan_ray.run_folder import is_asked_to_stop
from stylegan_ray.storage import Storage

GO_ON, LOG, ASK, SAVE, STOP_RUN, LEAVE = range(6)
"""What a worker wants between two groups of minibatches, the more urgent the larger: LOG messages, ASK for notices."""
LOCAL_STOP_SEC, STOP_SEC = 0.5, 2.0
"""How often rank 0 looks for the STOP file, on a file system and in object storage.

A driver without workers looks for it as rarely as in object storage.
"""
PREEMPTION_SEC = 5.0
"""How often all ranks ask Ray whether a node of theirs will be preempted."""
SEC_BEFORE_DEADLINE = 15.0
"""When the second checkpoint after a notice of preemption is written."""

_terminated = threading.Event()


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP asks for a stop; a SIGINT or SIGTERM after it is a KeyboardInterrupt.

    A terminal that is closed sends SIGHUP twice: the shell does, and then the kernel.
    Yields whether a stop was asked for; the call that first finds it so says so, since a handler must not print. Only
    for the main thread.
    """
    received: list[int] = []
    has_said = threading.Event()

    def handle(number: int, _frame: Any) -> None:
        note_hangup(number)
        received.append(number)
        if len(received) > 1 and number != signal.SIGHUP:
            raise KeyboardInterrupt

    def stop_requested() -> bool:
        if received and not has_said.is_set():
            has_said.set()
            say("Stopping: what was trained is saved first; once more to stop at once.")
        return bool(received)

    with handled_by(handle):
        yield stop_requested


def notice_sigterm() -> None:
    """Turns SIGTERM of this worker into a request to save and exit; in its main thread, after Ray's own handler."""
    hear_sigint()
    signal.signal(signal.SIGTERM, lambda _number, _frame: _terminated.set())


def is_terminated() -> bool:
    """Whether this worker received SIGTERM."""
    return _terminated.is_set()


class StopWatcher(threading.Thread):
    """Looks for the STOP file of a run, in a thread of its own, since a storage may take long to answer."""

    def __init__(self, run: Storage) -> None:
        super().__init__(daemon=True, name="stop-watcher")
        self.storage, self.every_sec = run, LOCAL_STOP_SEC if run.is_local else STOP_SEC
        self.is_asked = False
        self._ends = threading.Event()

    def run(self) -> None:
        while not (self.is_asked or self._ends.is_set()):
            self.is_asked = is_asked_to_stop(self.storage)
            self._ends.wait(self.every_sec)

    def close(self) -> None:
        """Ends the thread after the look that it is taking."""
        self._ends.set()


class Signals:
    """Asks between groups whether to save, stop or leave; all ranks get the most urgent answer of any."""

    def __init__(self, cfg: RunConfig, run: Storage, sender: Sender, device: torch.device) -> None:
        self.sender, self.device = sender, device
        self.stop_file = StopWatcher(run)
        if distributed.rank() == 0:
            self.stop_file.start()
        self.save_sec = (cfg.train.checkpoint_minutes or math.inf) * 60
        self.saved_at = self.asked_at = time.monotonic()
        self.notice: Any = None
        self.save_by = math.inf
        self.reason = GO_ON

    def interrupted(self) -> bool:
        """Whether the loop pauses now; `reason` says why. A collective call."""
        mine = LOG if self.sender.has_messages else GO_ON
        mine = LEAVE if is_terminated() else max(self._look(), mine) if distributed.rank() == 0 else mine
        self.reason = distributed.largest_over_ranks(mine, self.device)
        if self.reason == ASK:
            self.reason = self._ask()
        return self.reason >= SAVE

    @property
    def ends(self) -> bool:
        """Whether the run ends here."""
        return self.reason >= STOP_RUN

    def close(self) -> None:
        """Ends the look-out for the STOP file."""
        self.stop_file.close()

    def _look(self) -> int:
        now = time.monotonic()
        if self.stop_file.is_asked:
            return STOP_RUN
        if now - self.saved_at >= self.save_sec:
            return SAVE
        if now >= self.save_by:
            self.save_by = math.inf
            return SAVE
        if now - self.asked_at >= PREEMPTION_SEC:
            self.asked_at = now
            return ASK
        return GO_ON

    def _ask(self) -> int:
        """Asks Ray for notices of preemption; each means a checkpoint now and one shortly before the deadline."""
        notice = ray.train.get_preemption_info()
        if notice is None or notice == self.notice:
            return GO_ON
        self.notice = notice
        left_sec = notice.deadline_ms / 1000 - time.time() if notice.deadline_ms else None
        if distributed.rank() == 0:
            ranks = ", ".join(map(str, notice.preempted_ranks))
            when = f"in {max(left_sec, 0):.0f} s" if left_sec is not None else "soon"
            where = f"the node of worker {ranks}"
            self.sender.message(f"fault: {where} will be preempted {when}; saving a checkpoint first")
            if left_sec is not None and left_sec > 2 * SEC_BEFORE_DEADLINE:
                self.save_by = time.monotonic() + left_sec - SEC_BEFORE_DEADLINE
        return SAVE
