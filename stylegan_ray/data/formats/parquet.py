"""Parquet files of encoded images, as Hugging Face data sets keep them: a column struct{bytes, path}, and `label`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stylegan_ray.data.atomic_output import Output
from stylegan_ray.data.covers import FEW_IMAGES
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.encode import encode_png
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import LIMIT_KEY, FileInfo, Files
from stylegan_ray.data.formats.folder import is_image
from stylegan_ray.data.formats.parquet_columns import (
    image_columns,
    is_likely,
    leaf_of,
    looks_like_image,
    no_column,
    note_on_column,
)
from stylegan_ray.data.formats.parquet_pages import Chunk, Footer, pages_of, read_footer
from stylegan_ray.data.formats.protocol import EncodedFormat, WritableFormat
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import Labels, texts
from stylegan_ray.data.left_out import IMAGE_ENDINGS, Endings, list_names, quoted
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import Reading, scan
from stylegan_ray.untrusted import PIECE, check_holes, check_size, descriptor_of, format_bytes, printable, stored_bytes
from stylegan_ray.untrusted import reading as guarded
from stylegan_ray.untrusted_text import parse_json

ENDING, LABEL_COLUMN = ".parquet", "label"
LABEL_ROWS, MAX_LABEL_BYTES, MAX_LABEL_VALUES = 1 << 12, 1 << 26, 1 << 25
"""Labels that are read together, their bytes at most, and numbers in the labels of a row group at most."""
NO_DICTIONARY = "Not yet implemented"
"""In what Arrow says of delta encodings, usual in version 2 of the format, where it is to make a dictionary of them."""
FIRST_ROWS, FIRST_PIECE = 8, 1 << 16
"""Rows by which it is seen whether a column holds images, and bytes that are read for them at once."""
MOST_COLUMNS = 256
"""Columns of bytes, the likeliest, of which the first values are looked at."""
FEW_ROWS, BYTES_PER_ROW = 10_000, 8
"""A data set has so many rows, and one more for so many bytes of the column of images: each costs a name."""
MOST_PAGES, BYTES_PER_PAGE = 10_000, 256
"""A file has so many pages, and one more for so many bytes; those of writers take kilobytes."""
LONGEST_NAME = 200
"""Characters of a text that names a class."""
CACHE_BYTES = 1 << 28
"""Row groups kept in memory in each process: reading one image reads its whole row group."""
MAX_GROUP_BYTES, SMALL_GROUP_BYTES, MOST_EXPANSION = 1 << 29, 1 << 26, 16
"""Of the images of a row group: at most, always, and so many times the size of their file."""
SHARD_BYTES = 1 << 29
"""Decoded images per file where a folder is written; compressed they take half of it or less."""
PNG_OVERHEAD = 300
"""Headers of a PNG, in bytes."""


class ParquetWriting(WritableFormat):
    """Writes one Parquet file, or a folder of files of about SHARD_BYTES."""

    description = "Parquet"
    endings = (ENDING,)

    def encode(self, images: np.ndarray) -> list[bytes]:
        """PNG files."""
        return [encode_png(image) for image in images]

    def image_bytes(self, shape: tuple[int, int, int]) -> int:
        return math.prod(shape) + PNG_OVERHEAD

    def disk_bytes(self, dataset: Dataset) -> int:
        """0: how well PNG compresses is not known beforehand."""
        return 0

    def open_writer(
        self, output: Output, name: str, is_file: bool, dataset: Dataset, plan_sizes: list[int]
    ) -> ParquetWriter:
        if is_file:
            return ParquetWriter(output, [name], len(plan_sizes), dataset)
        per_file = max(SHARD_BYTES // (self.image_bytes(dataset.shape()) * plan_sizes[0]), 1)
        return ParquetWriter(output, shard_names(-(-len(plan_sizes) // per_file)), per_file, dataset)


class Parquet(EncodedFormat):
    """One or several Parquet files."""

    name = "parquet"
    single_file_ending = ENDING
    prefers_blocks = True
    has_image_columns = True
    writer = ParquetWriting()

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        return [info for info in listing if info.name.lower().endswith(ENDING)]

    def claims(self, files: Files, infos: Sequence[FileInfo], listing: Sequence[FileInfo]) -> bool:
        """Whether a file has images: many image folders and tar shards have tables of metadata beside them.

        Where that cannot be seen, as in a damaged file, it has where few images, such as a thumbnail, are beside it.
        """
        if all(info.name.lower().endswith(ENDING) for info in listing):
            return True
        has_bytes = False
        for info in infos:
            try:
                with files.open(info.name) as file:
                    schema = pq.ParquetFile(file).schema_arrow
                    if _columns_with_images(file, schema, info):
                        return True
                    has_bytes = has_bytes or bool(image_columns(schema))
            except Exception:  # build_index says what is wrong
                has_bytes = True
        return has_bytes and sum(is_image(info.name) for info in listing) <= FEW_IMAGES

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, reading: Reading | None = None
    ) -> Index:
        reading = reading or Reading()
        column, note = (reading.image_column, "") if reading.image_column else _choose_column(files, infos)
        shards, without, num_rows, labels, left = list[str](), list[str](), [], [], FEW_ROWS
        rows: dict[str, list[int]] = {"shard": [], "group": [], "size": []}
        class_names, unlabelled = dict[tuple[str, ...], str](), ""
        for info in infos:
            with files.open(info.name) as file:
                schema = _open_parquet(files, info.name, file).schema_arrow
                if column not in image_columns(schema):
                    if _columns_with_images(file, schema, info) or len(infos) == 1:
                        raise no_column(schema, info.name, column)
                    without.append(info.name)
                    continue
                _refuse_twice(schema, info.name)
                if found := _class_names(schema):
                    class_names.setdefault(found, info.name)
                with guarded(f"data.path={files.root}/{info.name}", DataError, passes=(OSError,)):
                    footer = read_footer(file, info.size)
                    leaf = leaf_of(schema, column)
                    left = _rows_left(file, footer, leaf, info, left)
                    _add_groups(rows, footer, len(shards), info, leaf)
                    _check_pages(file, footer, leaf, info)
                shards.append(info.name)
                num_rows.append(footer.num_rows)
                if LABEL_COLUMN in schema.names:
                    labels += _read_labels(file, schema, footer)
                elif not unlabelled:
                    unlabelled = f"; the columns of {quoted(info.name)} are {list_names(schema.names, most=8)}"
        if not shards:
            raise DataError(f"data.path: no column {quoted(column)} of encoded images is in {list_names(without)}; "
                            "give the name of another with --data.image_column")  # fmt: skip
        first = np.cumsum([0, *rows["size"]])[:-1]
        places = {"first": first, "shard": np.array(rows["shard"]), "group": np.array(rows["group"])}
        places["column"] = np.array(column)
        names = PackedNames.pack(
            f"{shard}#{row}" for shard, num in zip(shards, num_rows, strict=True) for row in range(num)
        )
        scanned = scan(ParquetSource(files, shards, column, places).read, names, progress, reading)
        left_out = f"{len(without)} Parquet files without images: {list_names(without)}" if without else ""
        return Index(
            self.name, names, places, _labels(labels, names, class_names, unlabelled), **vars(scanned),
            shards=tuple(shards), left_out=tuple(filter(None, [note, left_out])),
        )  # fmt: skip

    def source(self, files: Files, index: Index) -> ParquetSource:
        return ParquetSource(files, index.shards, str(index.places["column"]), index.places)

    def block_rows(self, index: Index) -> int:
        """Rows of the largest row group."""
        return int(np.diff(np.append(index.places["first"], len(index.names))).max())


class ParquetSource:
    """Reads the images of Parquet files by row group, and keeps the latest row groups in memory."""

    def __init__(self, files: Files, shards: Sequence[str], column: str, places: dict[str, np.ndarray]) -> None:
        self.files, self.shards, self.column, self.places = files, shards, column, places
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetSource, (self.files, self.shards, self.column, self.places)

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of an image file: all, or the first `at_least`."""
        number = int(np.searchsorted(self.places["first"], entry, side="right")) - 1
        try:
            stored = self._group(number)[entry - int(self.places["first"][number])]
        except (pa.ArrowException, IndexError) as error:
            raise ValueError(f"cannot be read from its row group: {printable(str(error))}") from error
        if not stored.is_valid:
            raise ValueError("is a path or empty, not the bytes of an image")
        buffer = (stored.value if isinstance(stored, pa.DictionaryScalar) else stored).as_buffer()
        check_size(buffer.size, self.files.max_bytes, "the image", LIMIT_KEY)
        content = buffer.to_pybytes()
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
            column = self._table(self.shards[shard], group).column(0).combine_chunks()
            self._groups[number] = column.field("bytes") if pa.types.is_struct(column.type) else column
            while len(self._groups) > 1 and sum(group.nbytes for group in self._groups.values()) > CACHE_BYTES:
                self._groups.popitem(last=False)
            return self._groups[number]

    def _table(self, shard: str, group: int) -> pa.Table:
        """A row group; raises OSError where storage fails, ValueError where the row group is damaged.

        Arrow raises OSError for both: storage that answers, and then gives the same again, is not at fault.
        """
        for is_last in (False, True):
            try:
                with self.files.open(shard) as file:
                    return _read_column(file, self.column, group, shard)
            except OSError as error:
                self.files.read_at(shard, 0, 1)
                if is_last:
                    raise ValueError(f"cannot be read from its row group: {printable(str(error))}") from error
        raise AssertionError

    def _forget(self) -> None:
        self._pid, self._lock, self._groups = os.getpid(), threading.Lock(), OrderedDict()


