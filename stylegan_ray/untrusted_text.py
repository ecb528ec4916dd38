"""JSON and YAML that strangers wrote: plain data of bounded size, nesting and digits; errors name line and column."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from stylegan_ray.untrusted import CONFIG_BYTES, COPY_AGAIN, BadFileError, check_size, message_of, printable

JSON_BYTES = 1 << 20
"""Largest JSON file but for dataset.json, whose reader has its own limit."""
DEPTH = 32
"""Deepest nesting of lists and mappings in YAML and JSON."""
NODES = 20_000
"""Most values in a YAML file."""
DIGITS = 32
"""Most characters of an integer in YAML and JSON; 2**63 has 19."""


WIDE_STARTS = (
    (re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff|[^\0]\0\0\0|\0\0\0[^\0]", re.DOTALL), "UTF-32"),
    (re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", re.DOTALL), "UTF-16"),
)
"""How text in wider encodings begins, with and without a byte order mark."""


def decode_utf8(content: bytes, name: object) -> str:
    """Text in UTF-8, with or without a byte order mark; raises BadFileError with the line of the first wrong byte."""
    for start, encoding in WIDE_STARTS:
        if start.match(content):
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
        raise BadFileError(f"{printable(name)}: {printable(message_of(error))}") from None


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
    loader = None
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
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        line = text.count("\n", 0, loader.index if loader else 0) + 1
        raise BadFileError(
            f"{printable(name)}, line {line}: not YAML that can be read: {printable(message_of(error))}; "
            "correct it there"
        ) from None


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
                    problem=f"the key {printable(key, 60)!r} appears twice, first in line {lines[key]}; keep one",
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
        try:
            return super().construct_yaml_int(node)
        except ValueError:
            raise yaml.MarkedYAMLError(
                problem=f"not YAML: {printable(node.value)} is no number; write digits, or the word in quotes",
                problem_mark=node.start_mark,
            ) from None


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
