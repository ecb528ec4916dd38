"""Data sets written in three formats: pictures become bytes in any process, and one process puts them into files."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stylegan_ray.data.atomic_output import Output, output_at
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.errors import BadImage
from stylegan_ray.data.formats.tfrecord_wire import encode_example, file_name, framed, picture_levels
from stylegan_ray.data.labels import LABEL_FILE
from stylegan_ray.data.options import FORMATS, Format

PLAN_BYTES = 1 << 24
MOST_PICTURES = 256
"""Bytes and number of the pictures that are encoded together."""
SHARD_BYTES = 1 << 29
"""Decoded pictures of a Parquet file of a folder; packed they take a half or less."""
ATTRIBUTION_FILE = "ATTRIBUTION.txt"
LABEL_ROWS = 1 << 14

Plan = np.ndarray
"""Numbers of the pictures that are encoded together, in the order in which they are written."""


@dataclass(frozen=True)
class Encoder:
    """Reads pictures of a data set and makes the bytes that its format stores."""

    dataset: Dataset
    encode: Callable[[np.ndarray], list[bytes]]

    def __call__(self, plan: Plan) -> list[bytes]:
        """Which pictures could be read and why others could not (see `report_of`), then the encoded pictures."""
        kept, pictures, bad = [], [], []
        for index in plan.tolist():
            try:
                pictures.append(self.dataset.read(index))
                kept.append(index)
            except BadImage as error:
                bad.append((error.name, error.reason))
        report = json.dumps({"kept": kept, "bad": bad}).encode()
        return [report, *(self.encode(np.stack(pictures)) if pictures else [])]


def report_of(pieces: Sequence[bytes]) -> tuple[list[int], list[tuple[str, str]]]:
    """Numbers of the pictures that were encoded; names and reasons of those that could not be read."""
    report = json.loads(bytes(pieces[0]))
    return report["kept"], [(name, reason) for name, reason in report["bad"]]


def plans_of(order: np.ndarray, picture_bytes: int) -> list[Plan]:
    """The order in which pictures are written, cut into plans."""
    size = min(max(PLAN_BYTES // picture_bytes, 1), MOST_PICTURES)
    return [order[i : i + size] for i in range(0, len(order), size)]


def tfrecord_pieces(pictures: np.ndarray) -> list[bytes]:
    """Records of the pictures uint8 [N,C,H,W], one piece per level."""
    return [framed([encode_example(picture) for picture in level]) for level in picture_levels(pictures)]


def stored_png_pieces(pictures: np.ndarray) -> list[bytes]:
    """PNG files without compression, which decode fastest; byte for byte what StyleGAN2-ADA's tool makes."""
    return [_png(picture, compress_level=0) for picture in pictures]


def packed_png_pieces(pictures: np.ndarray) -> list[bytes]:
    """PNG files."""
    return [_png(picture) for picture in pictures]


def _png(picture: np.ndarray, **options: Any) -> bytes:
    image = Image.fromarray(picture[0] if len(picture) == 1 else np.ascontiguousarray(picture.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    image.save(buffer, format="png", **options)
    return buffer.getvalue()


class Writer(Protocol):
    """Puts encoded pictures into files."""

    def add(self, kept: Sequence[int], pieces: Sequence[bytes]) -> None:
        """Writes the pieces of a plan."""
        ...

    def finish(self) -> None:
        """Writes what comes last; the files are closed."""
        ...

    def close(self) -> None:
        """Closes the files, finished or not."""
        ...


class TFRecordWriter:
    """`<name>-rNN.tfrecords` for every level and `<name>-rxx.labels`, as ProGAN and StyleGAN keep data sets."""

    def __init__(self, output: Output, name: str, dataset: Dataset) -> None:
        self.output, self.name, self.dataset = output, name, dataset
        self.kept: list[int] = []
        self.stack = ExitStack()
        levels = picture_levels(np.zeros(dataset.resolution, dtype=np.uint8))
        names = [file_name(name, max(level.shape)) for level in levels]
        self.files = [self.stack.enter_context(output.open(name)) for name in names]

    def add(self, kept: Sequence[int], pieces: Sequence[bytes]) -> None:
        for file, piece in zip(self.files, pieces, strict=True) if kept else ():
            file.write(piece)
        self.kept += kept

    def finish(self) -> None:
        if self.dataset.label_size:
            with self.output.open(f"{self.name}-rxx.labels") as file:
                write_labels(file, self.dataset, np.array(self.kept))
        self.close()

    def close(self) -> None:
        self.stack.close()


def write_labels(file: BinaryIO, dataset: Dataset, kept: np.ndarray) -> None:
    """The .npy file of the labels float32 [N,label_size], without all of them in memory."""
    shape = (len(kept), dataset.label_size)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})  # type: ignore
    for start in range(0, len(kept), LABEL_ROWS):
        file.write(dataset.labels(kept[start : start + LABEL_ROWS]).tobytes())