def _choose_column(files: Files, infos: Sequence[FileInfo]) -> tuple[str, str]:
    """The column of images, and what to say about others: of the first file with images, else of one with bytes.

    Raises DataError where no file has a column of bytes.
    """
    schemas, chosen = list[pa.Schema](), None
    for info in infos:
        with files.open(info.name) as file:
            schema = _open_parquet(files, info.name, file).schema_arrow
            _refuse_twice(schema, info.name)
            images, columns = _columns_with_images(file, schema, info), image_columns(schema)
            if images:
                return images[0], note_on_column(schema, images[0], images)
            if columns and chosen is None:
                chosen = columns[0], note_on_column(schema, columns[0], [])
            schemas = schemas or [schema]
    if chosen is None:
        raise no_column(schemas[0], infos[0].name, None)
    return chosen


def _columns_with_images(file: Any, schema: pa.Schema, info: FileInfo) -> list[str]:
    """The columns whose first values are images, the likeliest first; the only column is taken by name or type."""
    columns = image_columns(schema)
    if len(columns) < 2 and all(is_likely(schema, column) for column in columns):
        return columns
    leaves = {column: leaf_of(schema, column) for column in columns[:MOST_COLUMNS]}
    values = _first_values(file, list(leaves.values()), info)
    return [column for column, leaf in leaves.items() if any(map(looks_like_image, values.get(leaf, [])))]


