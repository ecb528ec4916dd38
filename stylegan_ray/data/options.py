"""Options of the command that prepares and checks data sets."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from stylegan_ray.config import ConfigError, RunConfig, validated
from stylegan_ray.data import formats
from stylegan_ray.data.doctor.doubts import KIND_NAMES
from stylegan_ray.data.formats.protocol import Format
from stylegan_ray.options import ClusterAddress
from stylegan_ray.storage import split_address

DEFAULT_FORMAT = "tfrecords"
"""The format of a DEST whose name has no ending."""

OTHER_ENDINGS = (".tfrecords", ".png", ".json", ".lmdb")
"""Endings of files that are no data set of a format that is written as one file."""
FILE_ENDING = re.compile(r"\.(?!v[0-9]+$)([a-z][a-z0-9]{0,6}|7z)", re.IGNORECASE)
"""How the name of a file ends; set.v2 and set-1.5 are names of folders."""

if TYPE_CHECKING:
    FormatName = DoubtName = str
else:
    FormatName = Literal[tuple(formats.writable_formats())]
    DoubtName = Literal[tuple(name for name in KIND_NAMES if name != "unreadable")]


@dataclass(frozen=True)
class PrepareOptions:
    """Writes a data set for training from images in any format, or checks one (--check).

    Training also reads SOURCE as it is; writing is only needed to have images of one size, or in one file.
    DEST appears as a whole. Its format follows from its name: images.zip is a StyleGAN2-ADA zip, images.parquet a
    Parquet file, a name without an ending, or with / behind it, a folder of TFRecord files of all resolutions, as
    StyleGAN reads them.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Images: a folder, a zip, TFRecord, tar or Parquet files, here or in object storage; or `openmoji`."""
    dest: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DEST]", help_behavior_hint="")] = None
    """What to write: a file or a folder, here or in object storage."""
    check: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read every image, print what is found and how to train on it; write no data. Status 1: some are unreadable."""
    json: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """With --check or --fix: write everything that is found to this file."""
    sheet: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """With --check or --fix: draw the doubtful images to this PNG file."""
    fix: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Check SOURCE and write DEST without what is doubtful: by policies that are printed, with every change in
    DEST.changes.json."""
    keep: Annotated[tuple[DoubtName, ...], tyro.conf.arg(metavar="KIND", help_behavior_hint="")] = ()
    """With --fix: kinds of doubtful images that are written as they are, such as blurred or near-duplicate."""
    format: Annotated[FormatName | None, tyro.conf.arg(help_behavior_hint="(default: by the name of DEST)")] = None
    """Format of DEST; parquet in a folder is several files."""
    resolution: Annotated[str | None, tyro.conf.arg(metavar="N|HxW", help_behavior_hint="(default: as it is)")] = None
    """Side of the images, or height x width."""
    crop: Annotated[Literal["none", "center"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Images of another shape: refuse, or crop the center (default: center with --resolution, else none)."""
    letterbox: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Put images that are wider than high in the middle of a black square: LSUN's cars with --resolution 384x512."""
    resize: Literal["lanczos", "box", "none"] = "lanczos"
    """Images of another size: scale with this filter, or refuse."""
    channels: Annotated[Literal[1, 3] | None, tyro.conf.arg(help_behavior_hint="(default: as they are)")] = None
    """1 converts to gray, 3 to color."""
    alpha: Literal["error", "white", "black", "drop"] = "error"
    """Transparent images: refuse, composite on white or black, or drop the alpha channel."""
    on_bad_image: Literal["error", "skip"] = "error"
    """Images that cannot be read: refuse, or leave them out."""
    image_column: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Images among several: the column of Parquet files, or the ending in samples of tar files, as in mask.png."""
    split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: train)")] = None
    """Of data with splits use this one (train, test, validation), or `all`."""
    renumber_classes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Number the classes 0, 1, 2, ... in the order of their ids."""
    follow_links: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Follow links that lead out of the folder."""
    max_image_mb: Annotated[int, tyro.conf.arg(metavar="MIB")] = 512
    """Largest image, as a file and in memory (4 bytes a pixel, up to 20 where decoders hold copies)."""
    bits: Annotated[Literal[8, 10, 12, 14, 16] | None, tyro.conf.arg(help_behavior_hint="(default: by range)")] = None
    """Bits of images that are stored with 16 or 32."""
    extra_formats: Annotated[tuple[Literal["heif"], ...], tyro.conf.arg(metavar="heif", help_behavior_hint="")] = ()
    """Image formats to read beside the usual ones: heif needs the package pillow-heif."""
    subset: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Use only this many images, chosen at random."""
    shuffle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the images in the order of StyleGAN's exporter, which is always the same (default for TFRecords)."""
    no_shuffle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the images in the order of their names (default for zip and Parquet)."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the data set at DEST: on a disk when the new one is complete, in object storage while it is written."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one per CPU)")] = None
    """Processes that decode and encode; 0: this process does, without Ray."""
    address: ClusterAddress = None
    """Ray cluster to join, whose nodes must see SOURCE; default: that of this job, or a new local one."""

    def config(self) -> RunConfig:
        """The configuration that these options set; raises ConfigError."""
        crop = self.crop or ("center" if self.resolution else "none")
        data = {
            "path": self.source, "resolution": _size(self.resolution), "channels": self.channels, "crop": crop,
            "resize": self.resize, "alpha": self.alpha, "on_bad_image": self.on_bad_image, "subset": self.subset,
            "shuffle": "blocks", "image_column": self.image_column, "split": self.split,
            "renumber_classes": self.renumber_classes, "follow_links": self.follow_links,
            "max_image_mb": self.max_image_mb, "bits": self.bits, "extra_formats": self.extra_formats,
        }  # fmt: skip
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers {self.workers} must be 0 (no Ray) or more")
        return validated({"data": data, "cluster": {"address": self.address, "num_workers": self.workers or 1}})

    def given_keys(self) -> dict[str, Any]:
        """The keys of the data section that were given as options; raises ConfigError."""
        given, default = self.config().data, PrepareOptions(source=self.source).config().data
        keys = {key: value for key, value in given if value != getattr(default, key)}
        return keys | ({"resize": given.resize} if self.resolution else {})

    @property
    def output_format(self) -> Format:
        """The format of DEST; raises ConfigError when its name does not allow it."""
        assert self.dest is not None
        dest = split_address(self.dest)[1]
        ending = os.path.splitext(dest)[1].lower()
        named, writable = formats.by_file_name(dest), formats.writable_formats()
        is_file = named is not None and named.writer is not None and named.writer.writes_file
        is_open = not (self.format or self.dest.endswith("/") or os.path.exists(os.path.expanduser(self.dest)))
        is_other = is_open and FILE_ENDING.fullmatch(ending)
        if ending in OTHER_ENDINGS or (not is_file and (named is not None or is_other)):
            files = ", ".join(f"a {by_ending}" for by_ending in _file_endings())
            raise ConfigError(
                f"DEST {self.dest}: cannot write {ending}; give {files}, or a folder for TFRecord files, as in set or "
                "set.name/"
            )
        name = self.format or (named.name if named else DEFAULT_FORMAT)
        format, fits_folder = formats.by_name(name), writable[name].writes_folder
        if (named is not format) if is_file else not fits_folder:
            way_out = "a folder" if fits_folder else f"a name that ends in {format.single_file_ending}"
            raise ConfigError(f"--format {name} cannot be written to {self.dest}; give {way_out} as DEST")
        return format

    @property
    def is_shuffled(self) -> bool:
        """Whether the images are written in the order of StyleGAN's exporter."""
        if self.shuffle and self.no_shuffle:
            raise ConfigError("--shuffle and --no-shuffle exclude each other; give one of them, or none")
        writer = self.output_format.writer
        return self.shuffle or (writer is not None and writer.shuffles and not self.no_shuffle)


