"""Files of rows (.jsonl), one JSON object a line: written, appended, read; rows of ticks and of metrics."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeGuard

from stylegan_ray.credentials import clean, logger_of
from stylegan_ray.storage import Storage
from stylegan_ray.untrusted import COPY_AGAIN, BadFileError, printable
from stylegan_ray.untrusted_text import parse_json

log = logger_of(__name__)

MOST_BYTES = 1 << 28
"""Largest file; the 25,000 ticks of 100,000 kimg take some 25 MB."""
MOST_BROKEN = 1000
LARGEST_CLOCK, LARGEST_VALUE, LARGEST = 1e12, 1e30, sys.float_info.max
SHOWN_TEXTS = ("metric", "detector", "class", "unavailable", "resize", "data", "dialect", "noise")
TEXTS = (*SHOWN_TEXTS, "checkpoint")
NUMBERS = ("value", "spread", "lowest", "highest", "seconds", "num_gen", "num_real", "repeats")
CLOCKS = ("kimg", "total_sec", "Progress/tick")
"""Entries of a row of metrics, by their types."""


def jsonl_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of a .jsonl file; NaN and infinity, which JSON lacks, become null.

    Credentials in addresses are left out.
    """
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in clean(row).items()
    }
    return f"{json.dumps(finite)}\n".encode()


def jsonl_rows(content: bytes, name: str = "rows") -> list[dict[str, Any]]:
    """The rows of a .jsonl file; torn lines are left out, with a line of the log.

    Raises BadFileError where there are more than MOST_BROKEN of them.
    """
    rows, broken = [], 0
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        if (row := _row(line)) is not None:
            rows.append(row)
            continue
        broken += 1
        if broken > MOST_BROKEN:
            raise BadFileError(f"{printable(name, 500)} has more than {MOST_BROKEN} damaged lines; {COPY_AGAIN}")
    if broken:
        log.warning("%s: lines that are no JSON objects are left out: %d", printable(name, 500), broken)
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None where it is none."""
    try:
        row = parse_json(line, "row", allow_nan=True)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def read_jsonl(folder: Storage, name: str) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; torn lines are left out, with a line of the log.

    Raises FileNotFoundError, and BadFileError for a file of more than MOST_BYTES, or one that is damaged all over.
    """
    return jsonl_rows(folder.read(name, MOST_BYTES), folder.path(name))


def rows_so_far(folder: Storage, name: str) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; none where there is no file yet."""
    try:
        return read_jsonl(folder, name)
    except FileNotFoundError:
        return []


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of a row is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def append_jsonl(folder: Storage, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows to a .jsonl file by rewriting it, since object stores cannot append."""
    before = b""
    with suppress(FileNotFoundError):
        before = folder.read(name)
    folder.write(name, before + b"".join(map(jsonl_line, rows)))


def tick_rows(folder: Storage, name: str) -> list[dict[str, Any]]:
    """The rows of ticks in a .jsonl file; none where there is no file yet. Damaged rows are left out, with a line."""
    return _whole_rows(folder, name, _is_tick_row)


def metric_rows(folder: Storage, name: str) -> list[dict[str, Any]]:
    """The rows of metrics in a .jsonl file; none where there is no file yet. Damaged rows are left out, with a line."""
    return list(map(_printable_texts, _whole_rows(folder, name, _is_metric_row)))


def _whole_rows(folder: Storage, name: str, is_whole: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    rows = rows_so_far(folder, name)
    whole = list(filter(is_whole, rows))
    if len(whole) < len(rows):
        log.warning("%s: %d of %d rows are damaged and left out", folder.path(name), len(rows) - len(whole), len(rows))
    return whole


def dated_metric_rows(folder: Storage, name: str) -> list[dict[str, Any]]:
    """Those rows of metrics that have a clock value."""
    return [row for row in metric_rows(folder, name) if row.get("kimg") is not None]


def is_clock(value: Any) -> bool:
    """Whether a value of a row can be a clock: thousands of images, ticks or seconds."""
    return is_number(value) and 0 <= value < LARGEST_CLOCK


def _is_tick_row(row: Mapping[str, Any]) -> bool:
    return is_clock(row.get("Progress/kimg")) and is_clock(row.get("Progress/tick", 0))


def _is_metric_row(row: Mapping[str, Any]) -> bool:
    """Whether the entries of a row have the types of a row of metrics."""
    numbers = [row.get(key) for key in NUMBERS]
    clocks = [row.get(key) for key in CLOCKS]
    return (
        isinstance(row.get("metric"), str)
        and all(isinstance(row.get(key), str | None) for key in TEXTS)
        and all(value is None or (is_number(value) and abs(value) < LARGEST_VALUE) for value in numbers)
        and all(value is None or is_clock(value) for value in clocks)
    )


def _printable_texts(row: dict[str, Any]) -> dict[str, Any]:
    return row | {key: printable(row[key], 500) for key in SHOWN_TEXTS if row.get(key) is not None}


def nimg_of_row(row: Mapping[str, Any]) -> int:
    """cur_nimg of a row of ticks or metrics."""
    return round(row["Progress/kimg" if "Progress/kimg" in row else "kimg"] * 1000)


def keep_rows(content: bytes, num_ticks: int) -> bytes:
    """The whole lines of a .jsonl file whose Progress/tick is below num_ticks, byte for byte."""
    kept = []
    for line in content.splitlines(keepends=True):
        tick = (_row(line) or {}).get("Progress/tick")
        if is_number(tick) and tick < num_ticks and line.endswith(b"\n"):
            kept.append(line)
    return b"".join(kept)