def _first_values(file: Any, leaves: Sequence[str], info: FileInfo) -> dict[str, list[bytes]]:
    """Bytes in the first rows of columns; none where they cannot be read."""
    found = {}
    with suppress(Exception):  # reading the images says what is wrong
        footer = read_footer(file, info.size)
        number, group = next((number, group) for number, group in enumerate(footer.groups) if group.num_rows)
        parquet = pq.ParquetFile(file, buffer_size=FIRST_PIECE)
        for leaf in leaves:
            with suppress(Exception):
                for chunk in group.chunks:
                    if chunk.path == leaf and chunk.can_be_larger(_most_bytes(info.size)):
                        _check_chunk(file, chunk, number, info)
                batches = parquet.iter_batches(batch_size=1, row_groups=[number], columns=[leaf])
                columns = [batch.column(0) for batch, _ in zip(batches, range(FIRST_ROWS), strict=False)]
                values = [column.field("bytes") if pa.types.is_struct(column.type) else column for column in columns]
                found[leaf] = [value for column in values for value in column.to_pylist() if value]
    return found


def _open_parquet(files: Files, name: str, file: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"data.path={files.root}/{name} is not a whole Parquet file: {printable(str(error))}; copy "
            "it again from its origin"
        ) from error


def _read_column(file: Any, column: str, group: int, name: str) -> pa.Table:
    """The images of a row group without their paths; equal ones take memory once, as they do in the file."""
    leaf = leaf_of(pq.ParquetFile(file).schema_arrow, column)
    try:
        return pq.ParquetFile(file, read_dictionary=[leaf]).read_row_group(group, columns=[leaf])
    except OSError as error:
        if NO_DICTIONARY not in str(error):
            raise
    return _read_rows(file, leaf, group, FileInfo(name, file.seek(0, os.SEEK_END), 0))


