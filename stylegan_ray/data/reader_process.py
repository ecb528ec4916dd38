"""The parent's side of a reader in a child process: whatever a hostile file does to it, the parent gets an error."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylegan_ray.data.errors import DataError
from stylegan_ray.readers.frames import BAD_FILE, BAD_IMAGE, GOOD, REPLY, REQUEST
from stylegan_ray.readers.protocol import MAX_FILE_BYTES, Contents, unpack_contents
from stylegan_ray.untrusted import printable

REPLY_SEC = 600.0
"""How long the child may take for an answer; the first one reads all of a .mat or .gz file."""
END_SEC = 30.0
"""How long the child may take to end when it has closed its pipes."""
MAX_CONTENTS_BYTES = 1 << 33
PACKAGE_ROOT = str(Path(__file__).parents[2])


class ReaderProcess:
    """A data set in files that a child process reads. Pickles to its arguments; each process has a child of its own."""

    def __init__(self, kind: str, paths: Sequence[str]) -> None:
        self.kind, self.paths = kind, list(paths)
        self._lock, self._child = threading.Lock(), None

    def __reduce__(self) -> tuple[Any, ...]:
        return ReaderProcess, (self.kind, self.paths)

    def contents(self) -> Contents:
        """Names and labels; raises DataError when the files cannot be read."""
        with self._lock:
            return self._started().contents

    def read(self, number: int, name: str) -> bytes:
        """An image file; raises ValueError where there is none, and DataError when the child dies."""
        with self._lock:
            return self._started().read(number, name)

    def _started(self) -> Child:
        if self._child is None or self._child.owner != os.getpid():
            self._child = Child(self.kind, self.paths)
        return self._child


class Child:
    """A running child; it ends when this object is deleted, or when this process ends in whatever way."""

    def __init__(self, kind: str, paths: Sequence[str]) -> None:
        self.owner, self.path = os.getpid(), paths[0]
        if others := [os.path.basename(path) for path in paths[1:]]:
            self.path += f" (with {', '.join(others)})"
        # No library threads, which would count as memory; HDF5 loads filters from any folder in HDF5_PLUGIN_PATH.
        env = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
        env["PYTHONPATH"] = os.pathsep.join([PACKAGE_ROOT, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))])
        # -P: modules are not imported from the current folder, which may be the data set.
        command = [sys.executable, "-P", "-m", "stylegan_ray.readers.child", kind, *paths]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, bufsize=0)
        self._end = weakref.finalize(self, end_child, self.process, self.owner)
        content = self._reply(MAX_CONTENTS_BYTES)
        try:
            self.contents = unpack_contents(content)
        except ValueError as error:
            raise self._death(f"sent {error}") from error

    def read(self, number: int, name: str) -> bytes:
        """An image file; raises ValueError or DataError."""
        encoded = name.encode("utf-8", "surrogateescape")
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(REQUEST.pack(number, len(encoded)) + encoded)
        except OSError:
            raise self._death("died") from None
        return self._reply(MAX_FILE_BYTES)

    def _reply(self, most: int) -> bytes:
        kind, size = REPLY.unpack(self._receive(REPLY.size))
        if size > most or kind not in (GOOD, BAD_IMAGE, BAD_FILE):
            raise self._death(f"sent {size} bytes, more than the {most} allowed")
        content = self._receive(size)
        if kind == GOOD:
            return content
        reason = printable(content, 1000)
        if kind == BAD_FILE:
            raise DataError(f"data.path={self.path}: {reason}")
        raise ValueError(reason)

    def _receive(self, size: int) -> bytes:
        assert self.process.stdout is not None
        descriptor, parts, deadline = self.process.stdout.fileno(), [], time.monotonic() + REPLY_SEC
        while size:
            ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise self._death(f"did not answer for {REPLY_SEC:g} s")
            parts.append(os.read(descriptor, min(size, 1 << 20)))
            if not parts[-1]:
                raise self._death("died")
            size -= len(parts[-1])
        return b"".join(parts)

    def _death(self, event: str) -> DataError:
        """The error for a child that cannot be used any more."""
        if event == "died":
            event = self._ending()
        self._end()
        return DataError(
            f"data.path={self.path}: the process that reads this file {event}, so the file is damaged or was made to "
            "harm; copy it again from its origin"
        )

    def _ending(self) -> str:
        """How the child ended, which has closed its pipes."""
        try:
            code = self.process.wait(END_SEC)
        except subprocess.TimeoutExpired:
            return "closed its pipes"
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def end_child(process: subprocess.Popen, owner: int) -> None:
    """Ends a child of this process."""
    if os.getpid() != owner:  # a fork of its parent
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
