"""Tar files of images: WebDataset shards, with the label of `name.png` in `name.cls`, or all labels in dataset.json."""

from __future__ import annotations

import posixpath
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, BinaryIO

import numpy as np

from stylegan_ray.data.covers import FEW_IMAGES, refuse_covers
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import LIMIT_KEY, FileInfo, Files
from stylegan_ray.data.formats.folder import is_image, label_file_among
from stylegan_ray.data.formats.protocol import EncodedFormat
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import (
    LABEL_FILE,
    NUMBER,
    LabelFile,
    Labels,
    attribution_from_json,
    label_limit,
    labels_from_folders,
    labels_from_json,
    problem_of_text,
)
from stylegan_ray.data.left_out import (
    IMAGE_ENDINGS,
    NO_FILES,
    SPARSE,
    Endings,
    LeftOut,
    check_name,
    is_hidden,
    list_names,
    quoted,
    without_dot,
)
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import Reading, scan
from stylegan_ray.data.splits import Parents, choose_split, parents_of_splits, splits_of_images
from stylegan_ray.readers.tar_headers import BoundedHeader
from stylegan_ray.untrusted import (
    LARGE_BYTES,
    PIECE,
    BadFileError,
    UserError,
    check_size,
    format_bytes,
    large_turn,
    message_of,
    printable,
    short_repr,
)
from stylegan_ray.untrusted_text import parse_json

ENDING, LABEL_ENDING = ".tar", ".cls"
SHARD_NAME = re.compile(r"\d+\D*$")
MOST_PARTS = 8
"""Kinds of images in a sample; where there are more, dots belong to the names."""
MAX_CLASS_BYTES = 1 << 12
MAX_GLOBAL_KEYS = 100
"""Keys that hold for all members: tarfile copies them for each."""
AFTER_THE_END = 1 << 26
"""Zeros that may follow the last member; archives are padded to 10 kB, some writers use more."""


class Tar(EncodedFormat):
    """One or several uncompressed tar files."""

    name = "tar"
    single_file_ending = ENDING
    has_image_columns = True
    has_inner_splits = True

    def select(self, listing: Sequence[FileInfo], endings: Endings = IMAGE_ENDINGS) -> list[FileInfo]:
        return [info for info in listing if info.name.lower().endswith(ENDING)]

    def claims(self, files: Files, infos: Sequence[FileInfo], listing: Sequence[FileInfo]) -> bool:
        """Numbered shards win against a few images beside them, a tar file among many images does not."""
        num_images = sum(is_image(info.name) for info in listing)
        return not num_images or (num_images <= FEW_IMAGES and all(SHARD_NAME.search(info.name) for info in infos))

    def build_index(
        self, files: Files, infos: Sequence[FileInfo], progress: Progress | None, reading: Reading | None = None
    ) -> Index:
        members, shards, reading = _Members(), tuple(info.name for info in infos), reading or Reading()
        for number, info in enumerate(infos):
            _read_headers(members, files, number, info, reading.endings)
            if progress:
                progress(number + 1, len(infos), "reading tar headers")
        refuse_covers(members.names, members.others, f"{files.root}/{infos[0].name}" if len(infos) == 1 else files.root)
        notes = _choose_images(members, files, reading)
        if members.classes and members.label_files:
            notes.append(f"labels are read from .cls files, not from {quoted(members.label_files[0][1])}")
        label_files = _label_files(members, files, shards)
        if not members.classes and not label_files:
            members.left_out.add_label_files(None, [name for _, name, _, _ in members.label_files], members.names)
        notes += members.left_out.lines()
        names = PackedNames.pack(
            name if len(shards) == 1 else f"{shards[shard]}/{name}"
            for name, shard in zip(members.names, members.shard, strict=True)
        )
        places = {part: np.array(getattr(members, part), dtype=np.int64) for part in ("shard", "offset", "size")}
        scanned = scan(TarSource(files, shards, places).read, names, progress, reading)
        attribution = attribution_from_json(label_files[0].content, len(label_files[0].names)) if label_files else None
        return Index(
            self.name, names, places, _labels(members, label_files, shards), **vars(scanned), shards=shards,
            attribution=attribution, left_out=tuple(notes),
        )  # fmt: skip

    def source(self, files: Files, index: Index) -> TarSource:
        return TarSource(files, index.shards, index.places)