def _read_rows(file: Any, leaf: str, group: int, info: FileInfo) -> pa.Table:
    """As `_read_column`, row by row; raises DataError where they take far more memory than the file.

    Delta encodings state a value as a part of the one before, so that a small page can hold any number of large ones.
    """
    size, batches = 0, []
    for batch in pq.ParquetFile(file).iter_batches(batch_size=1, row_groups=[group], columns=[leaf]):
        size += batch.nbytes
        if size > _most_bytes(info.size):
            raise _too_large(group, info, size)
        batches.append(batch)
    return pa.Table.from_batches(batches)


def _is_text(dtype: pa.DataType) -> bool:
    """Whether values are texts, in any of Arrow's layouts."""
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


def _refuse_twice(schema: pa.Schema, name: str) -> None:
    """Raises DataError where two columns of images, or of labels, have one name."""
    counts = Counter(schema.names)
    for column in (*image_columns(schema), LABEL_COLUMN):
        if counts[column] > 1:
            raise DataError(f"data.path: {name} has {counts[column]} columns {quoted(column)}; write it again with one")


def _rows_left(file: Any, footer: Footer, leaf: str, info: FileInfo, left: int) -> int:
    """How many rows without content there may still be, of `left`; raises DataError where there are more.

    Run-length encoding makes them nearly free, and so do holes.
    """
    groups = sum(group.num_rows for group in footer.groups)
    size = sum(chunk.size for group in footer.groups for chunk in group.chunks if chunk.path == leaf)
    if (descriptor := descriptor_of(file)) is not None:
        check_holes(descriptor, "the file", small=PIECE)
        size = min(size, stored_bytes(descriptor))
    left += size // BYTES_PER_ROW - footer.num_rows
    if footer.num_rows != groups or left < 0:
        raise DataError(
            f"data.path: {info.name} claims {footer.num_rows} rows, {groups} of them in row groups, in "
            f"{format_bytes(size)} of images; write the bytes of every image into it, or copy it again from its origin"
        )
    return left


def _is_small(dtype: pa.DataType) -> bool:
    """Whether each value takes a few bytes; other values may be any size, and many times the same one in a file."""
    return pa.types.is_primitive(dtype) or pa.types.is_null(dtype)


LabelPart = np.ndarray | list[Any]
"""Labels of some rows: numbers, or vectors of one length, as an array; all others as Python values."""


def _read_labels(file: Any, schema: pa.Schema, footer: Footer) -> list[LabelPart]:
    """The labels of one file, some rows at a time; none of other types than numbers, texts and vectors."""
    dtype = schema.field(LABEL_COLUMN).type
    if _is_text(dtype):
        try:
            return _label_parts(pq.ParquetFile(file, read_dictionary=[LABEL_COLUMN]), LABEL_ROWS)
        except OSError as error:
            if NO_DICTIONARY not in str(error):
                raise
        most = _most_bytes(file.seek(0, os.SEEK_END))
        return _label_parts(pq.ParquetFile(file), _rows_within(file, footer), most)
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    if not _is_small(dtype.value_type if hasattr(dtype, "value_type") else dtype):
        return []
    return _label_parts(pq.ParquetFile(file), LABEL_ROWS)


