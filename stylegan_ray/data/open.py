"""Opens the data set that the data section of a configuration describes."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple, NoReturn

import numpy as np

from stylegan_ray.config import DataConfig, nearest
from stylegan_ray.credentials import logger_of
from stylegan_ray.data import formats, openmoji
from stylegan_ray.data.atomic_output import mark_of_unfinished
from stylegan_ray.data.covers import FEW_IMAGES, refuse_covers
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.decode import Decoder, extra_decoders
from stylegan_ray.data.decode_policy import choose_decoder, requested_resolution
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import FileInfo, Files, files_at
from stylegan_ray.data.formats.folder import Folder, is_image, is_label_file, label_file_among
from stylegan_ray.data.formats.protocol import Format
from stylegan_ray.data.index import Index, Progress, load_or_build_index, stamp_of
from stylegan_ray.data.labels import LABEL_FILE, Labels, choose_label_size
from stylegan_ray.data.left_out import (
    COMPRESSED_ENDINGS,
    IMAGE_ENDINGS,
    OTHER_TFRECORD,
    TABLE_ENDING,
    TFRECORD_LABELS_ENDING,
    image_endings,
    joined_lines,
    list_names,
    missing_parts,
    quoted,
)
from stylegan_ray.data.name_words import is_mask, may_name_masks
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import Reading
from stylegan_ray.data.splits import (
    Parents,
    choose_split,
    folders_read_together,
    is_all,
    parents_of_splits,
    split_name,
    splits_of_files,
    splits_of_images,
)
from stylegan_ray.storage import split_address
from stylegan_ray.untrusted import LFS_BYTES, describe_pointer, printable, reading

log = logger_of(__name__)


def open_dataset(cfg: DataConfig, seed: int = 0, progress: Progress | None = None) -> Dataset:
    """The data set that `data.path` names, checked as a whole; raises DataError.

    The first call reads every image and stores what it finds in the cache (see index.cache_folder).
    """
    return apply_config(cfg, *open_index(cfg, progress), seed)


def open_index(cfg: DataConfig, progress: Progress | None = None, prepares: bool = False) -> tuple[Files, Index]:
    """The files that `data.path` names, and the index of their images; raises DataError when there are none.

    With `prepares` formats that training does not read are read as well.
    """
    path = data_path(cfg)
    place = openmoji.prepare(cfg, progress) if path == openmoji.NAME else path
    files, index = index_files(place, progress, cfg=cfg, prepares=prepares)
    refuse_empty(files, index, path)
    return files, index


def data_path(cfg: DataConfig) -> str:
    """`data.path` as messages name it."""
    return openmoji.NAME if cfg.path is None or cfg.path == openmoji.NAME else os.path.expanduser(cfg.path)


def refuse_empty(files: Files, index: Index, path: str) -> None:
    """Raises DataError when the data set holds no images."""
    if not len(index.names):
        hint = _describe_empty(index) if index.shards else _suggest_other_files(files)
        raise DataError(f"data.path={path} holds no images{hint}")


def apply_config(cfg: DataConfig, files: Files, index: Index, seed: int = 0) -> Dataset:
    """The data set that the data section makes of the images found; raises DataError when they do not allow it."""
    path, format = data_path(cfg), formats.by_name(index.format)
    index = format.select_level(index, requested_resolution(cfg))
    if format.prefers_blocks and cfg.shuffle == "full":
        log.warning(
            "data.shuffle=full reads a whole row group of %s for each image; data.shuffle=blocks is faster", path
        )
    decoder = choose_decoder(cfg, index, path)
    labels = index.labels.renumbered() if cfg.renumber_classes else index.labels
    label_size = choose_label_size(labels, cfg.cond, cfg.max_label_size, path)
    rows = choose_rows(len(index.names), cfg.subset, seed)
    dataset = Dataset(
        path=path, images=format.open_images(files, index, decoder), names=index.names, rows=rows,
        label_values=labels.values if label_size else None, label_size=label_size,
        resolution=decoder.resolution, num_channels=decoder.num_channels,
        fingerprint=_fingerprint(index, rows, decoder, labels if label_size else None, label_size),
        bad=index.bad, class_names=labels.class_names if label_size else None, attribution=index.attribution,
        block_rows=format.block_rows(index), label_note=note_on_labels(cfg, labels),
    )  # fmt: skip
    if cfg.balance:
        dataset.check_classes()
    return dataset


def note_on_labels(cfg: DataConfig, labels: Labels) -> str:
    """What to say about labels that are there and not used."""
    if labels.sparse is not None and not cfg.cond:
        return f"labels are ignored ({labels.problem}); --data.cond with --data.renumber_classes trains on them"
    if labels.values is None:
        return ""
    if not cfg.cond:
        return f"labels of size {labels.size} are ignored; --data.cond trains on them"
    most = labels.size if cfg.max_label_size is None else cfg.max_label_size
    return f"of labels of size {labels.size} data.max_label_size={most} keeps {most}" if most < labels.size else ""


def choose_rows(num_images: int, subset: int | None, seed: int) -> np.ndarray:
    """Indices of the images that are used, sorted: all, or `subset` of them, which StyleGAN2-ADA chooses for a seed."""
    rows = np.arange(num_images, dtype=np.int64)
    if subset is None or subset >= num_images:
        return rows
    np.random.RandomState(seed % 2**32).shuffle(rows)
    return np.sort(rows[:subset])


def _fingerprint(index: Index, rows: np.ndarray, decoder: Decoder, used_labels: Labels | None, label_size: int) -> str:
    """sha256 of the data and of all that decides how training sees it; a run refuses to continue on another one."""
    sha = hashlib.sha256(index.digest().encode())
    sha.update(rows.tobytes() if len(rows) < len(index.names) else b"all")
    added = {key: getattr(decoder, key) for key in ADDED_TO_DECODER}  # they count where they differ from version 0.1
    changed = {key: value for key, value in added.items() if value != getattr(Decoder, key)}
    decoding = {
        key: value for key, value in vars(decoder).items() if key not in added and key not in NOT_IN_FINGERPRINT
    }
    sha.update(json.dumps([decoding | changed, label_size], sort_keys=True).encode())
    if used_labels is not None and used_labels.values is not None and (used_labels.is_late or index.labels.is_late):
        sha.update(used_labels.values.tobytes())
    return sha.hexdigest()


ADDED_TO_DECODER = ("bits", "float_bits")
NOT_IN_FINGERPRINT = ("max_bytes", "extra_formats")
"""Fields of the decoder that decide which images are read, but not what they become."""


def index_files(
    path: str,
    progress: Progress | None = None,
    decode: bool = True,
    cfg: DataConfig | None = None,
    prepares: bool = False,
) -> tuple[Files, Index]:
    """The files at a path and the index of their images, from the cache or built now; raises DataError.

    Without `decode` only headers of images are read, and the index is not cached. With `prepares` formats that
    training does not read are read as well. What is left out is logged.
    """
    cfg = cfg or DataConfig()
    keys = {"image_column": cfg.image_column, "split": cfg.split, "max_bytes": cfg.max_image_mb << 20}
    with _as_data_errors(path):
        decoders = {"extra_decoders": extra_decoders(cfg.extra_formats)} if cfg.extra_formats else {}
        files, format, infos, left_out, split, parents = _select_files(path, cfg, prepares)
        if not format.is_trainable and not prepares:
            _refuse_to_train(format, path)
        for line in missing_parts([info.name for info in infos]):
            log.warning("data.path=%s: %s; it may be incomplete", printable(path), line)
        refuse_pointers(files, infos)
        stamp = stamp_of(infos, keys | decoders)
        wanted = replace(
            Reading(None if decode else 0, **keys, extra_formats=cfg.extra_formats), split=split, parents=parents
        )
        build = partial(format.build_index, files, infos, progress, wanted)
        index = load_or_build_index(normalize_path(path), stamp, build) if decode else build()
    if left_out or index.left_out:
        log.warning("data.path=%s: left out: %s", printable(path), joined_lines([*left_out, *index.left_out]))
    if note := note_on_masks(index.names):
        log.warning("data.path=%s: %s", printable(path), note)
    if cfg.image_column is not None and not format.has_image_columns:
        log.warning(
            "data.path=%s: data.image_column=%s has no effect: it chooses among images of Parquet and tar files",
            printable(path), printable(cfg.image_column),
        )  # fmt: skip
    return files, replace(index, stamp=stamp)


def note_on_masks(names: PackedNames) -> str:
    """What to say where some of the images are named as masks or labels of others."""
    if not may_name_masks(names.characters.tobytes().decode("latin-1")):
        return ""
    masks = [name for name in names if may_name_masks(name) and is_mask(name) and is_image(name)]
    if not masks or len(masks) == len(names):
        return ""
    return (
        f"{len(masks)} images are named as masks or labels and used as the others are: {list_names(masks)} (where "
        "they are none to learn from, move them to another place)"
    )


class Selection(NamedTuple):
    """The files that a data set consists of."""

    files: Files
    format: Format
    infos: list[FileInfo]
    left_out: list[str]
    """What else there is, one line for each reason."""
    split: str | None
    """To be found inside of the files."""
    parents: Parents | None = None
    """Where the splits are, in a folder of images."""


def _select_files(path: str, cfg: DataConfig, prepares: bool) -> Selection:
    """The files of a data set; raises DataError where their format has no splits and one is wanted."""
    max_bytes, endings = cfg.max_image_mb << 20, image_endings(cfg.extra_formats)
    format = formats.by_file_name(split_address(path)[1])
    if format is not None and not os.path.isdir(path):
        folder, name = split_address(path if "://" in path else os.path.abspath(path))
        files = files_at(folder, cfg.follow_links, max_bytes)
        refuse_unfinished(files, path, name)
        return Selection(files, format, [files.info(name)], [], _split_inside(format, cfg.split, path))
    files = files_at(path, cfg.follow_links, max_bytes)
    refuse_unfinished(files, path)
    listing, left_out = files.survey()
    format, infos = formats.by_listing(listing, files, prepares, endings)
    is_folder = format.name == Folder.name
    left_out.add_unused((info.name for info in listing), (info.name for info in infos), is_folder)
    if is_folder:
        images = [info.name for info in infos if not is_label_file(info.name)]
        if len(images) <= FEW_IMAGES and not prepares and (foreign := formats.foreign_of(listing, endings)):
            if not any(is_image(info.name, endings) for info in foreign[1]):  # it does not consist of them
                _refuse_to_train(foreign[0], path)
        refuse_covers(images, (info.name for info in listing if info.size and not _is_table(info.name)), path)
        left_out.add_images_by_content([info.name for info in listing], files.head)
        for info in infos:
            if info.size > max_bytes and is_image(info.name, endings):
                left_out.add(f"files of more than data.max_image_mb={cfg.max_image_mb}", info.name)
        infos = [info for info in infos if info.size <= max_bytes or not is_image(info.name, endings)]
    parents = parents_of_splits(info.name for info in infos) if is_folder else None
    infos, split, notes = _of_one_split(format, infos, cfg, path)
    if is_folder and not any(is_label_file(info.name) for info in infos):  # each split may have its own
        names, images = [info.name for info in listing], [info.name for info in infos]
        labels = label_file_among(names, images)
        left_out.add_label_files(labels, names, images)
        infos = sorted([*infos, *(info for info in listing if info.name == labels)])
    return Selection(files, format, infos, [*left_out.lines(), *notes], split, parents)


def _split_inside(format: Format, wanted: str | None, path: str) -> str | None:
    """The split to look for inside of files; raises DataError where their format has none."""
    if not is_all(wanted) and not format.has_inner_splits:
        way_out = "leave it out" if format.is_trainable else "leave it out, or give the path of its file"
        raise DataError(
            f"data.split={quoted(wanted or '')} is not among the splits of data.path={path}: it has none; {way_out}"
        )
    return wanted


def refuse_unfinished(files: Files, path: str, name: str | None = None) -> None:
    """Raises DataError for a data set in object storage whose writer was ended before it was whole."""
    if "://" not in path:
        return
    with suppress(OSError):  # it is not there, or may not be looked for
        files.info(mark_of_unfinished(name))
        raise DataError(
            f"data.path={path}: the command that wrote it was ended before it was whole, or is still running; wait for "
            f"it, or run it again"
        )


def refuse_pointers(files: Files, infos: list[FileInfo]) -> None:
    """Raises DataError for an archive or the like that git-lfs did not download; images and labels are told later."""
    others = (*image_endings(("heif",)), LABEL_FILE, TFRECORD_LABELS_ENDING)
    for info in infos:
        is_small = info.size < LFS_BYTES and not info.name.lower().endswith(others)
        if is_small and (pointer := describe_pointer(files.head(info.name, LFS_BYTES))):
            raise DataError(
                f"data.path={files.root}/{info.name} is {pointer}; run `git lfs pull`, or download the file itself"
            )


def _of_one_split(
    format: Format, infos: list[FileInfo], cfg: DataConfig, path: str
) -> tuple[list[FileInfo], str | None, list[str]]:
    """The files of the split that is used, the split to look for inside of them, and what to say about the others."""
    wanted = cfg.split
    images = [info for info in infos if is_image(info.name, image_endings(cfg.extra_formats))]
    items = images or infos
    names = [info.name for info in items]
    splits = splits_of_images(names) if images else splits_of_files(names)
    if not images and not format.is_trainable:  # a single file, with those that belong to it
        meant = split_name(wanted).split if wanted is not None else None
        is_meant = meant is not None and meant in splits
        return infos, None if is_meant else _split_inside(format, wanted, path), []
    if not images and not any(splits):
        return infos, _split_inside(format, wanted, path), notes_on_folders(names)
    used, note = choose_split(splits, wanted, "images" if images else "files")
    unused = {name for name, keep in zip(names, used.tolist(), strict=True) if not keep}
    chosen = [info for info in infos if info.name not in unused]
    together = [] if images else notes_on_folders([info.name for info in chosen])
    return chosen, None, [*([note] if note else []), *together]


def notes_on_folders(archives: Sequence[str]) -> list[str]:
    """What to say where archives of several folders are read as one data set."""
    folders = [folder or "." for folder in folders_read_together(archives)]
    words = f"the folders {list_names(folders)} are read together (give the path of one to read it alone)"
    return [words] if folders else []


def _refuse_to_train(format: Format, path: str) -> NoReturn:
    raise DataError(
        f"data.path={path} is {format.description}, which training does not read; make a zip of it first: "
        f"{prepare_command(path)}"
    )


def _is_table(name: str) -> bool:
    """Whether a file beside images is a table of what is known of them; one that holds images is a data set itself."""
    return name.lower().endswith(TABLE_ENDING)


def prepare_command(path: str) -> str:
    """The command that makes a data set that training reads."""
    name = os.path.splitext(os.path.basename(path.rstrip("/")))[0]
    return f"stylegan-ray prepare_data {shlex.quote(path)} {shlex.quote(name)}.zip"


def _describe_empty(index: Index) -> str:
    """What the files of a data set without images hold, as the end of a sentence."""
    if index.left_out:
        return f", but {joined_lines(index.left_out)}"
    return f": there are none in {list_names(list(index.shards))}; copy it again from its origin"


def _suggest_other_files(files: Files) -> str:
    """What a folder without images holds, as the end of a sentence."""
    alone = [
        info.name
        for info in files.listing()
        if (format := formats.by_file_name(info.name)) and not format.select([info])
    ]
    if alone:
        return f", but {list_names(alone)}: name the file itself"
    listing, left_out = files.survey()
    left_out.add_unused((info.name for info in listing), (), are_images=True)
    lines = joined_lines(left_out.lines())
    return f" ({', '.join(IMAGE_ENDINGS)})" + (f", but {lines}" if lines else "")


@contextmanager
def _as_data_errors(path: str) -> Iterator[None]:
    """Turns whatever readers and the file system raise into errors that name data.path."""
    shown = printable(path, most=500)
    try:
        with reading(f"data.path={path}", DataError, passes=(NotADirectoryError, FileNotFoundError)):
            yield
    except NotADirectoryError as error:
        raise DataError(
            f"data.path={shown} is a file, but neither a folder nor a zip, tar or Parquet file; {_way_out_of(path)}"
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"data.path={shown} does not exist{_nearest(path)}") from error


def _way_out_of(path: str) -> str:
    """What to give instead of a file that is no data set by itself."""
    name = split_address(path)[1].lower()
    if name.endswith(COMPRESSED_ENDINGS):
        return "unpack it"
    if OTHER_TFRECORD.search(name) or name.endswith((TFRECORD_LABELS_ENDING, *IMAGE_ENDINGS)):
        return "give the folder that holds it"
    return "give one of these"


def normalize_path(path: str) -> str:
    """One spelling for all paths of the same data."""
    return path if "://" in path else os.path.realpath(path)


def _nearest(path: str) -> str:
    """A hint: the nearest name that exists."""
    if "://" in path:
        return ""
    head, tail = os.path.split(os.path.abspath(path))
    if not os.path.isdir(head):
        return f"; its folder {head} does not exist either"
    with suppress(OSError):  # the folder may not be listed
        return nearest(tail, os.listdir(head)) or f"; `{openmoji.NAME}` is the built-in data set"
    return ""
