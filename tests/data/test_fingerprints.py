"""Fingerprints of data sets are those of version 0.1 (commit 018a58d): a run refuses to continue on another one."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import label_file, opened

from stylegan_ray.data import formats
from stylegan_ray.data.encode import to_pil
from stylegan_ray.data.formats import tfrecord_wire

PINNED = {
    "folder": (
        "7459405c1f5f6bae910e6f4515c8a5a318427ce827bc84609f6cb6e8f398aa97",
        "c5247fefc75052ab1d8ccc2b55bed0bbeadd5d0756d41d48768502eabb18e0ea",
    ),
    "zip": (
        "390ae75f49c6cff037424935e27faa050dfb88ff5e3097a7358b1015412ad91c",
        "94618e4fc9de62378682eeef4db5d56082a12d3307179a4e4b29b269d0174e45",
    ),
    "tar": (
        "34ccee33a220b636cd654db08e9304aa55170888dce49046b297ccd354ed37f0",
        "3820dc5dbd2d9e5d22c7d657a84afc06720070117b8092cff061e5ac726c69ef",
    ),
    "parquet": (
        "b89dd75d570e1a2d452accd15309e3d6ed1b8634f76552dc44cc12212a6656fb",
        "829f6c71dd887a921d93ee362c568dc2febaa166ce7f3833a31332f5737ad386",
    ),
    "tfrecords": (
        "8da5056085e063e04708947c564b7bafdc4c648dc2068623b80fd41f4e48b46e",
        "c6d92ae001a7c901afa8c73ac1cfb0327bfcb40243f29789bf8fc8d1b3cc9028",
    ),
}
"""By format: the fingerprint as it is, and one with labels, a resolution and a subset."""


def pixels(number):
    y, x, channel = np.mgrid[:16, :16, :3]
    return (y * 7 + x * 13 + channel * 31 + number * 50).astype(np.uint8)


def bmp(number):
    """A file whose bytes depend on no compression library."""
    buffer = io.BytesIO()
    to_pil(pixels(number).transpose(2, 0, 1)).save(buffer, "BMP")
    return buffer.getvalue()


FILES = {f"{i}.bmp": bmp(i) for i in range(4)}
LABELS = json.dumps({"labels": [[name, i % 2] for i, name in enumerate(FILES)]}).encode()


def write_as_folder(root):
    for name, content in {**FILES, "dataset.json": LABELS}.items():
        (root / name).write_bytes(content)
    return root


def write_as_zip(root):
    with zipfile.ZipFile(root / "d.zip", "w") as archive:
        for name, content in {**FILES, "dataset.json": LABELS}.items():
            archive.writestr(name, content)
    return root / "d.zip"


def write_as_tar(root):
    with tarfile.open(root / "d.tar", "w") as archive:
        for i, (name, content) in enumerate(FILES.items()):
            for member, data in ((name, content), (name.replace("bmp", "cls"), b"%d" % (i % 2))):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return root / "d.tar"


def write_as_parquet(root):
    rows = [
        {"image": {"bytes": content, "path": name}, "label": i % 2} for i, (name, content) in enumerate(FILES.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "d.parquet", row_group_size=2)
    return root / "d.parquet"


def write_as_tfrecords(root):
    images = np.stack([pixels(i).transpose(2, 0, 1) for i in range(4)])
    for level in tfrecord_wire.image_levels(images):
        records = tfrecord_wire.frame_records([tfrecord_wire.encode_example(image) for image in level])
        (root / tfrecord_wire.file_name("set", level.shape[-1])).write_bytes(records)
    name, content = label_file("set", np.eye(2)[[0, 1, 0, 1]])
    (root / name).write_bytes(content)
    return root


WRITE = {
    "folder": write_as_folder,
    "zip": write_as_zip,
    "tar": write_as_tar,
    "parquet": write_as_parquet,
    "tfrecords": write_as_tfrecords,
}


@pytest.mark.parametrize("name", PINNED)
def test_fingerprints_stay(tmp_path, name):
    (tmp_path / "d").mkdir()
    path = WRITE[name](tmp_path / "d")
    plain = opened(path, shuffle="blocks")
    changed = opened(path, seed=5, shuffle="blocks", cond=True, resolution=8, resize="box", subset=3)
    assert (plain.fingerprint, changed.fingerprint) == PINNED[name]


def test_every_format_is_pinned():
    assert {format.name for format in formats.FORMATS} == set(PINNED)