@dataclass(frozen=True)
class TarSource:
    """Reads the images of tar files, one read at a known offset each."""

    files: Files
    shards: Sequence[str]
    places: dict[str, np.ndarray]

    def read(self, entry: int, at_least: int | None = None) -> bytes:
        """The bytes of an image file: all, or the first `at_least`."""
        size = int(self.places["size"][entry])
        check_size(size, self.files.max_bytes, "the image", LIMIT_KEY)
        if size > LARGE_BYTES:
            large_turn.take()
        shard, offset = self.shards[int(self.places["shard"][entry])], int(self.places["offset"][entry])
        return self.files.read_at(shard, offset, size if at_least is None else min(size, at_least))


@dataclass
class _Members:
    """Members of the tar files, in the order in which they are stored."""

    names: list[str] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)
    """Text of each .cls file, by shard and name without the ending."""
    label_files: list[tuple[int, str, int, int]] = field(default_factory=list)
    """Shard, name, offset and size of each file named dataset.json."""
    others: list[str] = field(default_factory=list)
    """Names of other files that are not empty."""
    left_out: LeftOut = field(default_factory=LeftOut)
    parents: Parents = frozenset()
    """Where the splits of its images are."""

    def keep(self, used: Sequence[bool]) -> None:
        """Forgets images that are not used."""
        self.names[:] = compress(self.names, used)
        for part in (self.shard, self.offset, self.size):
            part[:] = compress(part, used)


def _read_headers(members: _Members, files: Files, shard: int, info: FileInfo, endings: Endings) -> None:
    """Adds the members of one tar file; raises DataError."""
    path = f"data.path={files.root}/{info.name}"
    try:
        with files.open(info.name) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=BoundedHeader) as archive:
            seen = set()
            for name, member in _checked_members(archive, info.size, path):
                is_label_file = name.lower().rpartition("/")[2] == LABEL_FILE
                is_label = (is_label_file or name.lower().endswith(LABEL_ENDING)) and not is_hidden(name)
                if not is_image(name, endings) and not is_label:
                    members.others += [name] if member.size else []
                    members.left_out.add_unused([name] if member.isfile() else [], (), are_images=True)
                elif member.issparse() or not member.isreg():
                    members.left_out.add(SPARSE if member.issparse() else NO_FILES, name)
                elif _with_small_ending(name) in seen:
                    raise DataError(f"{path} holds {quoted(name)} twice; write it again with each file once")
                elif is_image(name, endings):
                    members.names.append(name)
                    members.shard.append(shard)
                    members.offset.append(member.offset_data)
                    members.size.append(member.size)
                elif is_label_file:
                    members.label_files.append((shard, name, member.offset_data, member.size))
                else:
                    members.classes[f"{shard}/{_stem(_composed(name))}"] = _read_class(archive, member)
                seen.add(_with_small_ending(name))
            _check_end(file, archive.offset)
    except (UserError, OSError):
        raise
    except Exception as error:  # tarfile raises nearly anything on damaged files
        kind = "" if isinstance(error, tarfile.TarError) else f"{type(error).__name__}: "
        raise DataError(
            f"{path} cannot be read as an uncompressed tar file: {kind}{printable(message_of(error))}; "
            "copy it again, or write it again without compression"
        ) from error


