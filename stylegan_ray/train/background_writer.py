"""Writes files and checkpoints to storage in a background thread, in order, and retries until the storage accepts them.

Training does not end when the storage fails, and waits for it only where it is slow and much waits. A file is kept in
memory until it is written; a checkpoint that waits is dropped when a newer one is submitted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from stylegan_ray.packed_tensors import outside_heap
from stylegan_ray.run_folder import CHECKPOINTS
from stylegan_ray.storage import Storage, one_line
from stylegan_ray.train.checkpoint import Snapshot, delete_old_checkpoints, write_checkpoint

PAUSES_SEC = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between two attempts on one job; the last one repeats."""
MAX_BYTES = 1 << 30
"""Bytes that may wait beside the newest file; beyond it training waits, or drops the oldest where the storage fails."""
LARGE_BYTES = 1 << 16
"""Bytes from which on a file waits outside the heap, where it would leave a hole between tensors of the training."""
SEC_TO_CLOSE = 10.0
"""How long `close` waits for a file that is being written."""


@dataclass(frozen=True, eq=False)
class WriteJob:
    """Something to write."""

    name: str
    run: Callable[[], None]
    num_bytes: int = 0
    is_checkpoint: bool = False


class BackgroundWriter:
    """Owned by the one process that writes a run's folder; `message` is called when the storage fails and recovers."""

    def __init__(
        self,
        run: Storage,
        keep_checkpoints: int,
        message: Callable[[str], None],
        pauses_sec: Sequence[float] = PAUSES_SEC,
    ) -> None:
        self.run, self.keep, self.message, self.pauses_sec = run, keep_checkpoints, message, pauses_sec
        self.newest_checkpoint: str | None = None
        """Name of the last checkpoint that was written whole."""
        self.checkpoint_sec = 0.0
        """Seconds that it took to write."""
        self._waiting: deque[WriteJob] = deque()
        self._current: WriteJob | None = None
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._failing_since: float | None = None
        self._num_dropped = 0
        self._spare: Snapshot | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="background-writer")
        self._thread.start()

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Submits a whole file."""
        if isinstance(content, bytes) and len(content) >= LARGE_BYTES:
            content = outside_heap(content)
        self._submit(WriteJob(name, partial(self.run.write, name, content), len(content)))

    def submit(self, name: str, action: Callable[[], None]) -> None:
        """Submits an action on the storage, which runs after all jobs before it; an OSError repeats it."""
        self._submit(WriteJob(name, action))

    def write_checkpoint(self, snapshot: Snapshot, before: Callable[[], None] = lambda: None) -> None:
        """Submits a checkpoint; `before` is called first, in the writer's thread, and an OSError of it repeats both.

        A checkpoint that still waits is dropped.
        """
        self._submit(WriteJob(snapshot.name, partial(self._write_checkpoint, snapshot, before), is_checkpoint=True))

    def take_spare(self) -> Snapshot | None:
        """The last checkpoint that was written, if nobody has taken it; its memory may be used again."""
        spare, self._spare = self._spare, None
        return spare

    def flush(self, timeout_sec: float | None = None) -> bool:
        """Waits until all is written, or for some seconds; returns whether all is. Raises other errors than OSError."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not (self._waiting or self._current), timeout_sec)
            self._raise_failure()
            return not (self._waiting or self._current)

    def close(self) -> None:
        """Ends the thread after what it is writing; what waits is lost. Another writer of the folder may begin then."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(SEC_TO_CLOSE)

    def _submit(self, job: WriteJob) -> None:
        with self._changed:
            self._raise_failure()
            if job.is_checkpoint:
                self._drop([other for other in self._waiting if other.is_checkpoint])
            self._waiting.append(job)
            self._changed.notify_all()
            while (files := [other for other in self._waiting if other.num_bytes and other is not job]) and (
                sum(other.num_bytes for other in files) > MAX_BYTES
            ):
                if self._failing_since is None:
                    self._changed.wait()  # for a storage that is slow
                    self._raise_failure()
                else:
                    self._drop(files[:1])
                    self.message(f"storage: {files[0].name} is dropped, because more than {MAX_BYTES >> 20} MiB wait")

    def _drop(self, jobs: Sequence[WriteJob]) -> None:
        for job in jobs:
            self._waiting.remove(job)
            self._num_dropped += job.is_checkpoint

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                self._current = self._waiting.popleft()
                self._changed.notify_all()
            try:
                self._run_until_done(self._current)
            except Exception as error:  # not a failure of the storage: the next call raises it in the training
                self._failure = error
            with self._changed:
                self._current = None
                self._changed.notify_all()

    def _run_until_done(self, job: WriteJob) -> None:
        attempt = 0
        while not (self._is_outdated(job) or self._is_closed):
            try:
                job.run()
            except OSError as error:
                self._report_failure(job, error)
                with self._changed:  # a newer checkpoint ends the pause
                    self._changed.notify_all()  # files may be dropped now
                    pause = self.pauses_sec[min(attempt, len(self.pauses_sec) - 1)]
                    self._changed.wait_for(lambda: self._is_outdated(job) or self._is_closed, pause)
                attempt += 1
            else:
                self._report_recovery()
                return
        self._num_dropped += 1

    def _is_outdated(self, job: WriteJob) -> bool:
        """Whether a newer checkpoint waits, after an attempt on this one has failed."""
        is_failing = self._failing_since is not None
        return job.is_checkpoint and is_failing and any(other.is_checkpoint for other in self._waiting)

    def _write_checkpoint(self, snapshot: Snapshot, before: Callable[[], None]) -> None:
        began = time.monotonic()
        before()
        self.newest_checkpoint = write_checkpoint(snapshot, self.run.folder(CHECKPOINTS))
        self.checkpoint_sec = time.monotonic() - began
        self._spare = snapshot
        try:
            delete_old_checkpoints(self.run.folder(CHECKPOINTS), self.keep)
        except OSError as error:  # the new one is complete all the same; the next one tries again
            self.message(f"storage: old checkpoints could not be deleted: {one_line(error)}")

    def _report_failure(self, job: WriteJob, error: OSError) -> None:
        if self._failing_since is None:
            self._failing_since, self._num_dropped = time.monotonic(), 0
            newest = self.newest_checkpoint
            resume = f"a restart would continue from {newest}" if newest else "there is no checkpoint yet"
            self.message(
                f"fault: storage does not take {job.name}: {one_line(error)}; the training continues, {resume}"
            )

    def _report_recovery(self) -> None:
        if self._failing_since is not None:
            sec, self._failing_since = time.monotonic() - self._failing_since, None
            dropped = f"; {self._num_dropped} checkpoints were dropped" if self._num_dropped else ""
            self.message(f"storage works again after {sec:.0f} s{dropped}")
