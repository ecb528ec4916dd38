"""Files of torch.save read as data: the zip archive, the format before torch 1.6, and storages inside of pickles.

torch.load is not used: its restricted unpickler takes sizes from the file, and its archives may be compressed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stylegan_ray.interop.pickles import (
    Budget,
    Built,
    Dict,
    PickleReader,
    UnsafePickleError,
    checked_sizes,
    num_elements,
    take,
)
from stylegan_ray.untrusted import COPY_AGAIN, printable

LEGACY = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
"""The number with which torch.save began files before version 1.6, behind two bytes."""
ENTRIES = 20_000
"""Most entries of an archive; one holds one storage."""
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class StorageType:
    """The name of a storage class, such as torch.FloatStorage."""

    def __init__(self, name: str) -> None:
        self.dtype = DTYPES[name]


class TorchStorage:
    """The numbers of a storage, of which tensors are views."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers  # [all of them]


class Options(Built):
    """The parsed command line of the training, which some files hold."""

    def __init__(self, *_: Any) -> None:
        self.values: Any = {}

    def build(self, state: Any) -> None:
        self.values = state


def is_torch_file(content: bytes) -> bool:
    """Whether a file was written by torch.save: a zip archive, or its older format."""
    return content[:4] == b"PK\x03\x04" or content[2 : 2 + len(LEGACY)] == LEGACY


def read_torch_file(content: bytes, budget: Budget | None = None) -> Any:
    """The objects of a file of torch.save; raises UnsafePickleError for all but plain values and tensors.

    Tensors are views of the storages in the file: none has more elements than its storage.
    """
    budget = Budget(content) if budget is None else budget
    return _from_archive(content, budget) if content[:2] == b"PK" else _from_legacy(content, budget)


def _from_archive(content: bytes, budget: Budget) -> Any:
    if content.count(b"PK\x01\x02") > ENTRIES:
        raise UnsafePickleError(f"the archive cannot be read: it has more than {ENTRIES:,} entries")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            _check_entries(entries, len(content))
            root = next((name[: -len("data.pkl")] for name in entries if name.endswith("data.pkl")), None)
            if root is None or root.count("/") != 1:
                raise UnsafePickleError("the archive holds no data.pkl as torch.save writes it; expected a .pt file")
            if archive.read(f"{root}byteorder") != b"little" if f"{root}byteorder" in entries else False:
                raise UnsafePickleError("the archive was written on a big-endian machine, which is not supported")
            storages: dict[str, TorchStorage] = {}

            def find(key: str, dtype: torch.dtype, number: int) -> TorchStorage:
                if key not in storages:
                    data = archive.read(f"{root}data/{key}")
                    storages[key] = _storage(data, dtype, number, budget)
                return storages[key]

            pickled = io.BytesIO(archive.read(f"{root}data.pkl"))
            return PickleReader(NAMES, budget, _persistent(find)).read(pickled)
    except UnsafePickleError:
        raise
    except Exception as error:  # zipfile raises many kinds for damaged archives
        raise UnsafePickleError(
            f"the file begins like one of torch.save, but is incomplete or damaged ({printable(error)}); {COPY_AGAIN}"
        ) from error


def _check_entries(entries: Mapping[str, zipfile.ZipInfo], size: int) -> None:
    """Raises UnsafePickleError for an archive that torch.save did not write: its entries are never compressed."""
    if any(name.endswith("/models/model.json") for name in entries):
        raise UnsafePickleError(
            "found a program of torch.export, which holds no networks; use the file it was made from"
        )
    if any(name.endswith("/constants.pkl") for name in entries):
        raise UnsafePickleError("found a TorchScript program, which holds no networks; use the file it was made from")
    stored = all(entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1 for entry in entries.values())
    if not stored or sum(entry.file_size for entry in entries.values()) > size:
        raise UnsafePickleError(
            "a compressed archive, which torch.save does not write; expected a .pt file of networks"
        )