def _checked_members(archive: tarfile.TarFile, file_size: int, path: str) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The members and their names; raises ReadError for one that is not whole, before tarfile looks behind it."""
    for member in archive:
        member.pax_headers = {}  # tarfile keeps all members
        if len(archive.pax_headers) > MAX_GLOBAL_KEYS:
            raise tarfile.ReadError(f"its global header has more than {MAX_GLOBAL_KEYS} keys")
        name = without_dot(member.name)
        check_name(name, path)
        if member.size < 0 or not member.offset < archive.offset <= file_size:
            raise tarfile.ReadError(f"{quoted(name)} has a size of {short_repr(member.size)} B, which cannot be")
        yield name, member


def _check_end(file: BinaryIO, offset: int) -> None:
    """Raises ReadError unless zeros follow the last member that tarfile has found; it ends at a damaged header."""
    file.seek(offset)
    found = 0
    while piece := file.read(PIECE):
        found += len(piece)
        if piece.strip(b"\0"):
            raise tarfile.ReadError(
                f"what begins at byte {offset} is neither a member nor the end: the file is damaged or cut, or several "
                "tar files are joined"
            )
        if found > AFTER_THE_END:
            raise tarfile.ReadError(f"more than {format_bytes(AFTER_THE_END)} of zeros follow its last member")
    if found < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it ends at byte {offset + found} without the blocks of zeros that end a tar file")


def _read_class(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """The text of a .cls file; of a long one the beginning, which is too long for a class."""
    content = archive.extractfile(member)
    assert content is not None
    return content.read(MAX_CLASS_BYTES + 1).decode("utf-8-sig", "surrogateescape").strip()


def _problem_of_class(text: str) -> str:
    """Why the text of a .cls file names no class, as the end of a sentence; empty where it does."""
    if len(text) > MAX_CLASS_BYTES:
        return f"is of more than {MAX_CLASS_BYTES} B"
    return problem_of_text(text) or ("" if text.isprintable() else f"holds {short_repr(text)}")


def _with_small_ending(name: str) -> str:
    """A name by which WebDataset tells files apart: the ending has no case. Double slashes are one."""
    stem, dot, ending = posixpath.normpath(name).rpartition(".")
    return f"{stem}{dot}{ending.lower()}"


def _composed(name: str) -> str:
    """A name as most programs write it; macOS decomposes accents."""
    return unicodedata.normalize("NFC", name)


def _stem(name: str) -> str:
    """A name without its last ending."""
    return name[: name.rindex(".")]


def _key(name: str) -> str:
    """WebDataset's key of a sample: the name up to the first dot of its last part that no digit follows."""
    folder, slash, last = name.rpartition("/")
    parts = last.split(".")
    end = next((i for i, part in enumerate(parts[1:], start=1) if not part.isdigit()), 1)
    return f"{folder}{slash}{'.'.join(parts[:end])}"


def _samples(members: _Members) -> list[str]:
    """The key of the sample of each image, by shard.

    Dots belong to the names of images that have labels of their own, and where a key has very many images.
    """
    names = list(map(_composed, members.names))
    keys = [f"{shard}/{_key(name)}" for shard, name in zip(members.shard, names, strict=True)]
    own = [f"{shard}/{_stem(name)}" for shard, name in zip(members.shard, names, strict=True)]
    counts = Counter(keys)
    labeled = Counter(key for key, stem in zip(keys, own, strict=True) if stem in members.classes)
    return [
        stem if labeled[key] == counts[key] or (labeled[key] and counts[key] > MOST_PARTS) else key
        for key, stem in zip(keys, own, strict=True)
    ]


def _choose_images(members: _Members, files: Files, reading: Reading) -> list[str]:
    """Keeps one split, and one image of each sample; what is left out as lines. Raises DataError."""
    members.parents = parents_of_splits(members.names)
    used, note = choose_split(splits_of_images(members.names), reading.split, "images") if members.names else ([], "")
    members.keep(list(used))
    samples = _samples(members)
    counts = Counter(samples)
    parts = [
        _part(sample, shard, _composed(name))
        for sample, shard, name in zip(samples, members.shard, members.names, strict=True)
    ]
    several = Counter(part for part, sample in zip(parts, samples, strict=True) if counts[sample] > 1)
    notes = [note] if note else []
    if reading.image_column is None and not _are_kinds(several, [key for key in counts if counts[key] > 1], members):
        return notes
    chosen = reading.image_column or min(several, key=lambda part: (not _is_main(part), -several[part], part))
    keep = [part == chosen.lower() or (reading.image_column is None and counts[sample] == 1)
            for part, sample in zip(parts, samples, strict=True)]  # fmt: skip
    if not any(keep):
        raise DataError(
            f"data.image_column={quoted(chosen)} is not among the endings of images in {files.root}: "
            f"{list_names(sorted(set(parts)), most=8)}; give one of them"
        )
    members.keep(keep)
    if reading.image_column is None:
        others = [part for part in sorted(several) if part != chosen]
        notes.append(f"samples hold several images: {quoted(chosen)} is used, not {list_names(others, most=8)} (choose "
                     "with --data.image_column)")  # fmt: skip
    return notes


def _are_kinds(several: Counter[str], samples: list[str], members: _Members) -> bool:
    """Whether endings are kinds of images, such as image and mask: few that occur again, or that share a label.

    Others are names with dots, such as `Dr. Who 1.png`, of images that are no samples.
    """
    if not several or len(several) > MOST_PARTS:
        return False
    labels = _classes_by_key(members)
    return max(several.values()) > 1 or any(sample in labels for sample in samples)


