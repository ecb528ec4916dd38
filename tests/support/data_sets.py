"""Small sets of pictures on disk."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from stylegan_ray.config import DataConfig
from stylegan_ray.data import open_dataset


def noise_picture(seed, size=(16, 16), mode="RGB"):
    """A picture of random pixels; size is (height, width)."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode) if mode == "LA" else Image.fromarray(pixels)


def encoded(image, kind="PNG", **options):
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def numbered(count, **kwargs):
    """{name: picture} of so many different pictures."""
    return {f"{i:03d}.png": noise_picture(i, **kwargs) for i in range(count)}


def chw(image):
    """The pixels of a picture as [C,H,W]."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def label_json(labels):
    """The bytes of a dataset.json."""
    return json.dumps({"labels": labels}).encode()


def write_folder(root, files):
    """Writes files {name: bytes or picture} below a folder and returns it."""
    for name, content in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return root


def write_zip(path, files, compression=zipfile.ZIP_STORED):
    """Writes files {name: bytes or picture} into a zip and returns its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes) else encoded(content))
    return path


def opened(path, seed=0, progress=None, **keys):
    """The data set at a path, with keys of the data section."""
    return open_dataset(DataConfig(path=str(path), **keys), seed, progress)


def label_file(name, labels):
    """Name and content of the labels beside TFRecords: float32 [N,label_size] in the order of the files."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(labels).astype(np.float32), allow_pickle=False)
    return f"{name}-rxx.labels", buffer.getvalue()