def _from_legacy(content: bytes, budget: Budget) -> Any:
    """The older format: three pickles, that of the objects, one of the keys of the storages, then their numbers."""
    sizes: dict[str, tuple[torch.dtype, int]] = {}

    def note(key: str, dtype: torch.dtype, number: int) -> TorchStorage:
        sizes[key] = dtype, number
        return TorchStorage(torch.empty(number, dtype=dtype, device="meta"))

    file = io.BytesIO(content)
    magic, version, system = (PickleReader({}, budget).read(file) for _ in range(3))
    if magic != int.from_bytes(LEGACY[2:], "little") or version != 1001 or not isinstance(system, dict):
        raise UnsafePickleError(f"the file of torch.save cannot be read: it does not begin like one; {COPY_AGAIN}")
    begin = file.tell()
    PickleReader(NAMES, budget, _persistent(note)).read(file)  # only the sizes of the storages are of use yet
    keys = PickleReader({}, budget).read(file)
    if not isinstance(keys, list) or len(keys) != len(sizes) or {*map(str, keys)} != {*sizes}:
        raise UnsafePickleError(f"the file of torch.save cannot be read: its storages are incomplete; {COPY_AGAIN}")
    storages = {}
    for key in map(str, keys):
        dtype, number = sizes[key]
        if int.from_bytes(file.read(8), "little") != number or number < 0:
            raise UnsafePickleError(f"the file of torch.save cannot be read: its storages are incomplete; {COPY_AGAIN}")
        size = number * dtype.itemsize
        if size > len(content) - file.tell():
            raise UnsafePickleError(f"the file of torch.save cannot be read: its storages are incomplete; {COPY_AGAIN}")
        storages[key] = _storage(file.read(size), dtype, number, budget)
    file.seek(begin)
    return PickleReader(NAMES, budget, _persistent(lambda key, *_: storages[key])).read(file)


def _storage(data: bytes, dtype: torch.dtype, number: int, budget: Budget) -> TorchStorage:
    if len(data) != number * dtype.itemsize:
        raise UnsafePickleError(
            f"the file cannot be read: a storage of {len(data)} bytes for {number} numbers; {COPY_AGAIN}"
        )
    take(budget, len(data), "a storage")
    return TorchStorage(torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype))


def _persistent(find: Callable[[str, torch.dtype, int], TorchStorage]) -> Callable[[Any], TorchStorage]:
    """The storage of a persistent id: ("storage", type, key, place, number of elements, ...)."""

    def load(value: Any) -> TorchStorage:
        if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] != "storage":
            raise UnsafePickleError("the file of torch.save cannot be read: it refers to something other than storages")
        made = getattr(value[1], "made", None)
        if (
            not isinstance(made, StorageType)
            or not isinstance(value[2], str)
            or (len(value) == 6 and value[5] is not None)
        ):
            raise UnsafePickleError("the file of torch.save cannot be read: a storage of an unknown kind")
        return find(value[2], made.dtype, checked_sizes((value[4],))[0])

    return load


def tensor(budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; raises UnsafePickleError where it reaches beyond it, or has more elements.

    Its bytes count, since networks copy the numbers of each tensor, those of a shared storage as well.
    """
    if not isinstance(storage, TorchStorage):
        raise UnsafePickleError("the file holds a tensor without storage")
    shape, strides = checked_sizes(size), checked_sizes(stride)
    (offset,) = checked_sizes((offset,))
    number = num_elements(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if number and (last >= storage.numbers.numel() or number > storage.numbers.numel()):
        raise UnsafePickleError(
            f"the file cannot be read: a tensor of {number} elements in a storage of {storage.numbers.numel()}"
        )
    if not number:
        return torch.empty(shape, dtype=storage.numbers.dtype)
    budget.take(number * storage.numbers.itemsize)
    return torch.as_strided(storage.numbers, shape, strides, offset)


tensor.takes_budget = True  # type: ignore[attr-defined]


def parameter(data: Any, *_: Any) -> Tensor:
    """The tensor of a parameter."""
    if not isinstance(data, Tensor):
        raise UnsafePickleError("the file holds a parameter without a tensor")
    return data


NAMES: dict[tuple[str, str], Any] = {
    **{("torch", name): StorageType(name) for name in DTYPES},
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_parameter"): parameter,
    ("collections", "OrderedDict"): Dict,
    ("argparse", "Namespace"): Options,
}
"""Every name that a file of torch.save may ask for, and its replacement."""
