"""Tar files of images: WebDataset shards, with the label of `name.png` in `name.cls`."""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import BinaryIO

import numpy as np

from stylegan_ray.data.errors import DataError
from stylegan_ray.data.files import LIMIT_KEY, FileInfo, Files
from stylegan_ray.data.formats.folder import FEW_IMAGES, is_image
from stylegan_ray.data.formats.protocol import EncodedFormat
from stylegan_ray.data.index import Index, Progress
from stylegan_ray.data.labels import Labels, labels_from_folders
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
)
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.data.scan import Reading, scan
from stylegan_ray.data.splits import choose_split, splits_of_images
from stylegan_ray.untrusted import LARGE_BYTES, check_size, format_bytes, large_turn, printable
from stylegan_ray.untrusted_text import decode_utf8

ENDING, LABEL_ENDING = ".tar", ".cls"
TYPE = 156
"""Where the type of a member is in its header."""
SHARD_NAME = re.compile(r"\d+\D*$")
CLASS_NUMBER = re.compile(r"[+-]?[0-9]+")
"""Not all that int() takes: 1_1 and numbers in other scripts are names."""
MOST_PARTS = 8
"""Kinds of images in a sample; where there are more, dots belong to the names."""
MAX_CLASS_BYTES = 1 << 12
MAX_HEADER_BYTES = 1 << 16
"""Largest header that extends another one, such as a long name; tarfile reads it as a whole."""
MAX_GLOBAL_KEYS = 100
"""Keys that hold for all members: tarfile copies them for each."""
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
LONG_NUMBER = re.compile(rb"[0-9]{256}")
"""In an extended header, on which tarfile would work for a time that grows with the square of its length."""
AFTER_THE_END = 1 << 20
"""Bytes behind the last member that must be zero; archives are padded to 10 kB, some writers use more."""
EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


class Tar(EncodedFormat):
    """One or several uncompressed tar files."""

    name = "tar"
    single_file_ending = ENDING
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
            _read_headers(members, files, number, info.name, reading.endings)
            if progress:
                progress(number + 1, len(infos), "reading tar headers")
        notes = [*_choose_images(members, files, reading), *members.left_out.lines()]
        names = PackedNames.pack(
            name if len(shards) == 1 else f"{shards[shard]}/{name}"
            for name, shard in zip(members.names, members.shard, strict=True)
        )
        places = {part: np.array(getattr(members, part), dtype=np.int64) for part in ("shard", "offset", "size")}
        scanned = scan(TarSource(files, shards, places).read, names, progress, reading)
        return Index(self.name, names, places, _labels(members), **vars(scanned), shards=shards, left_out=tuple(notes))

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
    left_out: LeftOut = field(default_factory=LeftOut)

    def keep(self, used: Sequence[bool]) -> None:
        """Forgets images that are not used."""
        self.names[:] = compress(self.names, used)
        for part in (self.shard, self.offset, self.size):
            part[:] = compress(part, used)


class _Header(tarfile.TarInfo):
    """The header of a member, whose extension is of bounded size."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        file = archive.fileobj
        assert file is not None
        at = file.tell()
        block = file.read(tarfile.BLOCKSIZE)
        if block[TYPE : TYPE + 1] in EXTENDED:
            size = cls.frombuf(block, tarfile.ENCODING, "surrogateescape").size
            if LONG_NUMBER.search(file.read(max(size, 0))):
                raise tarfile.ReadError("an extended header holds a number of more than 255 digits")
        file.seek(at)
        return super().fromtarfile(archive)  # type: ignore[return-value]

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.type in EXTENSIONS and header.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"a header takes {format_bytes(header.size)}, more than the limit of {format_bytes(MAX_HEADER_BYTES)}"
            )
        return header


def _read_headers(members: _Members, files: Files, shard: int, file_name: str, endings: Endings) -> None:
    """Adds the members of one tar file; raises DataError."""
    path = f"data.path={files.root}/{file_name}"
    try:
        with files.open(file_name) as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
            seen, latest = set(), -1
            for member in archive:
                member.pax_headers = {}  # tarfile keeps all members
                if len(archive.pax_headers) > MAX_GLOBAL_KEYS:
                    raise tarfile.ReadError(f"its global header has more than {MAX_GLOBAL_KEYS} keys")
                if member.offset <= latest:  # a negative size would lead back, and so without end
                    raise tarfile.ReadError("a member has a size that cannot be")
                latest, name = member.offset, member.name.removeprefix("./")
                check_name(name, path)
                is_label = name.lower().endswith(LABEL_ENDING) and not is_hidden(name)
                if not is_image(name, endings) and not is_label:
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
                else:
                    members.classes[f"{shard}/{_stem(name)}"] = _read_class(archive, member, name)
                seen.add(_with_small_ending(name))
            _check_end(file, archive.offset)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as an uncompressed tar file: {printable(str(error))}; "
            "copy it again, or write it again without compression"
        ) from error


def _check_end(file: BinaryIO, offset: int) -> None:
    """Raises ReadError where something follows the last member that tarfile has found; it ends at a damaged header."""
    file.seek(offset)
    if file.read(AFTER_THE_END).strip(b"\0"):
        raise tarfile.ReadError(
            f"what begins at byte {offset} is neither a member nor the end: the file is damaged or cut, or several tar "
            "files are joined"
        )


def _read_class(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> str:
    if member.size > MAX_CLASS_BYTES:
        raise DataError(
            f"the label {quoted(name)} takes {format_bytes(member.size)}, and may take {MAX_CLASS_BYTES} B: a class "
            "number or the name of a class"
        )
    content = archive.extractfile(member)
    assert content is not None
    return decode_utf8(content.read(), name).strip()


def _with_small_ending(name: str) -> str:
    """A name by which WebDataset tells files apart: the ending has no case."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}{dot}{ending.lower()}"


