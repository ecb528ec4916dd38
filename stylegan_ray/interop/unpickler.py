"""Pickles of NVIDIA's programs as data: only listed names are allowed, each replaced by a class or function of ours.

Neither code in the pickle nor code that it names is executed, and arrays are read by this package, not by numpy's or
torch's own unpickling.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylegan_ray.interop.pickles import (
    Budget,
    Built,
    Dict,
    PickleReader,
    UnsafePickleError,
    checked_key,
    checked_sizes,
    num_elements,
    take,
)
from stylegan_ray.interop.torch_files import LEGACY, TorchStorage, parameter, read_torch_file, tensor
from stylegan_ray.untrusted import printable

__all__ = ["Dict", "Record", "UnsafePickleError", "load_pickle"]

NUMBERS = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|\?)")
"""Names of numpy data types that hold plain numbers."""


class Record(Built):
    """An object of another program: the name of its class, its attributes, and its constructor's metadata."""

    class_name = ""

    def __init__(self, meta: Any = None, *_: Any):
        self.meta: dict[str, Any] = _mapping({} if meta is None else meta)
        self.state: dict[str, Any] = _mapping(self.meta.get("state", {}))

    def build(self, state: Any) -> None:
        self.meta, self.state = {}, _mapping(state)


class Dtype(Built):
    """A numpy data type: plain numbers only."""

    def __init__(self, name: Any = None, *_: Any):
        if not isinstance(name, str) or not NUMBERS.fullmatch(name):
            raise UnsafePickleError(
                f"the file holds numpy arrays of type {printable(name, 40)!r}; networks hold plain numbers only"
            )
        self.type = np.dtype(name)

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise UnsafePickleError("the file holds a numpy data type of an unknown kind")
        self.type = self.type.newbyteorder(state[1])


class Array(Built):
    """A numpy array, or one number of numpy."""

    def __init__(self, *_: Any):
        self.value: NDArray[Any] = np.zeros(0)

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnsafePickleError("the file holds a numpy array of an unknown kind")
        _, shape, dtype, is_fortran, content = state
        self.value = _array(dtype, content, shape, "F" if is_fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.value if dtype is None else self.value.astype(dtype)


def load_pickle(content: bytes) -> Any:
    """The objects of a pickle, with Record for classes of other programs; raises UnsafePickleError for all else."""
    return PickleReader(ALLOWED, Budget(content)).read(io.BytesIO(content))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnsafePickleError(f"the file holds an object whose attributes are a {type(value).__name__}")
    return value


def _array(dtype: Any, content: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    if not isinstance(dtype, Dtype) or not isinstance(content, bytes | bytearray):
        raise UnsafePickleError("the file holds a numpy array that does not hold plain numbers")
    sizes = checked_sizes(shape)
    if num_elements(sizes) * dtype.type.itemsize != len(content) or order not in ("C", "F"):
        raise UnsafePickleError(
            f"the file cannot be read: a numpy array of shape {sizes} for {len(content)} bytes of {dtype.type}"
        )
    if not content:
        return np.zeros(sizes, dtype.type)
    return np.frombuffer(content, dtype.type).reshape(sizes, order=order)


def _scalar(dtype: Any, content: Any) -> Array:
    array = Array()
    array.value = _array(dtype, content, ())
    return array


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.value = _array(dtype, content, shape, order)
    return array


def _storage(budget: Budget, content: Any) -> TorchStorage:
    """The storage of a torch tensor, which is a file of torch.save of its own."""
    if not isinstance(content, bytes) or content[2 : 2 + len(LEGACY)] != LEGACY:
        raise UnsafePickleError("the pickle cannot be read: a storage of torch in an unknown format")
    found = read_torch_file(content, budget)
    if not isinstance(found, TorchStorage):
        raise UnsafePickleError("the pickle cannot be read: a storage of torch that is none")
    return found


def _latin1(budget: Budget, text: Any, encoding: Any) -> bytes:
    """Bytes as old pickle protocols write them."""
    if encoding != "latin1" or not isinstance(text, str):
        raise UnsafePickleError(f"the file encodes bytes as {printable(encoding, 40)!r}, not latin1")
    take(budget, len(text), "bytes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """The empty bytes, as old pickle protocols write them."""
    return b""


def _set(values: Any = ()) -> set[str | int]:
    """A set of words or integers."""
    if not isinstance(values, list | tuple):
        raise UnsafePickleError("the file holds a set of an unknown kind")
    return set(map(checked_key, values))


for _function in (_storage, _latin1):
    _function.takes_budget = True  # type: ignore[attr-defined]

NUMPY = [("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray")]
ALLOWED: dict[tuple[str, str], Any] = {
    **{key: Array for key in NUMPY},
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): Dict,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch._utils", "_rebuild_tensor_v2"): tensor,
    ("torch._utils", "_rebuild_parameter"): parameter,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Record,
    ("dnnlib.util", "EasyDict"): Dict,
    ("dnnlib.tflib.network", "Network"): Record,
}
"""Every name that a pickle may ask for, and its replacement."""
