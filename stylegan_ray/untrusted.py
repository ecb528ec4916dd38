"""The boundary to bytes that strangers wrote: size before reading, bounded inflating and parsing, one kind of error.

Every reader of a file goes through this module, so that a limit is kept once for all formats. `reading` is the guard of
an entry point: whatever a parser raises on damaged or hostile bytes leaves it as one error that names the file.
"""

from __future__ import annotations

import errno
import io
import os
import re
import reprlib
import stat
import threading
import zipfile
import zlib
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO, Protocol

NETWORK_BYTES = 4 << 30
"""Largest network file. StyleGAN2 at 1024 pixels with G, D and G_ema takes 0.4 GB in float32."""
CONFIG_BYTES = 1 << 18
"""Largest preset, saved configuration or search space; ours take 10 kB."""
PIECE = 1 << 20
"""Bytes that one read asks for."""
LARGE_BYTES = 1 << 26
"""Threads of a process hold larger files and images one at a time (see `large_turn`)."""
COPY_AGAIN = "it may be damaged or incomplete: copy or download it again"
"""The way out where a parser fails on a file."""
NOT_OF_STORAGE = (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
"""Errors of the system where a parser asks for an offset or a size that cannot be."""


LONGEST_LINE = 1 << 14
"""Characters of a line of a message."""
LFS_POINTER = b"version https://git-lfs"
LFS_BYTES = 1 << 10
"""A pointer is smaller."""


class UserError(ValueError):
    """An error whose message is for the user: it names key or file, value, rule and a way out.

    Each argument is a line of it, which is made printable: names of files and keys may hold anything.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(printable(line, most=LONGEST_LINE) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class BadFileError(UserError):
    """A file that cannot be used; the message names the file, what is wrong and a way out."""


class NonfiniteError(ArithmeticError):
    """A network that makes images of NaN or infinite values; the command that meets them exits with status 1."""


class Readable(Protocol):
    """An open binary file, or a stream of pyarrow."""

    def read(self, size: int, /) -> bytes: ...


class reading:  # noqa: N801 - a context manager, named like a function
    """Guards an entry point: whatever is raised within leaves as `error`, with the file's name, on one printable line.

    `error` itself, UserError and the classes in `passes` leave as they are, but a BadFileError becomes `error` and gets
    the file's name where it lacks it. All other messages, also those of a plain ValueError, are a library's and get a
    way out. KeyboardInterrupt, SystemExit and the like are never caught. To let a storage that does not respond be
    tried again, read the bytes outside and parse them within, or pass OSError.
    """

    def __init__(
        self,
        name: object,
        error: Callable[[str], Exception] = BadFileError,
        passes: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name, self.error, self.passes = printable(name, most=500), error, passes

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if raised is None or isinstance(raised, self.passes) or not _is_failure(raised):
            return
        is_ours = isinstance(raised, UserError) or (isinstance(self.error, type) and isinstance(raised, self.error))
        if not is_ours:
            raise self.error(f"{self.name}: {self._place(raised)}{describe(raised)}") from raised
        is_final = not isinstance(raised, BadFileError) or self.name in str(raised)
        if not is_final:
            raise self.error(f"{self.name}: {raised}") from raised
        if isinstance(self.error, type) and not isinstance(raised, self.error) and isinstance(raised, BadFileError):
            raise self.error(str(raised)) from raised

    def _place(self, raised: BaseException) -> str:
        """The file that the system names, where it is another one, such as a file in a folder."""
        name = printable(getattr(raised, "filename", None) or "", most=500)
        return f"{name} " if name and not self.name.endswith(name) else ""


def _is_failure(raised: BaseException) -> bool:
    """Whether a parser failed, in contrast to an interrupt: panics of Rust libraries are no subclasses of Exception."""
    return isinstance(raised, Exception) or type(raised).__name__ == "PanicException"


def describe(raised: BaseException) -> str:
    """What an error of a parser means for its file, on one printable line."""
    if isinstance(raised, RecursionError):
        return f"cannot be read: it is nested too deeply; {COPY_AGAIN}"
    if isinstance(raised, MemoryError):
        return f"cannot be read: it needs more memory than there is; {COPY_AGAIN}"
    text = printable(message_of(raised), most=1000)
    if isinstance(raised, UserError) and text:
        return text
    if isinstance(raised, OSError) and raised.errno is not None:
        damaged = f"; {COPY_AGAIN}" if raised.errno in NOT_OF_STORAGE else ""
        return f"cannot be read: {printable(os.strerror(raised.errno))}{damaged}"
    return f"cannot be read: {type(raised).__name__}{': ' * bool(text)}{text}; {COPY_AGAIN}"


def message_of(raised: BaseException) -> str:
    try:
        return " ".join(str(raised).split())
    except Exception:  # the message of an error can hold objects of the file
        return ""


def printable(text: object, most: int = 200) -> str:
    """Foreign text for messages: at most `most` of its characters, control characters and the like escaped.

    Newlines, ESC, directions of writing and lone surrogates become \\n, \\x1b, \\u202e and \\udc80. Errors are shown by
    their message, other objects that are no text as a short repr.
    """
    if isinstance(text, BaseException):
        text = _said(text)
    if isinstance(text, bytes):
        text = text[: 4 * most + 4].decode("utf-8", "backslashreplace")
    elif isinstance(text, os.PathLike):
        text = os.fsdecode(os.fspath(text))
    elif not isinstance(text, str):
        text = short_repr(text)
    text = str(text)
    kept = text if len(text) <= most else text[: max(most - 3, 0)] + "..."
    return kept if kept.isprintable() else "".join(map(_escaped, kept))


def _said(error: BaseException) -> str:
    """The message of an error; that of a missing key, which is the key alone, with its type.

    Errors that hold objects of a file are shown as a short repr: text of such objects may take forever.
    """
    if not all(isinstance(part, str | bytes | int | float) for part in error.args):
        return short_repr(error)
    message, name = message_of(error), type(error).__name__
    return f"{name}: {message}".rstrip(": ") if isinstance(error, LookupError) or not message else message


def describe_pointer(content: bytes) -> str | None:
    """What git-lfs leaves in place of a file that was not downloaded; None for other bytes."""
    if not content.startswith(LFS_POINTER):
        return None
    size = re.search(rb"^size (\d{1,20})", content[:LFS_BYTES], re.MULTILINE)
    return f"a git-lfs pointer{f' to a file of {int(size[1]):,} bytes' if size else ''}"


def short_repr(value: object) -> str:
    """A repr whose work is bounded, also for values that hold themselves many times."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"<an integer of {value.bit_length()} bits>"
    try:
        return reprlib.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


# Sizes.


class Turn:
    """Lets one thread at a time hold something large, from `take` to the end of its outermost `with` block."""

    def __init__(self) -> None:
        self._lock, self._mine = threading.RLock(), threading.local()

    def __enter__(self) -> None:
        self._mine.depth = getattr(self._mine, "depth", 0) + 1

    def __exit__(self, *raised: object) -> None:
        self._mine.depth -= 1
        while not self._mine.depth and getattr(self._mine, "taken", 0):
            self._mine.taken -= 1
            self._lock.release()

    def take(self) -> None:
        """Waits until no other thread holds anything large; nothing outside of a `with` block."""
        if getattr(self._mine, "depth", 0):
            self._lock.acquire()
            self._mine.taken = getattr(self._mine, "taken", 0) + 1


large_turn = Turn()


def open_regular(path: str | os.PathLike[str], name: object = None) -> BinaryIO:
    """A local file open for reading; raises BadFileError where it is no regular file, without waiting for a pipe.

    Links are followed. Raises OSError where it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(descriptor, path if name is None else name)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(descriptor: int, name: object) -> int:
    """The size of an open file in bytes; raises BadFileError for a device, pipe, socket or folder."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise BadFileError(f"{printable(name)} is not a regular file (but a folder, device or pipe); give a file")
    return status.st_size


def stored_bytes(descriptor: int) -> int:
    """Bytes of an open file without its holes; all of them where the file system does not know of any."""
    size, place, at, found = os.fstat(descriptor).st_size, os.lseek(descriptor, 0, os.SEEK_CUR), 0, 0
    try:
        while at < size:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
            at = os.lseek(descriptor, begin, os.SEEK_HOLE)
            found += at - begin
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data follows
            return size
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
    return found


def check_holes(descriptor: int, name: object, small: int = LARGE_BYTES) -> None:
    """Raises BadFileError for an open file that is nearly all holes; one of `small` bytes may be."""
    size = os.fstat(descriptor).st_size
    if size > small and (stored := stored_bytes(descriptor)) < size // 64:
        raise BadFileError(
            f"{printable(name)}: {format_bytes(size)}, of which only {format_bytes(stored)} are on the disk; "
            f"{COPY_AGAIN}"
        )


def check_size(size: int, limit: int, name: object, key: str | None = None) -> None:
    """Raises BadFileError for a file of more than `limit` bytes; `key` is the configuration key of the limit."""
    if size > limit:
        way_out = f"raise {key}" if key else "use a smaller file"
        raise BadFileError(
            f"{printable(name)}: {format_bytes(size)}, more than the limit of {format_bytes(limit)}; {way_out}"
        )


def read_at_most(file: Readable, limit: int, name: object, key: str | None = None) -> bytes:
    """All bytes of an open file, of which there may be `limit`; the size is compared before anything is read.

    Of a file of the local system only the bytes that its size promises are read (files of /proc promise none), and it
    must be a regular one. `key` is the configuration key that raises the limit. Raises BadFileError.
    """
    size = size_of(file, name)
    if size is not None:
        check_size(size, limit, name, key)
    most = limit if size is None else size
    if most > LARGE_BYTES:
        large_turn.take()
    content, found = io.BytesIO(), 0  # grows in place, and its value is no copy
    while found <= most:
        piece = file.read(min(PIECE, most - found + (size is None)))
        if not piece:
            break
        found += content.write(piece)
    check_size(found, limit, name, key)
    return content.getvalue()


def size_of(file: Any, name: object) -> int | None:
    """The size of an open file in bytes, None for a stream that does not tell; raises BadFileError for devices."""
    descriptor = descriptor_of(file)
    if descriptor is not None:
        check_holes(descriptor, name)
        return check_regular(descriptor, name)
    try:
        return int(file.size())
    except (OSError, ValueError, AttributeError, TypeError):  # a stream of pyarrow without random access
        return None


def read_file(path: str | os.PathLike[str], limit: int, key: str | None = None) -> bytes:
    """The content of a local regular file of at most `limit` bytes; raises BadFileError or OSError."""
    with open_regular(path) as file:
        return read_at_most(file, limit, path, key)


def descriptor_of(file: Any) -> int | None:
    """The descriptor of an open file; None for a stream that has none."""
    try:
        return file.fileno()
    except (OSError, AttributeError, ValueError):
        return None


def format_bytes(size: int) -> str:
    """A size in B, kB, MB or GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"


def is_stored_or_deflated(entry: zipfile.ZipInfo) -> bool:
    """Whether a zip entry is neither encrypted nor packed by a method that zipfile inflates without a limit."""
    is_encrypted = entry.flag_bits & 1
    return not is_encrypted and entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def inflate(
    content: bytes, limit: int, name: object = "compressed data", key: str | None = None, wbits: int = -15
) -> bytes:
    """The bytes of a deflate stream, at most `limit`; `wbits` as in zlib: -15 raw (zip), 15 zlib, 31 gzip, 47 either.

    Raises BadFileError where there are more, or where the stream is damaged or incomplete.
    """
    stream = zlib.decompressobj(wbits)
    result, found = io.BytesIO(), 0
    try:
        while not stream.eof and found <= limit:
            piece = stream.decompress(content, min(PIECE, limit - found + 1))
            content = stream.unconsumed_tail
            found += result.write(piece)
            if found > LARGE_BYTES >= found - len(piece):
                large_turn.take()
            if not piece and not content:
                break
    except zlib.error as error:
        raise BadFileError(
            f"{printable(name)}: the compressed data is damaged ({printable(error)}); {COPY_AGAIN}"
        ) from None
    if found > limit:
        way_out = f"raise {key}" if key else "use a smaller file"
        raise BadFileError(f"{printable(name)}: inflates to more than the limit of {format_bytes(limit)}; {way_out}")
    if not stream.eof:
        raise BadFileError(f"{printable(name)}: the compressed data ends early; {COPY_AGAIN}")
    return result.getvalue()
