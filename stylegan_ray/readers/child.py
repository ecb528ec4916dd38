"""The child process that reads another program's data set: `python -m stylegan_ray.readers.child KIND FILE...`.

It first writes a frame with the contents, then one frame for each request on its standard input, and ends with it.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from stylegan_ray.readers.frames import BAD_FILE, BAD_IMAGE, GOOD, REPLY, REQUEST
from stylegan_ray.readers.protocol import Reader, ReadError, pack_contents, stored_size
from stylegan_ray.untrusted import COPY_AGAIN, PIECE, BadFileError, check_holes, open_regular

KINDS = ("lmdb", "hdf5", "idx", "cifar", "mat")
MEMORY_BYTES, FOR_EACH_BYTE = 1 << 29, 8
"""Memory of the process, and for each byte of its files that is no hole (.mat and .gz files are decompressed)."""


def main(kind: str, paths: Sequence[str]) -> None:
    """Answers until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between
    try:
        check_files(kind, paths)
        limit_memory(sum(map(stored_size, paths)))
        reader = open_reader(kind, paths)
        content = pack_contents(reader.contents)
    except Exception as error:  # the libraries raise nearly anything on damaged files
        is_ours = isinstance(error, ReadError | BadFileError)
        reason = str(error) if is_ours else f"it cannot be read as {kind}: {explain(error)}; {COPY_AGAIN}"
        return reply(replies, BAD_FILE, reason.encode("utf-8", "replace"))
    reply(replies, GOOD, content)
    serve(reader, os.fdopen(0, "rb"), replies)


def check_files(kind: str, paths: Sequence[str]) -> None:
    """Raises BadFileError for a folder, device or pipe, which would be waited for, and for a file of holes.

    An LMDB may be one: its file can be as large as its map from the beginning.
    """
    for path in paths:
        with open_regular(path) as file:
            if kind != "lmdb":
                check_holes(file.fileno(), os.path.basename(path), small=PIECE)


def open_reader(kind: str, paths: Sequence[str]) -> Reader:
    """The reader of this kind; raises ReadError, or what its library raises."""
    assert kind in KINDS
    return importlib.import_module(f"stylegan_ray.readers.{kind}_reader").open_reader(list(paths))


def serve(reader: Reader, requests: BinaryIO, replies: BinaryIO) -> None:
    """Sends an image file for each request."""
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        number, size = REQUEST.unpack(head)
        name = requests.read(size).decode("utf-8", "surrogateescape")
        try:
            kind, content = GOOD, reader.read(number, name)
        except Exception as error:
            kind, content = BAD_IMAGE, explain(error).encode("utf-8", "replace")
        reply(replies, kind, content)


def reply(replies: BinaryIO, kind: bytes, content: bytes) -> None:
    replies.write(REPLY.pack(kind, len(content)))
    replies.write(content)
    replies.flush()


def explain(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than its size allows"
    return " ".join(str(error).split()) or type(error).__name__


def limit_memory(file_bytes: int) -> None:
    """Makes allocations fail beyond a limit, so that a small file cannot take all memory."""
    limit = MEMORY_BYTES + FOR_EACH_BYTE * file_bytes
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
