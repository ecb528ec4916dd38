"""What is fuzzed: a reader, whole files to start from, and the errors that it may raise.

A reader that raises anything else, takes more than a few seconds, or needs more than a gigabyte has a fault.
"""

from __future__ import annotations

import logging
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fuzz import seeds

from stylegan_ray.checkpoint_files import completion
from stylegan_ray.cluster.tune.space import Space
from stylegan_ray.config import ConfigError, DataConfig, load_config
from stylegan_ray.data import open_dataset
from stylegan_ray.data.decode import DEEP_MODES, Decoder, read_header
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.finished import Finished
from stylegan_ray.data.formats.celeba import parse_attributes
from stylegan_ray.data.headers import plain_header
from stylegan_ray.data.labels import LabelFile, Labels, labels_from_json
from stylegan_ray.data.npy import parse_npy
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.images.saved_w import load_w
from stylegan_ray.interop import load_network
from stylegan_ray.interop.unpickler import load_pickle
from stylegan_ray.lease import Claim, Owner
from stylegan_ray.metrics.row_files import load_rows
from stylegan_ray.metrics.rows import compare, mean_rows
from stylegan_ray.readers import cifar_reader, idx_reader, lmdb_reader
from stylegan_ray.readers.protocol import ReadError, unpack_contents
from stylegan_ray.run_folder import COMPLETE, CONFIG, COUNTERS, STATE


@dataclass(frozen=True)
class Target:
    """One reader."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    errors: tuple[type[Exception], ...]
    """What it may raise: errors whose message is for the user."""


def attempt(target: Target, content: bytes) -> None:
    """Reads an input; raises what a reader may not raise."""
    try:
        target.read(content)
    except target.errors as error:
        assert str(error).replace("\n", "").isprintable(), f"a message that forges lines: {error!r}"


class PrintableLog(logging.Handler):
    """Raises where a message of the log forges lines; writes nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        assert text.replace("\n", "").isprintable(), f"a message that forges lines: {text!r}"


def resident_mb() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


@cache
def folder() -> Path:
    """A folder in memory, where there is one, for files of one process."""
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


def written(name: str, content: bytes) -> str:
    """The path of a file with this content; it is written where it differs from the last one."""
    path = _path(name)
    if _written.get(name) != content:
        Path(path).write_bytes(content)
        _written[name] = content
    return path


@cache
def _path(name: str) -> str:
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


_written: dict[str, bytes] = {}
IMAGE_MB = 1
"""The limit for decoded images; inputs that decode to more take most of the time."""


def network_file(ending: str) -> Callable[[bytes], object]:
    return lambda content: load_network(written(f"network{ending}", content))


def checkpoint_file(name: str) -> Callable[[bytes], object]:
    """Reads a checkpoint one of whose files was changed."""

    def read(content: bytes) -> object:
        files = seeds.checkpoint() | {name: content}
        for other, text in ({COMPLETE: completion(files)} | files).items():
            written(f"checkpoint/{other}", text)
        return load_network(folder() / "checkpoint")

    return read


def preset(content: bytes) -> object:
    return load_config(written("preset.yaml", content), {})


def space(content: bytes) -> object:
    return Space.read(written("space.yaml", content), seeds.config())


def data_file(name: str) -> Callable[[bytes], object]:
    """Opens a data set in one file, or in the folder of this file, and decodes all of its images."""

    def read(content: bytes) -> object:
        path = written(name, content)
        os.environ.setdefault("STYLEGAN_RAY_CACHE", str(folder() / "cache"))
        cfg = DataConfig(
            path=path if "/" not in name else os.path.dirname(path), resolution=8, crop="center", resize="lanczos",
            alpha="drop", cond="/" not in name, on_bad_image="skip", max_image_mb=IMAGE_MB,
        )  # fmt: skip
        dataset = open_dataset(cfg)
        return [dataset.read(i) for i in range(dataset.num_images) if i not in dataset.bad]

    return read


def image(content: bytes) -> object:
    return Decoder((8, 8), 3, "center", "lanczos", "drop", max_bytes=IMAGE_MB << 20)("image", content)


def header(content: bytes) -> object:
    """What is read of a header without Pillow, Pillow reads too, and says the same."""
    found = plain_header(content)
    if found is not None:
        image = read_header(content, max_bytes=1 << 70)
        assert found == (image.height, image.width, image.mode)
        assert "exif" not in image.info and image.mode not in DEEP_MODES
    return found


def finished(content: bytes) -> object:
    """Reads a file of finished images: what is whole in it, and nothing else."""
    path = Path(written(".data.zip.finished", content))
    file = Finished(seeds.write_task(str(folder() / "data.zip")), path, say=lambda text: None)
    try:
        return [file.load(number) for number in file.records]
    finally:
        file.close()


