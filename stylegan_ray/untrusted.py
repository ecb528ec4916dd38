"""The boundary to bytes that strangers wrote: size before reading, bounded inflating and parsing, one kind of error.

Every reader of a file goes through this module, so that a limit is kept once for all formats. `reading` is the guard of
an entry point: whatever a parser raises on damaged or hostile bytes leaves it as one error that names the file.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import reprlib
import stat
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import yaml

NETWORK_BYTES = 4 << 30
"""Largest network file. StyleGAN2 at 1024 pixels with G, D and G_ema takes 0.4 GB in float32."""
CONFIG_BYTES = 1 << 18
"""Largest preset, saved configuration or search space; ours take 10 kB."""
JSON_BYTES = 1 << 20
"""Largest JSON file but for dataset.json, whose reader has its own limit."""
DEPTH = 32
"""Deepest nesting of lists and mappings in YAML and JSON."""
NODES = 20_000
"""Most values in a YAML file."""
DIGITS = 32
"""Most characters of an integer in YAML and JSON; 2**63 has 19."""
PIECE = 1 << 20
"""Bytes that one read asks for."""
COPY_AGAIN = "it may be damaged or incomplete: copy or download it again"
"""The way out where a parser fails on a file."""


class UserError(ValueError):
    """An error whose message is for the user: it names key or file, value, rule and a way out, on printable lines."""


class BadFileError(UserError):
    """A file that cannot be used; the message names the file, what is wrong and a way out."""


class Readable(Protocol):
    """An open binary file, or a stream of pyarrow."""

    def read(self, size: int, /) -> bytes: ...


class reading:  # noqa: N801 - a context manager, named like a function
    """Guards an entry point: whatever is raised within leaves as `error`, with the file's name, on one printable line.

    `error` itself, UserError and the classes in `passes` leave as they are, but a BadFileError becomes `error` and gets
    the file's name where it lacks it. KeyboardInterrupt, SystemExit and the like are never caught. To let a storage
    that does not respond be tried again, read the bytes outside and parse them within, or pass OSError.
    """

    def __init__(
        self,
        name: object,
        error: Callable[[str], Exception] = BadFileError,
        passes: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name, self.error, self.passes = printable(name, most=500), error, passes

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if raised is None or isinstance(raised, self.passes) or not _is_failure(raised):
            return
        is_ours = isinstance(raised, UserError) or (isinstance(self.error, type) and isinstance(raised, self.error))
        if not is_ours:
            raise self.error(f"{self.name}: {describe(raised)}") from raised
        is_final = not isinstance(raised, BadFileError) or self.name in str(raised)
        if not is_final:
            raise self.error(f"{self.name}: {raised}") from raised
        if isinstance(self.error, type) and not isinstance(raised, self.error) and isinstance(raised, BadFileError):
            raise self.error(str(raised)) from raised


def _is_failure(raised: BaseException) -> bool:
    """Whether a parser failed, in contrast to an interrupt: panics of Rust libraries are no subclasses of Exception."""
    return isinstance(raised, Exception) or type(raised).__name__ == "PanicException"


def describe(raised: BaseException) -> str:
    """What an error of a parser means for its file, on one printable line."""
    if isinstance(raised, RecursionError):
        return f"cannot be read: it is nested too deeply; {COPY_AGAIN}"
    if isinstance(raised, MemoryError):
        return f"cannot be read: it needs more memory than there is; {COPY_AGAIN}"
    if isinstance(raised, OSError) and raised.errno is not None:
        return f"cannot be read: {printable(os.strerror(raised.errno))}"
    text = printable(_message(raised), most=1000)
    if isinstance(raised, ValueError) and not isinstance(raised, UnicodeError) and text:
        return text  # our own readers raise ValueError with a whole message
    return f"cannot be read: {type(raised).__name__}{': ' * bool(text)}{text}; {COPY_AGAIN}"


def _message(raised: BaseException) -> str:
    try:
        return " ".join(str(raised).split())
    except Exception:  # the message of an error can hold objects of the file
        return ""


def printable(text: object, most: int = 200) -> str:
    """Foreign text for messages: at most `most` of its characters, control characters and the like escaped.

    Newlines, ESC, directions of writing and lone surrogates become \\n, \\x1b, \\u202e and \\udc80. Objects that are no
    text are shown as a short repr.
    """
    if isinstance(text, bytes):
        text = text[: 4 * most + 4].decode("utf-8", "backslashreplace")
    elif isinstance(text, os.PathLike):
        text = os.fsdecode(os.fspath(text))
    elif not isinstance(text, str):
        text = short_repr(text)
    text = str(text)
    kept = text if len(text) <= most else text[: max(most - 3, 0)] + "..."
    return kept if kept.isprintable() else "".join(map(_escaped, kept))


def short_repr(value: object) -> str:
    """A repr whose work is bounded, also for values that hold themselves many times."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"<an integer of {value.bit_length()} bits>"
    try:
        return reprlib.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


