"""Pickles written opcode by opcode, as no honest program writes them."""

from __future__ import annotations

import struct
from typing import Any

from stylegan_ray.interop.pickles import Dict


class Raw(bytes):
    """Opcodes that leave one value on the stack."""


def opcodes(value: Any) -> bytes:
    """The opcodes that put a value on the stack."""
    if isinstance(value, Raw):
        return value
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8b" + struct.pack("<i", len(content)) + content
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        content = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(content)) + content
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, dict | Dict):
        return b"}(" + b"".join(opcodes(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    return b"](" + b"".join(map(opcodes, value)) + b"e"


def pickled(value: Any) -> bytes:
    """A pickle of a value."""
    return b"\x80\x04" + opcodes(value) + b"."


def name(module: str, attribute: str) -> Raw:
    return Raw(f"c{module}\n{attribute}\n".encode())


def call(function: Raw, *arguments: Any) -> Raw:
    return Raw(function + opcodes(tuple(arguments)) + b"R")


def module(modules: Any = None, parameters: Any = None, **own: Any) -> Raw:
    """A module of StyleGAN2-ADA."""
    state = {"_parameters": parameters or {}, "_buffers": {}, "_modules": modules or {}, **own}
    return call(name("torch_utils.persistence", "_reconstruct_persistent_obj"), {"type": "class", "state": state})


def array(value: Any, dtype: str = "f4", shape: tuple[int, ...] | None = None, content: bytes | None = None) -> Raw:
    """A numpy array, whose parts may contradict each other."""
    kind = Raw(call(name("numpy", "dtype"), dtype, False, True) + opcodes((3, "<", None, None, None, -1, -1, 0)) + b"b")
    empty = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), (0,), b"b")
    state = (1, value.shape if shape is None else shape, kind, False, value.tobytes() if content is None else content)
    return Raw(empty + opcodes(state) + b"b")


def network(variables: Any, func: Any = "G_main", kwargs: Any = None, components: Any = None) -> Raw:
    """A network of the TensorFlow programs."""
    state = {
        "version": 4, "build_func_name": func, "static_kwargs": kwargs or {}, "components": components or {},
        "variables": variables,
    }  # fmt: skip
    return Raw(name("dnnlib.tflib.network", "Network") + b")\x81" + opcodes(state) + b"b")
