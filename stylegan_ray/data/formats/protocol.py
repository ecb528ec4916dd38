"""What a data format is: how its files are recognized, indexed, read, inspected and, for some formats, written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from PIL import Image

from stylegan_ray.data.atomic_output import Output
from stylegan_ray.data.dataset import Dataset, EncodedImages, Images, Source
from stylegan_ray.data.decode import MAX_IMAGE_BYTES, Decoder, depth_of, open_image, read_header
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.left_out import IMAGE_ENDINGS, Endings, list_names
from stylegan_ray.data.order import BLOCK_ROWS
from stylegan_ray.data.scan import Reading


class StoredImage(NamedTuple):
    """An image as it is stored, before the data section of a configuration applies."""

    file_format: str
    mode: str
    """Pillow's mode in the file, such as RGB or P."""
    image: Image.Image
    header: Image.Image | None = None
    """The image before it was decoded and turned upright, for formats that store image files."""


class Inspector(Protocol):
    """Reads stored images one by one, in any process."""

    def __call__(self, entry: int) -> StoredImage:
        """Image number `entry` of the index; raises BadImage, OSError, or what Pillow raises on damaged files."""
        ...


class Format(ABC):
    """One way to store a data set. An instance has no state; a new format is a module and a line in the registry."""

    name: ClassVar[str]
    """Enters the fingerprint of every data set of this format, so it never changes."""
    single_file_ending: ClassVar[str | None] = None
    """Ending of a file that holds a whole data set by itself; None when a data set is always a folder."""
    prefers_blocks: ClassVar[bool] = False
    """Whether reading one image reads its neighbors as well, so that data.shuffle=blocks is faster."""
    writer: ClassVar[WritableFormat | None] = None
    """How data sets of this format are written; None when they are only read."""
    has_image_columns: ClassVar[bool] = False
    """Whether rows or samples may hold several images, among which data.image_column chooses."""
    has_inner_splits: ClassVar[bool] = False
    """Whether folders inside of a file may be splits."""
    is_trainable: ClassVar[bool] = True
    """Whether training reads this format; False: only prepare_data does."""
    description: ClassVar[str] = ""
    """What messages call a data set that is not trainable."""

    def is_data_set(self, path: str) -> bool:
        """Whether a file of this name holds a whole data set."""
        return self.single_file_ending is not None and path.lower().endswith(self.single_file_ending)

    @abstractmethod
    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        """The files of a folder that form a data set of this format; empty when the folder holds none.

        `endings` are those of image files.
        """

    def claims(self, files: Files, infos: Sequence[FileInfo], listing: Sequence[FileInfo]) -> bool:
        """Whether the selected files are the data set of a folder that holds the files of the listing."""
        return True

    @abstractmethod
    def build_index(
        self,
        files: Files,
        infos: Sequence[FileInfo],
        progress: Progress | None,
        reading: Reading | None = None,
    ) -> Index:
        """Finds all images and labels in the selected files; raises DataError when a file is damaged.

        Images are decoded when there are at most `reading.decode_up_to`, else only their headers are read.
        """

    @abstractmethod
    def open_images(self, files: Files, index: Index, decoder: Decoder) -> Images:
        """What reads pixels for training."""

    @abstractmethod
    def inspector(self, files: Files, index: Index, extra_formats: tuple[str, ...] = ()) -> Inspector:
        """What the data doctor reads images with, those of data.extra_formats too."""

    def select_level(self, index: Index, resolution: tuple[int, int] | None) -> Index:
        """The index for training at (height, width); differs for formats that store several resolutions."""
        return index

    def block_rows(self, index: Index) -> int:
        """How many neighbors are best read together with data.shuffle=blocks."""
        return BLOCK_ROWS


class EncodedFormat(Format):
    """A format that stores encoded image files, such as PNG or JPEG."""

    @abstractmethod
    def source(self, files: Files, index: Index) -> Source:
        """What reads the bytes of the image files."""

    def open_images(self, files: Files, index: Index, decoder: Decoder) -> Images:
        return EncodedImages(self.source(files, index), decoder)

    def inspector(self, files: Files, index: Index, extra_formats: tuple[str, ...] = ()) -> Inspector:
        return EncodedInspector(self.source(files, index), files.max_bytes, extra_formats)


class EncodedInspector:
    """Decodes image files without converting them."""

    def __init__(self, source: Source, max_bytes: int = MAX_IMAGE_BYTES, extra_formats: tuple[str, ...] = ()) -> None:
        self.source, self.max_bytes, self.extra_formats = source, max_bytes, extra_formats

    def __call__(self, entry: int) -> StoredImage:
        content = self.source.read(entry)
        header = read_header(content, self.max_bytes, self.extra_formats)
        image = open_image(content, self.max_bytes, self.extra_formats)
        depth_of(image, content)  # raises ValueError for values that training refuses
        return StoredImage(header.format or "unknown", header.mode, image, header)


class Writer(Protocol):
    """Writes encoded images to files, in order."""

    def add(self, indices: Sequence[int], pieces: Sequence[bytes]) -> None:
        """Writes what `WritableFormat.encode` returned for these images of the data set."""
        ...

    def finish(self) -> None:
        """Writes labels and whatever else comes last; closes the files."""
        ...

    def close(self) -> None:
        """Closes the files, finished or not."""
        ...


class WritableFormat(ABC):
    """How data sets of one format are written."""

    description: ClassVar[str]
    """Completes "wrote 7 images as ..."."""
    endings: ClassVar[tuple[str, ...]]
    """Endings of the files it writes; the first one is that of files with images."""
    writes_file: ClassVar[bool] = True
    """Whether a data set can be written as one file."""
    writes_folder: ClassVar[bool] = True
    """Whether a data set can be written as a folder of files."""
    shuffles: ClassVar[bool] = False
    """Whether images are written in the order of StyleGAN's exporter by default."""

    @abstractmethod
    def encode(self, images: np.ndarray) -> list[bytes]:
        """Pieces of bytes that `Writer.add` stores for images uint8 [N,C,H,W]."""

    @abstractmethod
    def image_bytes(self, shape: tuple[int, int, int]) -> int:
        """Bytes of one encoded image [C,H,W], at most."""

    def disk_bytes(self, dataset: Dataset) -> int:
        """Bytes that the written data set needs at most; 0 when this is not known beforehand."""
        return dataset.num_images * self.image_bytes(dataset.shape())

    @abstractmethod
    def open_writer(self, output: Output, name: str, is_file: bool, dataset: Dataset, plan_sizes: list[int]) -> Writer:
        """A writer of a data set that is added in plans of these sizes; `name` is the last part of the destination."""


def the_one(found: list[FileInfo], what: str) -> list[FileInfo]:
    """The only file of a kind in a folder; raises DataError where there are several."""
    if len(found) > 1:
        names = list_names([info.name for info in found])
        raise DataError(f"data.path holds {what} more than once, {names}; give the path of the one to read")
    return found
