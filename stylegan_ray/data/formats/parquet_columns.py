"""Which column of a Parquet file holds encoded images: by type, by name, and by what its first values are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from stylegan_ray.data.decode import missing_decoder, read_header
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.left_out import list_names, quoted
from stylegan_ray.untrusted import printable

IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "picture", "photo", "pixel_values", "bytes", "content")
"""Names of columns of images, the likeliest first."""
IMAGE_WORDS = re.compile(r"image|img|jpe?g|png|webp|picture|photo", re.IGNORECASE)
"""In names of columns of images."""


def image_columns(schema: pa.Schema) -> list[str]:
    """Columns that can hold encoded images, the likeliest first: names such as image, then structs with bytes."""
    found = []
    for place, field in enumerate(schema):
        dtype, struct = field.type, pa.types.is_struct(field.type)
        if struct:
            place_of_bytes = dtype.get_field_index("bytes")
            if place_of_bytes < 0:
                continue
            dtype = dtype.field(place_of_bytes).type
        if is_bytes(dtype):
            found.append((_rank(field.name), not struct, place, field.name))
    return [name for *_, name in sorted(found)]


def _rank(name: str) -> int:
    """A small number for the name of a column that is likely to hold images."""
    if name.lower() in IMAGE_NAMES:
        return IMAGE_NAMES.index(name.lower())
    return len(IMAGE_NAMES) + (IMAGE_WORDS.search(name) is None)


def is_bytes(dtype: pa.DataType) -> bool:
    """Whether values are bytes of any length, in any of Arrow's layouts."""
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_binary_view(dtype)


def is_struct(schema: pa.Schema, column: str) -> bool:
    return pa.types.is_struct(schema.field(column).type)


def is_likely(schema: pa.Schema, column: str) -> bool:
    """Whether a column of bytes holds images by its name, or by its type, as Hugging Face's library writes it."""
    return column.lower() in IMAGE_NAMES or is_struct(schema, column)


def leaf_of(schema: pa.Schema, column: str) -> str:
    """The name of the bytes in a column of images."""
    return f"{column}.bytes" if is_struct(schema, column) else column


def looks_like_image(content: bytes) -> bool:
    """Whether bytes begin as those of an image file, also of one whose decoder is missing here."""
    try:
        read_header(content)
    except Exception:  # Pillow's readers raise nearly anything on other bytes
        return missing_decoder(content) is not None or content[4:8] == b"ftyp"
    return True


def no_column(schema: pa.Schema, file: str, wanted: str | None) -> DataError:
    """The error for a file without images, or without the column of images that is wanted."""
    columns = image_columns(schema)
    given = f"no column {quoted(wanted)} of" if wanted is not None else "no column of"
    return DataError(
        f"data.path: {file} has {given} encoded images, only {_plain_list(columns or schema.names)}; store them as "
        f"a column of bytes, or of struct{{bytes, path}}{', or choose with --data.image_column' if columns else ''}"
    )


def note_on_column(schema: pa.Schema, chosen: str, images: Sequence[str]) -> str:
    """What to say about the columns that are not used; `images` are those whose first values are images."""
    others = [name for name in image_columns(schema) if name != chosen]
    if chosen not in images:
        also = (
            f"; other columns of bytes are {list_names(others, most=8)} (choose with --data.image_column)"
            if others
            else ""
        )
        return f"none of the first values of the column {quoted(chosen)} is an image{also}"
    likely = [name for name in others if name in images or is_likely(schema, name)]
    if not likely:
        return ""
    return f"images are read from {quoted(chosen)}, not {list_names(likely, most=8)} (choose with --data.image_column)"


def _plain_list(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(printable(name) for name in names[:most]) + (" and others" if len(names) > most else "")
