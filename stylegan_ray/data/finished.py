"""Images that a command has encoded, in a hidden file beside DEST: after a kill the same command goes on with them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import numpy as np

from stylegan_ray.data.atomic_output import LocalOutput
from stylegan_ray.data.index import cache_folder, decoders
from stylegan_ray.data.write import WriteTask
from stylegan_ray.untrusted import UserError, format_bytes, printable

VERSION = 1
"""Increased when the same task encodes images to other bytes, or the file changes."""
ENDING = ".finished"
HEAD = Struct("<IIQI")
"""Of a record: number of the plan, number of its pieces, their bytes, and the CRC-32 of all that follows the head."""
SIZE = Struct("<Q")


class Record(NamedTuple):
    """Where the pieces of a plan are in the file."""

    start: int
    num_pieces: int
    num_bytes: int
    crc: int


class Finished:
    """The encoded images of finished plans, as records in one file that is only appended to.

    Plans with images that cannot be read are not kept: those images may have been repaired.
    """

    def __init__(self, task: WriteTask, path: Path, say: Callable[[str], None] = print) -> None:
        self.task, self.path, self.say = task, path, say
        self.file: int | None = None
        self.is_kept, self.end = True, 0
        self.num_left = np.cumsum([len(plan) for plan in reversed(task.plans)])[::-1]
        """Images of each plan and of those after it."""
        self.records: dict[int, Record] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            self.records, self.end = _read_records(self.file, len(task.plans))
            os.ftruncate(self.file, self.end)
        except OSError as error:
            self._give_up(error)

    @property
    def num_images(self) -> int:
        """Images of the finished plans."""
        return sum(len(self.task.plans[number]) for number in self.records)

    def load(self, number: int) -> list[bytes] | None:
        """The pieces of a plan; None where it is not finished, or the record is damaged."""
        record = self.records.get(number)
        if record is None or self.file is None:
            return None
        table = record.num_pieces * SIZE.size
        content = os.pread(self.file, table + record.num_bytes, record.start)
        sizes = [size for (size,) in SIZE.iter_unpack(content[:table])] if len(content) >= table else []
        if zlib.crc32(content) != record.crc or sum(sizes) != record.num_bytes:
            return None
        pieces, at = [], table
        for size in sizes:
            pieces.append(content[at : at + size])
            at += size
        return pieces

    def store(self, number: int, pieces: Sequence[bytes]) -> None:
        """Keeps the pieces of a plan; where the disk has no room for them and for DEST, nothing is kept any more."""
        if not self.is_kept or self.file is None:
            return
        table = b"".join(map(SIZE.pack, map(len, pieces)))
        num_bytes = sum(map(len, pieces))
        crc = zlib.crc32(table)
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        try:
            self._refuse_full_disk(number, num_bytes)
            for part in (HEAD.pack(number, len(pieces), num_bytes, crc), table, *pieces):
                _append(self.file, part)
        except OSError as error:
            self._give_up(error)
            return
        self.records[number] = Record(self.end + HEAD.size, len(pieces), num_bytes, crc)
        self.end += HEAD.size + len(table) + num_bytes

    def _refuse_full_disk(self, number: int, num_bytes: int) -> None:
        """Raises OSError where DEST would not fit beside the pieces."""
        if "://" in self.task.dest:
            return
        needed = int(self.num_left[number]) * self.task.writing.image_bytes(self.task.dataset.shape())
        if (free := shutil.disk_usage(self.path.parent).free) < num_bytes + needed:
            raise OSError(f"{format_bytes(free)} are free")

    def _give_up(self, error: OSError) -> None:
        """Says that nothing is kept any more, and why."""
        reason = printable(os.strerror(error.errno) if error.errno else str(error))
        self.say(f"Finished images are not kept ({reason}): if this command is ended, it starts again")
        self.delete()

    def delete(self) -> None:
        """Deletes the file; nothing is kept any more."""
        self.is_kept, self.records = False, {}
        with suppress(OSError):
            if self.file is not None:
                os.ftruncate(self.file, 0)  # an open file takes its space until it is closed
            os.remove(self.path)

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None


def _append(file: int, part: bytes) -> None:
    """Writes all bytes at the end of an open file."""
    view = memoryview(part)
    while view:
        view = view[os.write(file, view) :]


def _read_records(file: int, num_plans: int) -> tuple[dict[int, Record], int]:
    """The records by number of their plan, and where the last whole one ends; their content is not read."""
    records, at, size = {}, 0, os.fstat(file).st_size
    while len(head := os.pread(file, HEAD.size, at)) == HEAD.size:
        number, num_pieces, num_bytes, crc = HEAD.unpack(head)
        end = at + HEAD.size + num_pieces * SIZE.size + num_bytes
        if number >= num_plans or end > size:
            break
        records[number] = Record(at + HEAD.size, num_pieces, num_bytes, crc)
        at = end
    os.lseek(file, at, os.SEEK_SET)
    return records, at


@contextmanager
def finished_images(task: WriteTask, say: Callable[[str], None] = print) -> Iterator[Finished]:
    """What an ended command has finished of this task. Nobody else may be writing DEST.

    The file goes when the block ends, and after an error that the same command would meet again; otherwise it stays.
    """
    place, prefix = place_of(task)
    path = place / f"{prefix}{digest_of(task)}{ENDING}"
    delete_others(place, prefix, path.name, say)
    finished = Finished(task, path, say)
    if finished.records:
        say(f"Going on with {finished.num_images} of {task.num_images} images, which an ended command has finished")
    try:
        yield finished
        finished.delete()
    except UserError:
        finished.delete()
        raise
    except BaseException:
        if not finished.records:
            finished.delete()
        elif finished.is_kept:
            say(
                f"{finished.num_images} of {task.num_images} images are finished, and kept in {printable(path, 500)} "
                "for the same command"
            )
        raise
    finally:
        finished.close()


def place_of(task: WriteTask) -> tuple[Path, str]:
    """A folder on this machine, and how names of files with finished images for DEST begin in it."""
    if "://" in task.dest:
        owner = hashlib.sha256(task.dest.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return cache_folder() / "finished", f"{owner}."
    dest = LocalOutput(task.dest, task.is_file).path
    return dest.parent, f".{dest.name}."


def digest_of(task: WriteTask) -> str:
    """16 hex digits of all that the encoded images follow from, and of the order in which they are written."""
    facts = [VERSION, decoders(), task.format.name, task.dataset.fingerprint, task.stamp, list(map(len, task.plans))]
    sha = hashlib.sha256(json.dumps(facts).encode())
    for plan in task.plans:
        sha.update(plan.tobytes())
    return sha.hexdigest()[:16]


def delete_others(place: Path, prefix: str, but: str, say: Callable[[str], None]) -> None:
    """Deletes what commands with other options or data have finished for the same DEST."""
    name_of_others = re.compile(rf"{re.escape(prefix)}[0-9a-f]{{16}}{re.escape(ENDING)}")
    with suppress(OSError):
        for name in os.listdir(place):
            if name != but and name_of_others.fullmatch(name):
                size = os.path.getsize(place / name)
                os.remove(place / name)
                say(f"Removed {format_bytes(size)} that an ended command with other options or data had finished")
