"""Parquet files of encoded pictures, as Hugging Face data sets keep them: a column struct{bytes, path}, and `label`."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import Labels
from stylegan_ray.data.packed_names import Names
from stylegan_ray.data.scan import scan

ENDING, LABEL_COLUMN = ".parquet", "label"
CACHE_BYTES = 1 << 28
"""Row groups kept in each process; a picture cannot be read without its group, hence data.shuffle=blocks."""
MAX_GROUP_BYTES = 1 << 29


class ParquetSource:
    """Bytes of the pictures of Parquet files, by row group."""

    def __init__(self, files: Files, shards: Sequence[str], column: str, places: dict[str, np.ndarray]) -> None:
        self.files, self.shards, self.column, self.places = files, shards, column, places
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetSource, (self.files, self.shards, self.column, self.places)

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """A picture's bytes: all, or the first `at_least`."""
        number = int(np.searchsorted(self.places["first"], entry, side="right")) - 1
        content = self._group(number)[entry - int(self.places["first"][number])].as_py()
        if content is None:
            raise ValueError("is a path or empty, not the bytes of a picture")
        return content if at_least is None else content[:at_least]

    def _group(self, number: int) -> Any:
        """The bytes column of a row group."""
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            if number in self._groups:
                self._groups.move_to_end(number)
                return self._groups[number]
            shard, group = int(self.places["shard"][number]), int(self.places["group"][number])
            with self.files.open(self.shards[shard]) as file:
                table = pq.ParquetFile(file).read_row_group(group, columns=[self.column])
            column = table.column(0).combine_chunks()
            self._groups[number] = column.field("bytes") if pa.types.is_struct(column.type) else column
            while len(self._groups) > 1 and sum(group.nbytes for group in self._groups.values()) > CACHE_BYTES:
                self._groups.popitem(last=False)
            return self._groups[number]

    def _forget(self) -> None:
        self._pid, self._lock, self._groups = os.getpid(), threading.Lock(), OrderedDict()


def relevant(infos: Sequence[FileInfo]) -> list[FileInfo]:
    """The files of a folder that make the data set."""
    return [info for info in infos if info.name.endswith(ENDING)]


def build_index(
    files: Files, infos: Sequence[FileInfo], progress: Progress | None, decode_up_to: int | None = None
) -> Index:
    """Reads the footers of all files, opens all pictures and reads the labels."""
    shards, names, labels = tuple(info.name for info in infos), [], []
    rows: dict[str, list[int]] = {"shard": [], "group": [], "size": []}
    column, class_names = "", None
    for number, name in enumerate(shards):
        with files.open(name) as file:
            parquet = _opened(files, name, file)
            column, class_names = _picture_column(parquet.schema_arrow, name), _class_names(parquet.schema_arrow)
            _add_groups(rows, parquet.metadata, number, name)
            names += [f"{name}#{row}" for row in range(parquet.metadata.num_rows)]
            if LABEL_COLUMN in parquet.schema_arrow.names:
                labels.append(parquet.read(columns=[LABEL_COLUMN]).column(0).to_pylist())
    first = np.cumsum([0, *rows["size"]])[:-1]
    places = {"first": first, "shard": np.array(rows["shard"]), "group": np.array(rows["group"])}
    places["column"] = np.array(column)
    index_names = Names.of(names)
    seen = scan(ParquetSource(files, shards, column, places).read, index_names, progress, decode_up_to)
    found = _labels([label for part in labels for label in part], len(names), class_names)
    return Index("parquet", index_names, places, found, **vars(seen), shards=shards)


def source(files: Files, index: Index) -> ParquetSource:
    """Where the bytes of an indexed data set come from."""
    return ParquetSource(files, index.shards, str(index.places["column"]), index.places)


def block_rows(index: Index) -> int:
    """Rows of the largest row group: what is best read together."""
    return int(np.diff(np.append(index.places["first"], len(index.names))).max())


def _opened(files: Files, name: str, file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"data.path={files.root}/{name} is not a whole Parquet file: {error}") from error


def _picture_column(schema: pa.Schema, name: str) -> str:
    """The first column of bytes, or of structs with a field `bytes`."""
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return field.name
    raise DataError(f"data.path: {name} has no column of encoded pictures, only {', '.join(schema.names)}")


def _add_groups(rows: dict[str, list[int]], metadata: Any, shard: int, name: str) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.total_byte_size > MAX_GROUP_BYTES:
            raise DataError(
                f"data.path: row group {number} of {name} takes {group.total_byte_size >> 20} MiB and must be "
                f"read whole for each picture; write the file again with groups below {MAX_GROUP_BYTES >> 20} MiB"
            )
        rows["shard"].append(shard)
        rows["group"].append(number)
        rows["size"].append(group.num_rows)


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Class names as Hugging Face keeps them beside the schema."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(info["info"]["features"][LABEL_COLUMN]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _labels(labels: list[Any], num: int, class_names: tuple[str, ...] | None) -> Labels:
    if not num or len(labels) < num:
        return Labels(problem=f"not all Parquet files have a column `{LABEL_COLUMN}`")
    return Labels.of(labels, f"column `{LABEL_COLUMN}`", class_names)
