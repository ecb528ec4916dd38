"""What can be asked of the command that prepares and checks data sets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from stylegan_ray.config import ConfigError, RunConfig, validated

FORMATS = {"zip": ".zip", "tfrecords": ".tfrecords", "parquet": ".parquet"}
"""Formats that can be written, and how their files end."""

Format = Literal["zip", "tfrecords", "parquet"]


@dataclass(frozen=True)
class PrepareOptions:
    """Makes a data set for training from pictures in any form, or checks one (--check).

    Writing is only needed to have pictures of one size, or in one file: training reads SOURCE as it is, too.
    DEST appears when it is whole. Its form follows from its name: pictures.zip is a StyleGAN2-ADA zip,
    pictures.parquet a Parquet file, any other name a folder of TFRecord files of all sizes, as StyleGAN reads them.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Pictures: a folder, a zip, TFRecord, tar or Parquet files, here or in object storage; or `openmoji`."""
    dest: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DEST]", help_behavior_hint="")] = None
    """What to write: a file or a folder, here or in object storage."""
    check: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Read every picture and say what there is and how to train on it; write nothing. Status 1: some are unreadable."""
    format: Annotated[Format | None, tyro.conf.arg(help_behavior_hint="(default: by the name of DEST)")] = None
    """What to write; parquet into a folder makes several files."""
    resolution: Annotated[str | None, tyro.conf.arg(metavar="N|HxW", help_behavior_hint="(default: as it is)")] = None
    """Side of the pictures, or height x width."""
    crop: Annotated[Literal["none", "center"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Pictures of another shape: refuse, or cut out the centre (default: center with --resolution, else none)."""
    resize: Literal["lanczos", "box", "none"] = "lanczos"
    """Pictures of another size: scale with this filter, or refuse."""
    channels: Annotated[Literal[1, 3] | None, tyro.conf.arg(help_behavior_hint="(default: as they are)")] = None
    """1 makes grey pictures, 3 makes colour."""
    alpha: Literal["error", "white", "black", "drop"] = "error"
    """Transparent pictures: refuse, lay on white or black, or drop the alpha channel."""
    on_bad_image: Literal["error", "skip"] = "error"
    """Pictures that cannot be read: refuse, or leave them out."""
    subset: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Take only this many pictures, chosen at random."""
    shuffle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the pictures in the order that StyleGAN's tool gives them (always the same; default for TFRecords)."""
    no_shuffle: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the pictures in the order of their names (default for zip and Parquet)."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the data set that stands at DEST, once the new one is whole."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one per CPU)")] = None
    """Processes that decode and encode; 0 does it in this one, without Ray."""
    address: Annotated[
        str | None, tyro.conf.arg(metavar="ADDR", help_behavior_hint="(default: $RAY_ADDRESS, or this machine)")
    ] = None
    """Ray cluster to work on; its nodes must see SOURCE."""

    def config(self) -> RunConfig:
        """The keys of the configuration that these options set; raises ConfigError."""
        crop = self.crop or ("center" if self.resolution else "none")
        data = {
            "path": self.source, "resolution": _size(self.resolution), "channels": self.channels, "crop": crop,
            "resize": self.resize, "alpha": self.alpha, "on_bad_image": self.on_bad_image, "subset": self.subset,
            "shuffle": "blocks",
        }  # fmt: skip
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"--workers {self.workers} must be 0 (no Ray) or more")
        return validated({"data": data, "cluster": {"address": self.address, "num_workers": self.workers or 1}})

    @property
    def chosen_format(self) -> Format:
        """The format of DEST; raises ConfigError when its name is that of another one."""
        assert self.dest is not None
        ending = os.path.splitext(self.dest.rstrip("/"))[1].lower()
        by_name: dict[str, Format] = {".zip": "zip", ".parquet": "parquet"}
        if ending in (".tar", ".tfrecords", ".png", ".json", ".lmdb"):
            raise ConfigError(f"DEST {self.dest}: give a .zip, a .parquet, or a folder for TFRecord files")
        if self.format and ((ending in by_name or self.format == "zip") and by_name.get(ending) != self.format):
            way_out = "a name that ends in .zip" if self.format == "zip" else "a folder"
            raise ConfigError(f"--format {self.format} cannot be written to {self.dest}; give {way_out} as DEST")
        return self.format or by_name.get(ending, "tfrecords")

    @property
    def is_shuffled(self) -> bool:
        """Whether the pictures are written in the order of StyleGAN's tool."""
        if self.shuffle and self.no_shuffle:
            raise ConfigError("--shuffle and --no-shuffle exclude each other; give one of them, or none")
        return self.shuffle or (self.chosen_format == "tfrecords" and not self.no_shuffle)


def _size(text: str | None) -> int | tuple[int, ...] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", text):
        raise ConfigError(f"--resolution {text} must be a side or height x width in pixels, as in 256 or 512x384")
    sides = tuple(map(int, text.split("x")))
    return sides[0] if len(sides) == 1 else sides


@contextmanager
def in_words_of_the_command() -> Iterator[None]:
    """Errors that name keys of the configuration come out with this command's options."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(own_words(str(error))) from error


def own_words(text: str) -> str:
    """A message about the data section as this command's options spell it."""
    text = re.sub(
        r"\bdata\.path(=|: )?", lambda match: "SOURCE " if match[1] == "=" else f"SOURCE{match[1] or ''}", text
    )
    text = text.replace("cluster.num_workers", "--workers")
    text = re.sub(r"(?:--)?\b(?:data|cluster)\.(\w+)", lambda match: f"--{match[1].replace('_', '-')}", text)
    return re.sub(r"(--resolution) (\d+) (\d+)", r"\1 \2x\3", text)


def listed(keys: dict[str, Any]) -> str:
    """Keys of the data section as options of the train command."""
    return " ".join(f"--data.{key}" if value is True else f"--data.{key} {value}" for key, value in keys.items())