def _rows_within(file: Any, footer: Footer) -> int:
    """How many labels are read together: by delta encodings each may be as large as a page, and take a few bytes."""
    chunks = [chunk for group in footer.groups for chunk in group.chunks if chunk.path == LABEL_COLUMN]
    largest = max((page.size for chunk in chunks for page in pages_of(file, chunk)), default=0)
    return min(max(MAX_LABEL_BYTES // max(largest, 1), 1), LABEL_ROWS)


def _label_parts(parquet: pq.ParquetFile, num_rows: int, most: float = math.inf) -> list[LabelPart]:
    """The column of labels, so many rows at a time; raises DataError where it takes more than `most` bytes."""
    parts: list[LabelPart] = []
    for batch in parquet.iter_batches(batch_size=num_rows, columns=[LABEL_COLUMN]):
        column = batch.column(0)
        most -= column.nbytes
        if column.nbytes > MAX_LABEL_BYTES or most < 0:
            raise DataError(
                f"data.path: {len(column)} labels of a Parquet file take {format_bytes(column.nbytes)}; give a column "
                f"`{LABEL_COLUMN}` of class numbers or short vectors"
            )
        parts.append(_as_words(column) if _is_text(column.type) else _as_array(column))
    return parts


def _as_words(column: pa.Array) -> list[Any]:
    """Texts as names of classes, None where there is none."""
    if not isinstance(column, pa.DictionaryArray):
        return [None if text is None else _short(text) for text in column.to_pylist()]
    words = list(map(_short, column.dictionary.to_pylist()))
    return [None if number is None else words[number] for number in column.indices.to_pylist()]


def _short(text: str) -> str:
    """A text as the name of a class; a long one is cut, with a checksum so that it remains different from others."""
    if len(text) <= LONGEST_NAME:
        return text
    return f"{text[: LONGEST_NAME - 20]}...{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _as_array(column: pa.Array) -> LabelPart:
    """Whole numbers [n], or floats [n,L] where all rows are vectors of one length; Python values of anything else."""
    if column.null_count == 0 and pa.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False)
    if column.null_count == 0 and len(column) and pa.types.is_list(column.type):
        widths, values = np.diff(column.offsets.to_numpy()), column.flatten()
        if widths.min() == widths.max() > 0 and values.null_count == 0 and pa.types.is_floating(values.type):
            return values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return column.to_pylist()


def _join(parts: Sequence[LabelPart]) -> np.ndarray | list[Any]:
    """All labels: an array where every part is one of the same width, else a list."""
    if parts and all(isinstance(part, np.ndarray) for part in parts):
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        if len({part.shape[1:] for part in arrays}) == 1:
            return np.concatenate(arrays)
    return [value for part in parts for value in (part.tolist() if isinstance(part, np.ndarray) else part)]


def _add_groups(rows: dict[str, list[int]], footer: Footer, shard: int, info: FileInfo, leaf: str) -> None:
    """Adds the row groups of one file; raises DataError where one has more images than are read for each of them."""
    for number, group in enumerate(footer.groups):
        size = sum(chunk.size for chunk in group.chunks if chunk.path == leaf)
        if size > MAX_GROUP_BYTES:
            raise _too_large(number, info, size)
        rows["shard"].append(shard)
        rows["group"].append(number)
        rows["size"].append(group.num_rows)


def _most_bytes(size: int) -> int:
    """Bytes that the images of a row group may take in a file of this size: encoded images hardly compress."""
    return min(SMALL_GROUP_BYTES + MOST_EXPANSION * size, MAX_GROUP_BYTES)


def _too_large(group: int, info: FileInfo, size: int) -> DataError:
    return DataError(
        f"data.path: row group {group} of {info.name} takes {size >> 20} MiB and is read whole for each image; write "
        f"the file again with row groups below {_most_bytes(info.size) >> 20} MiB"
    )


def _check_pages(file: Any, footer: Footer, leaf: str, info: FileInfo) -> None:
    """Raises DataError where images or labels of a row group take far more memory than the footer of the file says."""
    left = _most_pages(info)
    for number, group in enumerate(footer.groups):
        for chunk in group.chunks:
            is_label = chunk.path == LABEL_COLUMN or chunk.path.startswith(f"{LABEL_COLUMN}.")
            if is_label or (chunk.path == leaf and chunk.can_be_larger(_most_bytes(info.size))):
                left -= _check_chunk(file, chunk, number, info, left)
            if is_label and chunk.num_values > MAX_LABEL_VALUES:
                raise _too_many_labels(number, info.name, chunk.num_values)


def _most_pages(info: FileInfo) -> int:
    return MOST_PAGES + info.size // BYTES_PER_PAGE


def _check_chunk(file: Any, chunk: Chunk, group: int, info: FileInfo, most_pages: int | None = None) -> int:
    """The number of pages of a chunk; raises DataError where they are too many or hold too much."""
    size = num_values = num_pages = 0
    most, most_pages = _most_bytes(info.size), _most_pages(info) if most_pages is None else most_pages
    for num_pages, page in enumerate(pages_of(file, chunk), start=1):
        size, num_values = size + page.size, num_values + page.num_values
        if size > most:
            raise _too_large(group, info, size)
        if num_values > max(MAX_LABEL_VALUES, chunk.num_values):
            raise _too_many_labels(group, info.name, num_values)
        if num_pages > most_pages:
            raise DataError(
                f"data.path: {info.name} has more than {_most_pages(info)} pages in {format_bytes(info.size)}; write "
                "it again with larger pages"
            )
    return num_pages


def _too_many_labels(group: int, name: str, count: int) -> DataError:
    return DataError(
        f"data.path: the labels of row group {group} of {name} are {count} numbers, and may be {MAX_LABEL_VALUES}; "
        f"give a column `{LABEL_COLUMN}` of class numbers or short vectors, or smaller row groups"
    )


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Class names from the metadata that Hugging Face's library adds to the schema."""
    try:
        info = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"), "huggingface", limit=MAX_LABEL_BYTES)
        return texts(info["info"]["features"][LABEL_COLUMN]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _labels(
    parts: Sequence[LabelPart], names: PackedNames, class_names: dict[tuple[str, ...], str], unlabelled: str
) -> Labels:
    """Labels of all rows.

    `class_names` are those of the files, and for each the first file that has them; `unlabelled` says, as the end of a
    sentence, what a file without the column has instead.
    """
    if not len(names) or sum(map(len, parts)) < len(names):
        return Labels(
            problem=f"not all Parquet files have a column `{LABEL_COLUMN}` of numbers, texts or vectors{unlabelled}"
        )
    if len(class_names) > 1:
        (some, first), (others, second) = list(class_names.items())[:2]
        return Labels(
            problem=f"the classes are {list_names(list(some))} in {quoted(first)}, but {list_names(list(others))} in "
            f"{quoted(second)}; write these files again with the same names in the same order"
        )
    return Labels.of(_join(parts), f"column `{LABEL_COLUMN}`", next(iter(class_names), None),
                     name=lambda i: quoted(names[i]))  # fmt: skip


class ParquetWriter:
    """Writes Parquet files as Hugging Face data sets keep them: a column struct{bytes, path}, and `label`."""

    def __init__(self, output: Output, names: Sequence[str], plans_per_file: int, dataset: Dataset) -> None:
        self.output, self.names, self.plans_per_file = output, names, plans_per_file
        self.num_plans = self.num_images = 0
        self.stack = ExitStack()
        self.labels = dataset.compact_labels()
        self.schema = parquet_schema(self.labels, dataset.class_names, dataset.attribution)
        self.file: pq.ParquetWriter | None = None

    def add(self, indices: Sequence[int], pieces: Sequence[bytes]) -> None:
        if self.num_plans % self.plans_per_file == 0:
            self._open_next_file()
        assert self.file is not None
        if indices:
            self.file.write_table(self._table(indices, pieces), row_group_size=len(indices))
        self.num_plans += 1
        self.num_images += len(indices)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self.stack.close()

    def _open_next_file(self) -> None:
        self.stack.close()
        stream = self.stack.enter_context(self.output.open(self.names[self.num_plans // self.plans_per_file]))
        self.file = self.stack.enter_context(
            pq.ParquetWriter(stream, self.schema, compression="none", use_dictionary=False, write_statistics=False)
        )

    def _table(self, indices: Sequence[int], pieces: Sequence[bytes]) -> pa.Table:
        paths = [f"img{self.num_images + i:08d}.png" for i in range(len(indices))]
        image = pa.StructArray.from_arrays([pa.array(pieces, pa.binary()), pa.array(paths)], ["bytes", "path"])
        labels = []
        if self.labels is not None:
            labels = [pa.array(self.labels[indices].tolist(), self.schema.field(LABEL_COLUMN).type)]
        return pa.Table.from_arrays([image, *labels], schema=self.schema)


def parquet_schema(
    labels: np.ndarray | None, class_names: Sequence[str] | None = None, attribution: str | None = None
) -> pa.Schema:
    """Columns, with the description of them that Hugging Face's library reads."""
    fields = [pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labels is not None and labels.ndim == 1:
        fields.append(pa.field(LABEL_COLUMN, pa.int64()))
        named = {"names": list(class_names or ()), "_type": "ClassLabel"}
        features[LABEL_COLUMN] = named if class_names else {"dtype": "int64", "_type": "Value"}
    elif labels is not None:
        fields.append(pa.field(LABEL_COLUMN, pa.list_(pa.float32())))
        features[LABEL_COLUMN] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    info = {"features": features, **({"license": attribution} if attribution else {})}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": info})})


def shard_names(num_files: int) -> list[str]:
    """Names of the Parquet files of a folder."""
    return [f"train-{i:05d}-of-{num_files:05d}.parquet" for i in range(num_files)]
