"""A lease on what a command writes: a second command that would write the same refuses, and names the first.

A lease is a small hidden file in the folder, .lease-<8 hex digits>, one for each command, with its host, process, start
and a counter that grows while it lives. A command writes its own, looks for others, and gives way when it finds one: of
two that start at once at most one goes on, where listing a folder shows what was written before (local disks, NFS, S3,
GCS). On a disk the file is also locked (flock), so the system itself says whether its owner lives; with object storage
and other hosts the counter says it, which is best effort: an owner that is cut off for longer than WATCH_SEC loses its
lease. Readers ignore these files, and runs of older versions do too.
"""

from __future__ import annotations

import json
import os
import platform
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stylegan_ray.config import ConfigError
from stylegan_ray.locks import is_locked, lock
from stylegan_ray.storage import PART, Storage, is_alive, one_line
from stylegan_ray.untrusted import BadFileError, printable

PREFIX = ".lease-"
BEAT_SEC = 10.0
"""How often an owner shows that it lives."""
WATCH_SEC = 50.0
"""How long the lease of an owner elsewhere must stay as it is before it counts as dead."""
LOOK_SEC = 1.0
"""How often a lease is looked at meanwhile."""
SETTLE_SEC = 2.0
"""How long object storage gets to show what was written, before it is read back."""
ATTEMPTS = 20
MOST_BYTES = 1 << 20
"""Of a file that can be a lease."""
LAST = 2**63


@dataclass(frozen=True)
class Claim:
    """Something in a folder that one command at a time writes: a kind of files, and numbers of it."""

    kind: str
    first: int = 0
    last: int = LAST

    def overlaps(self, other: Claim) -> bool:
        return self.kind == other.kind and self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Owner:
    """Who holds a lease."""

    command: str
    """The name of the command; its options may be secret."""
    host: str
    pid: int
    started: int | None
    """When the process started, in ticks since the start of the system: process ids come again."""
    boot: str
    """The start of the system that `started` counts from."""
    namespace: str
    """The process namespace, since containers number their processes themselves."""
    since: str
    is_locked: bool = False
    """Whether the file is locked while the owner lives."""
    claims: tuple[Claim, ...] = ()

    @classmethod
    def of_this_process(cls, command: str, claims: Sequence[Claim]) -> Owner:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(
            command, platform.node(), os.getpid(), start_of(os.getpid()), boot_id(), namespace(), since,
            claims=tuple(claims),
        )  # fmt: skip

    @classmethod
    def parse(cls, content: bytes) -> Owner | None:
        """The owner that a file names; None for one that is not a lease, or not whole."""
        try:
            values = json.loads(content)
            claims = tuple(Claim(str(kind), int(first), int(last)) for kind, first, last in values["claims"])
            started = None if values["started"] is None else int(values["started"])
            texts = {key: str(values[key]) for key in ("command", "host", "boot", "namespace", "since")}
            return cls(
                pid=int(values["pid"]), started=started, is_locked=values["is_locked"] is True, claims=claims, **texts
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None

    def content(self, beat: int) -> bytes:
        values = asdict(self) | {"claims": [[claim.kind, claim.first, claim.last] for claim in self.claims]}
        return json.dumps(values | {"beat": f"{beat:012d}"}).encode() + b"\n"

    @property
    def is_on_this_host(self) -> bool:
        return bool(self.boot) and self.boot == boot_id()

    def overlaps(self, claims: Sequence[Claim]) -> bool:
        return any(mine.overlaps(other) for mine in self.claims for other in claims)

    def describe(self) -> str:
        """For messages; the file may be anybody's, so that what it says is escaped."""
        command, host, since = (printable(text, 80) for text in (self.command, self.host, self.since))
        return f"{command}, process {self.pid} on {host}, since {since}"


@contextmanager
def held(
    address: str, command: str, claims: Sequence[Claim], way_out: str, say: Callable[[str], None] = print,
    key: str = "", elsewhere: str = "give another place",
) -> Iterator[Lease]:  # fmt: skip
    """Inside, this command alone writes the claims in the folder at an address.

    Raises ConfigError that names the command which does so already, with `way_out`, or the reason why the folder
    cannot be written, with `elsewhere`; `key` is what the user gave the folder with.
    """
    label = f"{key}: " if key else ""
    try:
        lease = Lease(Storage.at(address), Owner.of_this_process(command, claims))
        lease.acquire(say, f"{label}{printable(address, 500)} is in use by", way_out)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{label}{printable(address, 500)} cannot be written: {one_line(error)}; {elsewhere}"
        ) from error
    try:
        yield lease
    finally:
        lease.release()