# Sizes.


def open_regular(path: str | os.PathLike[str], name: object = None) -> BinaryIO:
    """A local file open for reading; raises BadFileError where it is no regular file, without waiting for a pipe.

    Links are followed. Raises OSError where it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = open(descriptor, "rb")
    try:
        check_regular(descriptor, path if name is None else name)
    except BaseException:
        file.close()
        raise
    return file


def check_regular(descriptor: int, name: object) -> int:
    """The size of an open file in bytes; raises BadFileError for a device, pipe, socket or folder."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise BadFileError(f"{printable(name)} is not a regular file (but a folder, device or pipe); give a file")
    return status.st_size


def check_size(size: int, limit: int, name: object, key: str | None = None) -> None:
    """Raises BadFileError for a file of more than `limit` bytes; `key` is the configuration key of the limit."""
    if size > limit:
        way_out = f"raise {key}" if key else "use a smaller file"
        raise BadFileError(
            f"{printable(name)}: {format_bytes(size)}, more than the limit of {format_bytes(limit)}; {way_out}"
        )


def read_at_most(file: Readable, limit: int, name: object, key: str | None = None) -> bytes:
    """All bytes of an open file, of which there may be `limit`; the size is compared before anything is read.

    Of a file of the local system only the bytes that its size promises are read (files of /proc promise none), and it
    must be a regular one. `key` is the configuration key that raises the limit. Raises BadFileError.
    """
    size = size_of(file, name)
    if size is not None:
        check_size(size, limit, name, key)
    most = limit if size is None else size
    pieces, found = [], 0
    while found <= most:
        piece = file.read(min(PIECE, most - found + (size is None)))
        if not piece:
            break
        pieces.append(piece)
        found += len(piece)
    check_size(found, limit, name, key)
    return b"".join(pieces)


def size_of(file: Any, name: object) -> int | None:
    """The size of an open file in bytes, None for a stream that does not tell; raises BadFileError for devices."""
    try:
        descriptor = file.fileno()
    except (OSError, AttributeError, ValueError):
        descriptor = None
    if descriptor is not None:
        return check_regular(descriptor, name)
    try:
        return int(file.size())
    except (OSError, ValueError, AttributeError, TypeError):  # a stream of pyarrow without random access
        return None


def read_file(path: str | os.PathLike[str], limit: int, key: str | None = None) -> bytes:
    """The content of a local regular file of at most `limit` bytes; raises BadFileError or OSError."""
    with open_regular(path) as file:
        return read_at_most(file, limit, path, key)