def labels(content: bytes) -> Labels:
    return labels_from_json(LabelFile(content, PackedNames.pack(["0.png", "1.png"])))


def saved_w(content: bytes) -> object:
    return load_w([written("w.npz", content)], seeds.networks().G_ema)


def rows(content: bytes) -> object:
    """Reads rows of metrics, and compares and averages them as `evaluate compare` and `plot --by` do."""
    found = load_rows(written("rows.jsonl", content))
    pairs = compare(found, found) if any(row.get("value") is not None for row in found) else []
    return [pair.difference for pair in pairs], mean_rows([found, found])


def idx(ending: str) -> Callable[[bytes], object]:
    return lambda content: idx_reader.open_reader([written(f"train-images-idx3-ubyte{ending}", content)]).read(0, "0")


def cifar(content: bytes) -> object:
    """Reads a batch of images with whole names of classes, or names with a whole batch."""
    batch, names = seeds.cifar_batches()
    changed = cifar_reader.load_batch(content, "a")
    if b"data" in changed:
        return cifar_reader.CIFARReader([("a", changed)], cifar_reader.load_batch(names, "b"))
    return cifar_reader.CIFARReader([("b", cifar_reader.load_batch(batch, "b"))], changed)


def lmdb_keys(content: bytes) -> object:
    length, *keys = content.split(b"\n")
    return lmdb_reader.numbered_contents(keys, length)


def lease(content: bytes) -> object:
    owner = Owner.parse(content)
    text = owner.describe() if owner else ""
    assert text.isprintable(), f"a lease that forges lines: {text!r}"
    return owner and owner.overlaps([Claim("run")])


NETWORK_ERRORS = (ValueError,)
GZIP_ERRORS = (OSError, EOFError, zlib.error)
"""What the module gzip raises, and the reader's process names with the file."""
TARGETS: dict[str, Target] = {
    "network": Target(network_file(".safetensors"), seeds.network_files, NETWORK_ERRORS),
    "tensorflow_pickle": Target(network_file(".pkl"), seeds.tensorflow_pickles, NETWORK_ERRORS),
    "ada_pickle": Target(network_file(".pkl"), seeds.ada_pickles, NETWORK_ERRORS),
    "pickle": Target(load_pickle, seeds.plain_pickles, NETWORK_ERRORS),
    "rosinality": Target(network_file(".pt"), seeds.rosinality_files, NETWORK_ERRORS),
    "checkpoint_tensors": Target(checkpoint_file(STATE), lambda: [seeds.checkpoint_tensors()], NETWORK_ERRORS),
    "checkpoint_config": Target(checkpoint_file(CONFIG), seeds.network_configs, NETWORK_ERRORS),
    "checkpoint_counters": Target(checkpoint_file(COUNTERS), seeds.counters, NETWORK_ERRORS),
    "preset": Target(preset, seeds.presets, (ConfigError,)),
    "space": Target(space, seeds.spaces, (ConfigError,)),
    "zip": Target(data_file("data.zip"), seeds.zips, (ConfigError, BadImage)),
    "tar": Target(data_file("data.tar"), seeds.tars, (ConfigError, BadImage)),
    "parquet": Target(data_file("data.parquet"), seeds.parquets, (ConfigError, BadImage)),
    "tfrecord": Target(data_file("tfrecords/data-r03.tfrecords"), seeds.tfrecords, (ConfigError, BadImage)),
    "image": Target(image, seeds.images, (BadImage,)),
    "header": Target(header, seeds.images, (ValueError,)),
    "finished": Target(finished, seeds.finished_files, ()),
    "labels": Target(labels, seeds.labels, (ConfigError,)),
    "saved_w": Target(saved_w, seeds.saved_ws, (ConfigError,)),
    "rows": Target(rows, seeds.rows, (ConfigError,)),
    "npy": Target(parse_npy, seeds.npys, (ValueError,)),
    "attributes": Target(lambda content: parse_attributes(content, "file"), seeds.attributes, (DataError,)),
    "lease": Target(lease, seeds.leases, ()),
    "idx": Target(idx(""), seeds.idx_files, (ReadError,)),
    "idx_gz": Target(idx(".gz"), seeds.idx_archives, (ReadError, *GZIP_ERRORS)),
    "cifar": Target(cifar, seeds.cifar_batches, (ReadError,)),
    "lmdb_keys": Target(lmdb_keys, seeds.lmdb_keys, (ReadError,)),
    "reader_contents": Target(unpack_contents, seeds.contents, (ValueError,)),
}
"""Every reader of files that come from others, by name."""
