"""CIFAR-10 and CIFAR-100 as pickles of Python 2 or 3: batches of `data` uint8 [N,3072] and `labels` or `fine_labels`.

Only names that an array of numpy needs are allowed in the pickles, each replaced by a class of this module.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import pickletools
import re
import reprlib
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from stylegan_ray.readers.protocol import Contents, ReadError, class_numbers, encode_pnm
from stylegan_ray.readers.tar_headers import BoundedHeader
from stylegan_ray.untrusted import PIECE

SIDE = 32
LABELS = {b"labels": b"label_names", b"fine_labels": b"fine_label_names"}
"""Key of the labels in a batch, and of their names in the meta file; CIFAR-100 also has twenty coarse classes."""
PART = re.compile(r"train|meta|batches\.meta|data_batch_\d+")
"""Names of training batches and of the file with the names of the classes."""
BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
"""Names of the training batches of CIFAR-10."""
ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar")
MAX_BATCH_BYTES = 1 << 29
MAX_ARCHIVE_BYTES = 1 << 30
"""Of the decompressed archive, also of members that are passed over; CIFAR's have 190 MB."""
MAX_MEMBERS = 1000
"""Files and folders in the archive."""
NESTING = {
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_DICT", "DICT", "EMPTY_LIST", "LIST", "REDUCE", "BUILD",
}  # fmt: skip
"""Opcodes that make a value of others."""
MAX_NESTING = 100
"""How many of them a batch may have; CIFAR's have about ten."""
MAX_BITS = 64
"""Of an integer. With larger ones a dictionary can be made of which all keys have the same hash."""
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
TEXTS = {
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "GLOBAL", "STACK_GLOBAL",
}  # fmt: skip
"""Opcodes of values that a batch may use again."""
UNICODE = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
WAY_OUT = "download CIFAR again, or pickle `data` as an array uint8 [N,3072] and `labels` as a list of numbers"


def open_reader(paths: list[str]) -> CIFARReader:
    files = _members(paths[0]) if paths[0].endswith(ARCHIVE_ENDINGS) else [(path, _content(path)) for path in paths]
    parsed = [(os.path.basename(path), load_batch(content, path)) for path, content in files]
    return CIFARReader(
        [(name, tree) for name, tree in parsed if b"data" in tree],
        next((tree for _, tree in parsed if b"data" not in tree), {}),
    )


def _content(path: str) -> bytes:
    if os.path.getsize(path) > MAX_BATCH_BYTES:
        raise ReadError(f"{path} has more than {MAX_BATCH_BYTES} bytes, so it is no batch of CIFAR")
    with open(path, "rb") as file:
        return file.read()


def _members(path: str) -> list[tuple[str, bytes]]:
    """The training batches and the meta file of the archive, sorted by name."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=_decompressed(path), mode="r:", tarinfo=BoundedHeader) as archive:
        for number, member in enumerate(archive):
            if number == MAX_MEMBERS:
                raise ReadError(f"it holds more than {MAX_MEMBERS} files, and CIFAR's about ten; download CIFAR again")
            is_file = member.isreg() and not member.issparse() and not _is_of_a_system(member.name)
            if is_file and is_part(member.name) and member.size <= MAX_BATCH_BYTES:
                content = archive.extractfile(member)
                assert content is not None
                found[os.path.normpath(member.name)] = content.read()
    if not found:
        raise ReadError("it holds neither data_batch_1 nor train; download cifar-10-python.tar.gz again")
    folders = sorted(set(map(os.path.dirname, found)))
    if len(folders) > 1:
        raise ReadError(f"it holds batches in {len(folders)} folders, {', '.join(folders[:3])}; download CIFAR again")
    return sorted(found.items())


def _is_of_a_system(name: str) -> bool:
    """Whether a file of an archive is hidden, or in a folder that macOS adds."""
    return any(part.startswith((".", "__MACOSX")) for part in os.path.normpath(name).split("/"))


def _decompressed(path: str) -> io.BytesIO:
    """The content of a tar file, compressed or not; raises ReadError where it has more than MAX_ARCHIVE_BYTES."""
    content = io.BytesIO()
    with open(path, "rb") if path.endswith(".tar") else gzip.open(path) as file:
        while piece := file.read(PIECE):
            if content.tell() + len(piece) > MAX_ARCHIVE_BYTES:
                raise ReadError(
                    f"it has more than {MAX_ARCHIVE_BYTES} bytes without its compression; download CIFAR again"
                )
            content.write(piece)
    content.seek(0)
    return content


def is_part(name: str) -> bool:
    """Whether a file is a training batch or the names of the classes."""
    return PART.fullmatch(name.rpartition("/")[2]) is not None


def missing_batches(names: Sequence[str]) -> list[str]:
    """A line about the training batches of CIFAR-10 that are not among these; none for CIFAR-100, which has one."""
    missing = [name for name in BATCHES if name not in names]
    if not missing or not any(name in BATCHES for name in names):
        return []
    return [f"{', '.join(missing)} of CIFAR-10 are missing; download it again to have all images"]


class CIFARReader:
    """Images in memory."""

    def __init__(self, batches: list[tuple[str, dict]], meta: dict) -> None:
        key = next((key for key in LABELS if batches and key in batches[0][1]), None)
        if key is None:
            raise ReadError(f"it has no batch with `data` and `labels` or `fine_labels`; {WAY_OUT}")
        images = {name: _images(name, tree) for name, tree in batches}
        self.images = np.concatenate(list(images.values()))  # [N,3,32,32]
        labels = [
            class_numbers(_listed(tree.get(key)), len(images[name]), f"`{_text(key)}` of {name}")
            for name, tree in batches
        ]
        class_names = [_text(name) for name in _listed(meta.get(LABELS[key]))]
        names = [f"{name}/{number:05d}" for name, of_batch in images.items() for number in range(len(of_batch))]
        self.contents = Contents(names, np.concatenate(labels), class_names, missing_batches(list(images)))

    def read(self, number: int, name: str) -> bytes:
        return encode_pnm(self.images[number].transpose(1, 2, 0))


def _images(name: str, tree: dict) -> np.ndarray:
    data = getattr(tree[b"data"], "value", None)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE * SIDE,):
        raise ReadError(f"`data` of {name} is no array uint8 [N,{3 * SIDE * SIDE}]; download CIFAR again")
    return data.reshape(-1, 3, SIDE, SIDE)


def _listed(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else []


def _text(name: Any) -> str:
    if isinstance(name, bytes):
        return name.decode("utf-8", "replace")
    return name if isinstance(name, str) else reprlib.repr(name)


class Dtype:
    """numpy.dtype, for bytes only."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in (b"u1", "u1"):
            raise ReadError(f"it holds an array of type {reprlib.repr(name)}; CIFAR holds bytes only")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes do not have."""


class Array:
    """numpy.ndarray."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, Dtype) or not isinstance(content, bytes | bytearray) or is_fortran is True:
            raise ReadError(f"it holds an array that is not stored as CIFAR stores it; {WAY_OUT}")
        self.value = np.frombuffer(content, np.uint8).reshape(shape)