def write_attribution(output: Output, dataset: Dataset) -> None:
    """A file that says whom the pictures are from, where that is known."""
    if dataset.attribution:
        with output.open(ATTRIBUTION_FILE) as file:
            file.write(f"{dataset.attribution}\n".encode())


class ZipWriter:
    """A zip of 00000/img00000000.png ... and dataset.json, as StyleGAN2-ADA's tool writes it."""

    def __init__(self, output: Output, name: str, dataset: Dataset) -> None:
        self.dataset = dataset
        self.kept: list[int] = []
        self.stack = ExitStack()
        file = self.stack.enter_context(output.open(name))
        self.archive = self.stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))

    def add(self, kept: Sequence[int], pieces: Sequence[bytes]) -> None:
        for number, piece in enumerate(pieces, start=len(self.kept)):
            self.archive.writestr(_entry(picture_name(number)), piece)
        self.kept += kept

    def finish(self) -> None:
        names = map(picture_name, range(len(self.kept)))
        tree = {"class_names": self.dataset.class_names, "attribution": self.dataset.attribution}
        labels = plain_labels(self.dataset)
        text = '{"labels": null'
        if labels is not None:
            pairs = zip(names, (labels[index].tolist() for index in self.kept), strict=True)
            text = f'{{"labels": [{", ".join(map(json.dumps, pairs))}]'
        for key, value in tree.items():
            text += f', "{key}": {json.dumps(value)}' if value else ""
        self.archive.writestr(_entry(LABEL_FILE), text + "}")
        self.close()

    def close(self) -> None:
        self.stack.close()


def picture_name(number: int) -> str:
    """Where a picture lies in a zip: a folder for every thousand."""
    return f"{number // 1000:05d}/img{number:08d}.png"