def _part(sample: str, shard: int, name: str) -> str:
    """What follows the key of the sample in a name, such as png or mask.png."""
    return name[len(sample) - len(f"{shard}/") :].lstrip(".").lower()


def _is_main(part: str) -> bool:
    """Whether an ending is that of the image itself, not of a mask or the like."""
    return "." not in part or part.partition(".")[0] in ("image", "img", "input", "jpg", "jpeg", "png")


def _classes_by_key(members: _Members) -> dict[str, set[str]]:
    """The texts of the .cls files of each sample, by shard and key."""
    by_key: dict[str, set[str]] = {}
    for stem, text in members.classes.items():
        shard, _, name = stem.partition("/")
        by_key.setdefault(f"{shard}/{_key(f'{name}{LABEL_ENDING}')}", set()).add(text)
    return by_key


def _label_files(members: _Members, files: Files, shards: Sequence[str]) -> list[LabelFile]:
    """The dataset.json of each shard, or the only one for all; none where labels are in .cls files."""
    if members.classes:
        return []
    images: dict[int, list[str]] = {}
    for shard, name in zip(members.shard, members.names, strict=True):
        images.setdefault(shard, []).append(name)
    by_shard: dict[int, dict[str, tuple[int, int]]] = {}
    for shard, name, offset, size in members.label_files:
        by_shard.setdefault(shard, {})[name] = offset, size
    if len(by_shard) == 1 and len(set(members.names)) == len(members.names):  # for the images of all shards
        images = dict.fromkeys(by_shard, members.names)
    found = []
    for shard in sorted(by_shard.keys() & images.keys()):
        if name := label_file_among(list(by_shard[shard]), images[shard]):
            content = _read_label_file(files, shards[shard], name, *by_shard[shard][name], len(images[shard]))
            found.append(LabelFile(content, images[shard], name[: -len(LABEL_FILE)]))
    return found


def _read_label_file(files: Files, shard: str, name: str, offset: int, size: int, num_images: int) -> bytes:
    """The content of a dataset.json, which is of bounded size; raises DataError."""
    limit = label_limit(num_images)
    if size > limit:
        raise DataError(
            f"data.path={files.root}/{shard}: {quoted(name)} takes more than {format_bytes(limit)}, the limit for the "
            f"labels of {num_images} images; store labels in Parquet files, or write it again"
        )
    return files.read_at(shard, offset, size)


def _labels(members: _Members, label_files: Sequence[LabelFile], shards: Sequence[str]) -> Labels:
    if not members.names:
        return Labels()
    if label_files:
        labels = labels_from_json(*label_files)
        if sum(len(file.names) for file in label_files) < len(members.names):
            return Labels(problem=f"some of the tar files hold no {LABEL_FILE}; write one into each, or one for all")
        return replace(labels, is_late=True)
    if not members.classes:
        missing_files = f"the tar files hold no .cls files and no {LABEL_FILE}"
        return labels_from_folders(members.names, missing_files, members.parents)
    by_key, texts, missing = _classes_by_key(members), [], []
    for sample, name, shard in zip(_samples(members), members.names, members.shard, strict=True):
        found = {members.classes[sample]} if sample in members.classes else by_key.get(sample, set())
        if len(found) > 1:
            given = list_names(sorted(found))
            return Labels(problem=f"the sample of {quoted(name)} has several .cls files with different labels: {given}")
        if problem := next(filter(None, map(_problem_of_class, found)), ""):
            return Labels(
                problem=f"the .cls file of {quoted(name)} in {quoted(shards[shard])} {problem}; write the number or "
                "the name of its class"
            )
        missing += [] if found else [name]
        texts += found
    if missing:
        return Labels(problem=f"there is no .cls file for {list_names(missing)}")
    values = list(map(_value_of_class, texts))
    others = [text for text, value in zip(texts, values, strict=True) if isinstance(value, str)]
    if others and len(others) < len(texts):
        return Labels(problem=f"some .cls files hold class numbers, but others text, such as {quoted(others[0])}")
    return Labels.of(values, "the .cls files", name=lambda i: quoted(members.names[i]))


def _value_of_class(text: str) -> Any:
    """What the text of a .cls file stands for: a number, a vector in brackets, or the name of a class."""
    if NUMBER.fullmatch(text):  # not all that int() takes: 1_1 and numbers in other scripts are names
        return float(text) if "." in text else int(text)
    if not text.startswith("["):
        return text
    try:
        return parse_json(text.encode(), "the .cls file")
    except BadFileError:
        return text