def _reconstruct(*_: Any) -> Array:
    return Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array as pickles of protocol 5 store it."""
    array = Array()
    array.__setstate__((1, shape, dtype, order != "C", content))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes, which Python 3 stores as a text in pickles of protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ReadError(f"it encodes a text as {reprlib.repr(encoding)}, which CIFAR does not need; {WAY_OUT}")
    return text.encode("latin1")


def _no_bytes(*values: Any) -> bytes:
    """Empty bytes, as the same pickles store them."""
    if values:
        raise ReadError(f"it makes bytes of other values, which CIFAR does not need; {WAY_OUT}")
    return b""


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            wanted = f"{module}.{name}"[:100]
            raise ReadError(f"it asks for {wanted!r}, which CIFAR does not need; nothing of it was executed; {WAY_OUT}")
        return ALLOWED[module, name]


def check_opcodes(content: bytes) -> None:
    """Raises ReadError for a pickle that would take much memory or deep recursion to load; it is not loaded here."""
    num_nested, before, is_bytes, pushed = 0, "", False, ["", "", ""]
    is_text: dict[Any, bool] = {}  # by entry of the memo
    for opcode, value, _ in pickletools.genops(content):
        name = opcode.name
        if isinstance(value, int) and name in PUTS and value > len(content):
            raise ReadError(f"its memo has an entry {value}, and it has {len(content)} bytes")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ReadError(f"it holds an integer of {value.bit_length()} bits; CIFAR's have {MAX_BITS} at most")
        if name in PUTS:
            is_text[len(is_text) if name == "MEMOIZE" else value] = before in TEXTS or is_bytes
        # Values that hold others several times, which hold others several times, never end to be hashed or shown.
        if name == "DUP" or (name in GETS and not is_text.get(value)):
            raise ReadError("it uses a value again that is no text, which CIFAR's pickles do not; download CIFAR again")
        if name not in PUTS:
            is_bytes = _makes_bytes(name, pushed)
            num_nested += name in NESTING and not is_bytes
            is_bytes, pushed = is_bytes and name == "REDUCE", [*pushed[-2:], name]
        before = name
    if num_nested > MAX_NESTING:
        raise ReadError(f"it nests {num_nested} values, and CIFAR's pickles about ten")


def _makes_bytes(name: str, pushed: Sequence[str]) -> bool:
    """Whether an opcode belongs to bytes as Python 3 stores them: a text of their own and `latin1`, then a call."""
    if name == "REDUCE":
        return pushed[-1] == "TUPLE2" and pushed[-3] in UNICODE and pushed[-2] in UNICODE | GETS
    return name == "TUPLE2" and pushed[-2] in UNICODE and pushed[-1] in UNICODE | GETS


def load_batch(content: bytes, path: str) -> dict:
    """The dictionary of a batch, with texts as bytes; raises ReadError."""
    try:
        check_opcodes(content)
        tree = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except ReadError as error:
        raise ReadError(f"{path}: {error}") from error
    except Exception as error:  # a damaged or hostile file can fail anywhere in the unpickler
        raise ReadError(f"{path} is no whole pickle of CIFAR: {error}; download it again") from error
    if not isinstance(tree, dict):
        raise ReadError(f"{path} holds no dictionary, so it is no batch of CIFAR")
    return {key.encode() if isinstance(key, str) else key: value for key, value in tree.items()}