def _stem(name: str) -> str:
    """A name without its last ending."""
    return name[: name.rindex(".")]


def _key(name: str) -> str:
    """WebDataset's key of a sample: the name up to the first dot of its last part that no digit follows."""
    folder, slash, last = name.rpartition("/")
    parts = last.split(".")
    end = next((i for i, part in enumerate(parts[1:], start=1) if not part.isdigit()), 1)
    return f"{folder}{slash}{'.'.join(parts[:end])}"


def _sample(members: _Members, i: int) -> str:
    """The key of the sample of an image: its name without the ending where that has a label of its own."""
    own = f"{members.shard[i]}/{_stem(members.names[i])}"
    return own if own in members.classes else f"{members.shard[i]}/{_key(members.names[i])}"


def _choose_images(members: _Members, files: Files, reading: Reading) -> list[str]:
    """Keeps one split, and one image of each sample; what is left out as lines. Raises DataError."""
    used, note = choose_split(splits_of_images(members.names), reading.split, "images") if members.names else ([], "")
    members.keep(list(used))
    samples = [_sample(members, i) for i in range(len(members.names))]
    counts = Counter(samples)
    parts = [
        _part(sample, shard, name) for sample, shard, name in zip(samples, members.shard, members.names, strict=True)
    ]
    several = Counter(part for part, sample in zip(parts, samples, strict=True) if counts[sample] > 1)
    notes = [note] if note else []
    if reading.image_column is None and (not several or len(several) > MOST_PARTS):
        return notes
    chosen = reading.image_column or min(several, key=lambda part: (not _is_main(part), -several[part], part))
    keep = [part == chosen or (reading.image_column is None and counts[sample] == 1)
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


def _part(sample: str, shard: int, name: str) -> str:
    """What follows the key of the sample in a name, such as png or mask.png."""
    return name[len(sample) - len(f"{shard}/") :].lstrip(".").lower()


def _is_main(part: str) -> bool:
    """Whether an ending is that of the image itself, not of a mask or the like."""
    return "." not in part or part.partition(".")[0] in ("image", "img", "input", "jpg", "jpeg", "png")


def _labels(members: _Members) -> Labels:
    if not members.names:
        return Labels()
    if not members.classes:
        return labels_from_folders(members.names, "the tar files hold no .cls files")
    by_key: dict[str, set[str]] = {}
    for stem, text in members.classes.items():
        shard, _, name = stem.partition("/")
        by_key.setdefault(f"{shard}/{_key(f'{name}{LABEL_ENDING}')}", set()).add(text)
    texts, missing = [], []
    for i, name in enumerate(members.names):
        sample = _sample(members, i)
        found = {members.classes[sample]} if sample in members.classes else by_key.get(sample, set())
        if len(found) > 1:
            given = list_names(sorted(found))
            return Labels(problem=f"the sample of {quoted(name)} has several .cls files with different labels: {given}")
        missing += [] if found else [name]
        texts += found
    if missing:
        return Labels(problem=f"there is no .cls file for {list_names(missing)}")
    others = [text for text in texts if not CLASS_NUMBER.fullmatch(text)]
    if others and len(others) < len(texts):
        return Labels(problem=f"some .cls files hold class numbers, but others text, such as {quoted(others[0])}")
    if others:
        return Labels.of(texts, "the .cls files")
    numbers = list(map(int, texts))
    return Labels.of(numbers, "the .cls files", name=lambda i: quoted(members.names[i]))