def _entry(name: str) -> zipfile.ZipInfo:
    """A zip entry whose date does not depend on the day, so that equal data gives equal files."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info


def plain_labels(dataset: Dataset) -> np.ndarray | None:
    """Labels of all pictures as dataset.json and Parquet keep them: class numbers where they say it all, or vectors."""
    if dataset.label_values is None:
        return None
    values = dataset.label_values[dataset.rows]
    return values.argmax(axis=1) if values.ndim == 2 and _is_one_hot(values) else values


def _is_one_hot(values: np.ndarray) -> bool:
    """Whether class numbers hold all that the vectors say, also how many classes there are."""
    is_binary = ((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all()
    return bool(is_binary and values[:, -1].any())


class ParquetWriter:
    """Parquet files as Hugging Face data sets keep them: a column struct{bytes, path}, and `label`."""

    def __init__(self, output: Output, names: Sequence[str], plans_per_file: int, dataset: Dataset) -> None:
        self.output, self.names, self.plans_per_file = output, names, plans_per_file
        self.num_plans = self.num_pictures = 0
        self.stack = ExitStack()
        self.labels = plain_labels(dataset)
        self.schema = parquet_schema(self.labels, dataset.class_names, dataset.attribution)
        self.file: pq.ParquetWriter | None = None

    def add(self, kept: Sequence[int], pieces: Sequence[bytes]) -> None:
        if self.num_plans % self.plans_per_file == 0:
            self._next_file()
        assert self.file is not None
        if kept:
            self.file.write_table(self._table(kept, pieces), row_group_size=len(kept))
        self.num_plans += 1
        self.num_pictures += len(kept)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self.stack.close()

    def _next_file(self) -> None:
        self.stack.close()
        stream = self.stack.enter_context(self.output.open(self.names[self.num_plans // self.plans_per_file]))
        self.file = self.stack.enter_context(
            pq.ParquetWriter(stream, self.schema, compression="none", use_dictionary=False, write_statistics=False)
        )

    def _table(self, kept: Sequence[int], pieces: Sequence[bytes]) -> pa.Table:
        paths = [f"img{self.num_pictures + i:08d}.png" for i in range(len(kept))]
        image = pa.StructArray.from_arrays([pa.array(pieces, pa.binary()), pa.array(paths)], ["bytes", "path"])
        labels = [] if self.labels is None else [pa.array(self.labels[kept].tolist(), self.schema.field("label").type)]
        return pa.Table.from_arrays([image, *labels], schema=self.schema)


def parquet_schema(
    labels: np.ndarray | None, class_names: Sequence[str] | None = None, attribution: str | None = None
) -> pa.Schema:
    """Columns, and what Hugging Face's library wants to know about them."""
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None and labels.ndim == 1:
        fields.append(pa.field("label", pa.int64()))
        is_named = {"names": list(class_names or ()), "_type": "ClassLabel"}
        features["label"] = is_named if class_names else {"dtype": "int64", "_type": "Value"}
    elif labels is not None:
        fields.append(pa.field("label", pa.list_(pa.float32())))
        features["label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    info = {"features": features, **({"license": attribution} if attribution else {})}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": info})})


def shard_names(num_files: int) -> list[str]:
    """Names of the Parquet files in a folder."""
    return [f"train-{i:05d}-of-{num_files:05d}.parquet" for i in range(num_files)]


ENCODE = {"zip": stored_png_pieces, "tfrecords": tfrecord_pieces, "parquet": packed_png_pieces}


@dataclass(frozen=True)
class Task:
    """What is to be written where."""

    dataset: Dataset
    format: Format
    dest: str
    plans: Sequence[Plan]

    @property
    def encoder(self) -> Encoder:
        """What tasks do."""
        return Encoder(self.dataset, ENCODE[self.format])

    @property
    def is_file(self) -> bool:
        return self.dest.lower().endswith((FORMATS["zip"], FORMATS["parquet"]))

    @property
    def name(self) -> str:
        """The last part of DEST."""
        return os.path.basename(self.dest.rstrip("/") if "://" in self.dest else os.path.abspath(self.dest))

    def output(self, overwrite: bool) -> Output:
        """The place for the files; raises DataError when they cannot or must not be written there."""
        endings = [FORMATS[self.format], *([".labels"] if self.format == "tfrecords" else []), ATTRIBUTION_FILE]
        num_bytes = (
            0 if self.format == "parquet" else self.dataset.num_images * picture_bytes(self.dataset, self.format)
        )
        return output_at(self.dest, self.is_file, endings, overwrite, num_bytes)

    def writer(self, output: Output) -> Writer:
        """What writes the files."""
        if self.format == "tfrecords":
            return TFRecordWriter(output, self.name, self.dataset)
        if self.format == "zip":
            return ZipWriter(output, self.name, self.dataset)
        if self.is_file:
            return ParquetWriter(output, [self.name], len(self.plans), self.dataset)
        per_file = max(SHARD_BYTES // (picture_bytes(self.dataset, "zip") * len(self.plans[0])), 1)
        return ParquetWriter(output, shard_names(-(-len(self.plans) // per_file)), per_file, self.dataset)


def picture_bytes(dataset: Dataset, kind: Format) -> int:
    """Bytes of a picture as a task hands it over, which are those on disk but for Parquet's packed pictures."""
    levels = picture_levels(np.zeros(dataset.shape(), dtype=np.uint8)) if kind == "tfrecords" else ()
    return sum(level.nbytes + 100 for level in levels) or math.prod(dataset.shape()) + 300
