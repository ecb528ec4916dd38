"""Reads pickles of other programs as data: only listed names are allowed, each replaced by a class of this module.

Neither code in the pickle nor code that it names is executed, and arrays are read by this module, not by numpy's or
torch's own unpickling.
"""

from __future__ import annotations

import collections
import io
import pickle
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class UnsafePickleError(ValueError):
    """A pickle that asks for something that a file of networks does not need."""


class Record:
    """An object of another program: the name of its class, its attributes, and its constructor's metadata."""

    class_name = ""

    def __init__(self, meta: dict[str, Any] | None = None):
        self.meta = meta or {}
        self.state: dict[str, Any] = self.meta.get("state", {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.meta, self.state = {}, state


class Dtype:
    """A numpy data type: plain numbers only."""

    def __init__(self, name: str, *_: Any):
        self.type = np.dtype(name)
        if self.type.kind not in "biuf":
            raise UnsafePickleError(f"the file holds numpy arrays of type {name!r}; networks hold plain numbers only")

    def __setstate__(self, state: tuple) -> None:
        self.type = self.type.newbyteorder(state[1])


class Array:
    """A numpy array, or one number of numpy."""

    def __init__(self, *_: Any):
        self.value: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, content = state
        self.value = _array(dtype, content, shape, "F" if is_fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.value if dtype is None else self.value.astype(dtype)


class TorchStorage:
    """The storage of torch tensors."""

    def __init__(self, content: bytes):
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        self.numbers = torch.empty(0, dtype=loaded.dtype).set_(loaded)  # [all of them]


def load_pickle(content: bytes) -> Any:
    """The objects of a pickle, with Record for classes of other programs; raises UnsafePickleError for all else."""
    try:
        return _Unpickler(io.BytesIO(content)).load()
    except UnsafePickleError:
        raise
    except Exception as error:  # a damaged or hostile file can fail anywhere in the unpickler
        raise UnsafePickleError(
            f"the pickle cannot be read: {error}; it may be incomplete, so copy or download it again"
        ) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a name: a class or function of its own for each pickle, which may modify it."""
        key = (module, name)
        if key not in ALLOWED:
            raise UnsafePickleError(
                f"the file asks for {module}.{name}, which networks do not need; nothing of it was executed"
            )
        if key not in self.made:
            known = ALLOWED[key]
            if known in (collections.OrderedDict, set):
                self.made[key] = known
            elif isinstance(known, type):
                self.made[key] = type(known.__name__, (known,), {"class_name": name})
            else:
                self.made[key] = partial(known)
        return self.made[key]


def _array(dtype: Dtype, content: bytes, shape: Any, order: Any = "C") -> NDArray[Any]:
    if not isinstance(dtype, Dtype) or not isinstance(content, bytes | bytearray):
        raise UnsafePickleError("the file holds a numpy array that does not hold plain numbers")
    return np.frombuffer(content, dtype.type).reshape(shape, order=order)


def _scalar(dtype: Dtype, content: bytes) -> Array:
    array = Array()
    array.value = _array(dtype, content, ())
    return array


def _from_buffer(content: bytes, dtype: Dtype, shape: tuple, order: str) -> Array:
    array = Array()
    array.value = _array(dtype, content, shape, order)
    return array


def _tensor(storage: TorchStorage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    if not isinstance(storage, TorchStorage):
        raise UnsafePickleError("the file holds a tensor without storage")
    return torch.as_strided(storage.numbers, size, stride, offset).clone()


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as old pickle protocols write them."""
    if encoding != "latin1":
        raise UnsafePickleError(f"the file encodes bytes as {encoding!r}, not latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """The empty bytes, as old pickle protocols write them."""
    return b""


class Dict(dict):
    """A dictionary class of another program."""


NUMPY = [("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray")]
ALLOWED: dict[tuple[str, str], Any] = {
    **{key: Array for key in NUMPY},
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "dtype"): Dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch.storage", "_load_from_bytes"): TorchStorage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Record,
    ("dnnlib.util", "EasyDict"): Dict,
    ("dnnlib.tflib.network", "Network"): Record,
}
"""Every name that a pickle may ask for, and its replacement."""
