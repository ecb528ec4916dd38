"""Files of w (.npz): `w` float32 [N,num_ws,w_dim], and with noise maps `noise0`, `noise1`, ... [N or 1,1,H,W].

Files of `project` also hold `made_with`, uint8 [32]: a checksum of what they were made with.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.data.npy import parse_npy
from stylegan_ray.images.generate import stored_noise
from stylegan_ray.storage import Storage, split_address
from stylegan_ray.untrusted import BadFileError, is_stored_or_deflated, printable, reading

MOST_NAMED = 8
MOST_BYTES = 1 << 30
"""Largest file, and most bytes of its arrays; the w of 20,000 images at 1024 pixels take 0.7 GB."""
SMALL_BYTES, MOST_EXPANSION = 1 << 26, 16
"""Arrays take so many bytes, and so many times those of their file: noise and w hardly compress."""
MOST_ARRAYS = 1 << 10
"""Entries of a file; noise maps have two per resolution."""


@dataclass(frozen=True)
class SavedW:
    """Images as what their network makes them from."""

    names: list[str]
    """A name for each image, from that of its file."""
    ws: Tensor
    """[N,num_ws,w_dim]"""
    noise: list[Tensor] | None = None
    """Maps [N,1,H,W] of every layer with noise, or None: those stored in the network."""


def save_w(ws: Tensor, noise: Sequence[Tensor] = (), made_with: bytes | None = None) -> bytes:
    """The content of a file of w."""
    arrays = {"w": ws, **{f"noise{layer}": maps for layer, maps in enumerate(noise)}}
    buffer = io.BytesIO()
    found: dict[str, Any] = {name: value.detach().cpu().float().numpy() for name, value in arrays.items()}
    if made_with is not None:
        found["made_with"] = np.frombuffer(made_with, np.uint8)
    np.savez(buffer, **found)
    return buffer.getvalue()


def read_made_with(content: bytes) -> bytes | None:
    """The checksum in a file of w; None where there is none, or the content is another."""
    try:
        return _arrays(content)["made_with"].astype(np.uint8).tobytes()
    except Exception:  # a reader of zip files raises nearly anything
        return None


def load_w(paths: Sequence[str], G: Any, lod: float = 0.0, option: str = "--load-w") -> SavedW:
    """The images of one or several files, for the network G, on its device.

    Where only some files have noise maps, the others get those stored in the network. Files of NVIDIA's projector have
    the same key `w`. Nothing in a file is executed. Raises ConfigError for another content or another network's w.
    """
    where = next(G.parameters())
    shapes = G.synthesis.noise_shapes(1, lod)
    files = [_read(path, option) for path in paths]
    for path, arrays in zip(paths, files, strict=True):
        _check(path, arrays, (G.synthesis.num_ws, G.w_dim), shapes, option)
    ws = torch.cat([torch.from_numpy(arrays["w"]) for arrays in files])
    names = [name for path, arrays in zip(paths, files, strict=True) for name in _names(path, len(arrays["w"]))]
    noise = None
    if any("noise0" in arrays for arrays in files):
        noise = [_maps(files, layer, G, lod).to(where) for layer in range(len(shapes))]
    return SavedW(names, ws.to(where), noise)


def _read(path: str, option: str) -> dict[str, np.ndarray]:
    folder, name = split_address(path)
    where = f"{option} {printable(path)}"
    try:
        content = Storage.at(folder).read(name, MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{where}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {printable(error)}") from error
    with reading(where, _no_arrays):
        return _arrays(content)


def _no_arrays(text: str) -> ConfigError:
    return ConfigError(f"{text}: expected an .npz file of arrays; write one with project, or with generate --save-w")


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file as float32; raises BadFileError where they claim more than the file may hold."""
    if content.count(b"PK\x01\x02") > MOST_ARRAYS:
        raise BadFileError(f"it holds more than {MOST_ARRAYS:,} arrays")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        for entry in entries:
            if not is_stored_or_deflated(entry):
                raise BadFileError(f"{printable(entry.filename)} is encrypted, or compressed otherwise than by deflate")
        left = min(SMALL_BYTES + MOST_EXPANSION * len(content), MOST_BYTES)
        if sum(entry.file_size for entry in entries) > left:
            raise BadFileError(f"its arrays have more than {left} bytes, far more than it takes")
        arrays = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise BadFileError(f"it holds {printable(name)} twice; leave one out")
            arrays[name] = _array(archive, entry, left)
            left -= arrays[name].nbytes
        return arrays


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> np.ndarray:
    """The array of an entry as float32, of at most `most` bytes."""
    name = printable(entry.filename)
    with archive.open(entry) as file:
        content = file.read(entry.file_size)
    try:
        stored, size = parse_npy(content)
    except ValueError as error:
        raise BadFileError(f"{name} does not hold the plain numbers that it states: {error}") from error
    if size != len(content):
        raise BadFileError(f"{name} does not hold the plain numbers that it states: it is longer")
    if 4 * stored.size > most:
        raise BadFileError(f"{name} has {stored.size} numbers, far more than the file takes")
    with np.errstate(over="ignore"):  # such numbers become infinite, and are refused
        values = stored.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadFileError(f"{name} holds numbers that are not finite")
    return values


def _check(
    path: str, arrays: dict[str, np.ndarray], shape: tuple[int, int], shapes: Sequence[tuple[int, ...]], option: str
) -> None:
    if "w" not in arrays:
        found = ", ".join(printable(name, 60) for name in list(arrays)[:MOST_NAMED]) or "none"
        raise ConfigError(f"{option} {printable(path)} has no array `w`; it has {found}")
    w = arrays["w"]
    if w.ndim != 3 or not len(w) or w.shape[1:] != shape:
        raise ConfigError(
            f"{option} {path}: w has shape {w.shape}, and this network needs (N, {shape[0]}, {shape[1]}) with N "
            f"of at least 1; use the network that the file was made with"
        )
    found = [arrays[f"noise{i}"].shape for i in range(len(arrays)) if f"noise{i}" in arrays]
    fits = [f[1:] for f in found] == [s[1:] for s in shapes] and all(f[0] in (1, len(w)) for f in found)
    if found and not fits:
        raise ConfigError(
            f"{option} {path}: its noise maps have shapes {found}, and this network needs {list(shapes)}; "
            f"use the network that the file was made with"
        )


def _maps(files: Sequence[dict[str, np.ndarray]], layer: int, G: Any, lod: float) -> Tensor:
    """Noise [N,1,H,W] of one layer for all images."""
    stored = stored_noise(G.synthesis, lod)[layer].cpu()
    parts = [torch.from_numpy(arrays[f"noise{layer}"]) if "noise0" in arrays else stored for arrays in files]
    return torch.cat([x.expand(len(arrays["w"]), -1, -1, -1) for x, arrays in zip(parts, files, strict=True)])


def _names(path: str, num: int) -> list[str]:
    stem = split_address(path)[1].removesuffix(".npz")
    return [stem] if num == 1 else [f"{stem}-{i:04d}" for i in range(num)]