@dataclass
class Lease:
    """The lease of this process in a folder."""

    folder: Storage
    owner: Owner
    on_loss: Callable[[str], None] = field(default=lambda text: _end_this_process(text))
    """Called in another thread where somebody has taken the lease over, because this process was cut off."""

    def __post_init__(self) -> None:
        self.name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
        self._file: int | None = None
        self._made: list[str] = []
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, say: Callable[[str], None], in_use: str, way_out: str) -> None:
        """Writes the lease and keeps it alive until `release`; raises ConfigError where another one is in its way."""
        for _ in range(ATTEMPTS):
            for name, owner in self._others():
                if self._lives(name, owner, say):
                    raise ConfigError(f"{in_use} {owner.describe() if owner else 'another command'}; {way_out}")
                self.folder.delete(name)
            self._write()
            try:
                if not self.folder.is_local:
                    time.sleep(SETTLE_SEC)
                is_alone = not self._others()
            except BaseException:
                self.release()
                raise
            if is_alone:
                self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")
                self._thread.start()
                return
            self._delete()
            time.sleep(random.uniform(0.05, 0.5) if self.folder.is_local else random.uniform(0.5, 2 * SETTLE_SEC))
        raise ConfigError(f"{in_use} other commands, which keep acquiring the lease; {way_out}")

    def release(self) -> None:
        """Deletes the lease, where the storage lets it."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(5.0)
        with suppress(OSError):
            self._delete()
            for folder in self._made:
                os.rmdir(folder)  # only where nothing was written

    def _others(self) -> list[tuple[str, Owner | None]]:
        """Names and owners of leases that are in the way of this one; None for what cannot be understood."""
        found = []
        for name in self.folder.names():
            if name.startswith(PREFIX) and name != self.name and not name.endswith(PART):
                content = self._read(name)
                owner = Owner.parse(content) if content else None
                if content is not None and (owner is None or owner.overlaps(self.owner.claims)):
                    found.append((name, owner))
        return found

    def _read(self, name: str) -> bytes | None:
        """The content of a lease; None where it is gone, or is no file."""
        try:
            with self.folder.open(name) as stream:
                return stream.read(MOST_BYTES)
        except (FileNotFoundError, BadFileError):
            return None

    def _lives(self, name: str, owner: Owner | None, say: Callable[[str], None]) -> bool:
        """Whether the owner of a lease lives, as far as is known."""
        if owner is not None and owner.is_on_this_host:
            if owner.is_locked and self.folder.is_local and (known := is_locked(self.folder.path(name))) is not None:
                return known
            if owner.namespace == namespace():
                return is_process(owner.pid, owner.started)
        return self._changes(name, owner, say)

    def _changes(self, name: str, owner: Owner | None, say: Callable[[str], None]) -> bool:
        """Whether a lease changes within a while."""
        before, deadline = self._read(name), time.monotonic() + WATCH_SEC
        if before is not None:
            whose = owner.describe() if owner else printable(name)
            say(f"Waiting up to {WATCH_SEC:.0f} s for a heartbeat of {whose}")
        while before is not None and time.monotonic() < deadline:
            time.sleep(LOOK_SEC)
            now = self._read(name)
            if now != before:
                return now is not None
        return False

    def _write(self) -> None:
        """Writes the file; on a disk it is locked before it gets its name."""
        if not self.folder.is_local:
            self.folder.write(self.name, self.owner.content(0))
            return
        path = self.folder.path(self.name)
        self._made = self._made or missing_folders(self.folder.root)
        os.makedirs(self.folder.root, exist_ok=True)
        file = os.open(f"{path}{PART}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            self.owner = replace(self.owner, is_locked=lock(file))
            os.write(file, self.owner.content(0))
            os.rename(f"{path}{PART}", path)
        except BaseException:
            os.close(file)
            with suppress(OSError):
                os.remove(f"{path}{PART}")
            raise
        self._file = file

    def _delete(self) -> None:
        self.folder.delete(self.name)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _beat(self) -> None:
        """The thread: counts on until the lease is released or lost."""
        beat = 0
        while not self._end.wait(BEAT_SEC):
            beat += 1
            with suppress(OSError):  # a storage that fails for a while
                if not self.folder.exists(self.name):
                    where = self.folder.root
                    self.on_loss(f"error: another command has taken over {where}: this one was cut off for too long")
                    return
                self._write_beat(self.owner.content(beat))

    def _write_beat(self, content: bytes) -> None:
        if self._file is None:
            self.folder.write(self.name, content)
        else:
            os.pwrite(self._file, content, 0)  # of equal length, in one piece


def _end_this_process(text: str) -> None:
    """Ends this process at once: what it still writes, a STOP file included, would hit the command that took over."""
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def missing_folders(path: str) -> list[str]:
    """The folders of a path that do not exist, the innermost first."""
    missing = []
    while path and not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def is_process(pid: int, started: int | None) -> bool:
    """Whether the process with this id that started then lives."""
    return pid > 0 and is_alive(pid) and (started is None or start_of(pid) in (started, None))


def start_of(pid: int) -> int | None:
    """When a process started, in ticks since the start of the system; None where it is unknown, or it has ended."""
    try:
        fields: list[Any] = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] == "Z" else int(fields[19])


def boot_id() -> str:
    """Identifies this machine and the start of its system; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def namespace() -> str:
    """The process namespace of this process."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