def format_bytes(size: int) -> str:
    """A size in B, kB, MB or GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"


def inflate(
    content: bytes, limit: int, name: object = "compressed data", key: str | None = None, wbits: int = -15
) -> bytes:
    """The bytes of a deflate stream, at most `limit`; `wbits` as in zlib: -15 raw (zip), 15 zlib, 31 gzip, 47 either.

    Raises BadFileError where there are more, or where the stream is damaged or incomplete.
    """
    stream = zlib.decompressobj(wbits)
    pieces, found = [], 0
    try:
        while not stream.eof and found <= limit:
            piece = stream.decompress(content, min(PIECE, limit - found + 1))
            content = stream.unconsumed_tail
            pieces.append(piece)
            found += len(piece)
            if not piece and not content:
                break
    except zlib.error as error:
        raise BadFileError(
            f"{printable(name)}: the compressed data is damaged ({printable(error)}); {COPY_AGAIN}"
        ) from None
    if found > limit:
        way_out = f"raise {key}" if key else "use a smaller file"
        raise BadFileError(f"{printable(name)}: inflates to more than the limit of {format_bytes(limit)}; {way_out}")
    if not stream.eof:
        raise BadFileError(f"{printable(name)}: the compressed data ends early; {COPY_AGAIN}")
    return b"".join(pieces)


# Text, JSON and YAML.


def decode_utf8(content: bytes, name: object) -> str:
    """Text in UTF-8, with or without a byte order mark; raises BadFileError with the line of the first wrong byte."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if content.startswith(mark):
            raise BadFileError(f"{printable(name)}: the file is {encoding}; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0)
        before = content[:start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        raise BadFileError(
            f"{printable(name)}, line {line}, column {column}: byte 0x{content[start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def parse_json(
    content: bytes, name: object, limit: int = JSON_BYTES, key: str | None = None, depth: int = DEPTH,
    allow_nan: bool = False,
) -> Any:  # fmt: skip
    """The value of a JSON text; raises BadFileError with line and column.

    Nesting, integers and size are bounded, a key stands once in an object, and NaN or infinite numbers are refused
    unless `allow_nan`.
    """
    check_size(len(content), limit, name, key)
    text = decode_utf8(content, name)
    if deepest(text) > depth:
        raise BadFileError(f"{printable(name)}: JSON nested more than {depth} deep; {COPY_AGAIN}")
    hooks: dict[str, Any] = {} if allow_nan else {"parse_constant": _no_constant, "parse_float": _finite}
    try:
        return json.loads(text, parse_int=_int, object_pairs_hook=_unique, **hooks)
    except json.JSONDecodeError as error:
        raise BadFileError(
            f"{printable(name)}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); {COPY_AGAIN}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadFileError(f"{printable(name)}: {printable(_message(error))}") from None


def deepest(text: str) -> int:
    """How deep the lists and objects of a JSON text are nested; linear in its length."""
    depth = most = 0
    for match in _BRACKETS.finditer(text):
        bracket = match[0]
        if bracket in "[{":
            depth += 1
            most = max(most, depth)
        elif bracket in "]}":
            depth -= 1
    return most


_BRACKETS = re.compile(r'[\[{\]}]|"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def _int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits; at most {DIGITS} are read")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {printable(digits, 40)} is not finite")
    return value


def _no_constant(word: str) -> float:
    raise ValueError(f"the number {word} is not finite")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {printable(twice, 60)!r} is given twice in one object; keep one")
    return found


def parse_yaml(content: bytes | str, name: object, limit: int = CONFIG_BYTES, depth: int = DEPTH) -> Any:
    """The value of a YAML text, None for an empty one; raises BadFileError with line and column.

    Plain data in UTF-8 only: no aliases, no tags, no key twice, bounded nesting, size and integers. Numbers in base 60
    (2:8), dates and the words yes, no, on, off are text; a boolean key of the configuration takes such a word, too.
    """
    check_size(len(content), limit, name)
    text = decode_utf8(content, name) if isinstance(content, bytes) else content
    try:
        loader = _PlainLoader(text)
        loader.most_depth = depth
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = printable(error.problem or error.context or "not YAML")
        hint = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
        raise BadFileError(f"{printable(name)}{where}: {problem}{hint}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise BadFileError(
            f"{printable(name)}, line {line}, column {column}: the character {printable(text[error.position :][:1])} "
            "does not belong in YAML; delete it"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadFileError(f"{printable(name)}: not YAML that can be read: {printable(_message(error))}") from None


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, tags and numbers in base 60; every refusal has a line and a column."""

    most_depth = DEPTH
    depth = num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases (&name, *name) are not read; write the value out", problem_mark=mark
            )
        if event.tag is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tags ({event.tag}) are not read; write the plain value", problem_mark=mark
            )
        self.num_nodes += 1
        if self.num_nodes > NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {NODES} values", problem_mark=mark)
        if self.depth >= self.most_depth:
            raise yaml.MarkedYAMLError(problem=f"nested more than {self.most_depth} deep", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise yaml.MarkedYAMLError(problem="a key must be a word or a number", problem_mark=key_node.start_mark)
            if key in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {printable(key, 60)!r} stands twice, first in line {lines[key]}; keep one",
                    problem_mark=key_node.start_mark,
                )
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"an integer of {len(node.value)} characters; at most {DIGITS} are read",
                problem_mark=node.start_mark,
            )
        return super().construct_yaml_int(node)


def _plain_resolvers() -> Iterator[tuple[str, re.Pattern[str], list[str]]]:
    yield "null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]
    yield "bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")
    yield "int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)"), list("-+0123456789")
    number = r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    yield "float", re.compile(rf"{number}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"), list("-+0123456789.")


_PlainLoader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _plain_resolvers():
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern.pattern})\Z"), _first)
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