def _file_endings() -> list[str]:
    """Endings of single files that can be written."""
    return [
        format.single_file_ending
        for format in formats.FORMATS
        if format.single_file_ending and format.writer and format.writer.writes_file
    ]


def _size(text: str | None) -> int | tuple[int, ...] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8})?", text):
        raise ConfigError(f"--resolution {text} must be a side or height x width in pixels, as in 256 or 512x384")
    sides = tuple(map(int, text.split("x")))
    return sides[0] if len(sides) == 1 else sides


@contextmanager
def translate_errors() -> Iterator[None]:
    """Makes errors and logged messages that name keys of the configuration name this command's options."""
    make_record = logging.getLogRecordFactory()

    def translated(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if record.name.startswith("stylegan_ray"):
            record.msg, record.args = to_option_names(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(translated)
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*map(to_option_names, error.args)) from error
    finally:
        logging.setLogRecordFactory(make_record)


def to_option_names(text: str, source: str = "SOURCE") -> str:
    """A message with this command's options in the place of keys of the configuration, and a word for its data."""
    text = re.sub(
        r"\bdata\.path(=|: )?", lambda match: f"{source} " if match[1] == "=" else f"{source}{match[1] or ''}", text
    )
    text = text.replace("cluster.num_workers", "--workers")
    text = re.sub(r"(?<!/)(?:--)?\b(?:data|cluster)\.(\w+)", lambda match: f"--{match[1].replace('_', '-')}", text)
    return re.sub(r"(--resolution) (\d+) (\d+)", r"\1 \2x\3", text)


def format_options(keys: dict[str, Any]) -> str:
    """Keys of the data section as options of the train command."""
    words = {key: " ".join(map(str, value)) if isinstance(value, tuple) else value for key, value in keys.items()}
    return " ".join(f"--data.{key}" if value is True else f"--data.{key} {value}" for key, value in words.items())
