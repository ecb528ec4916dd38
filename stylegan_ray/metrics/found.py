"""Where rows of metrics are: beside the runs and networks they belong to."""

from __future__ import annotations

import os
from contextlib import suppress

from stylegan_ray.config import ConfigError
from stylegan_ray.metrics.rows import Comparison, Row, UnlikeRows, compare
from stylegan_ray.run_folder import CHECKPOINTS, EVALUATIONS, METRICS, NETWORK_ENDINGS, find_run, is_run, read_jsonl
from stylegan_ray.storage import Storage, join_address, split_address


def absolute(address: str) -> str:
    """An address that means the same in any working directory."""
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def place_of_rows(network: str) -> str:
    """The file for rows of a network file or checkpoint: in the run that it lies in, else beside it."""
    folder, _ = split_address(network)
    outer, name = split_address(folder)
    return join_address(outer if name == CHECKPOINTS else folder, EVALUATIONS)


def rows_of(what: str) -> list[Row]:
    """The rows of a run (taken in its training, then on request), of a network, or of a .jsonl file; or ConfigError."""
    name = split_address(what)[1]
    if name.endswith(".jsonl"):
        return _read(absolute(what))
    address = absolute(what)
    if name.endswith(NETWORK_ENDINGS) or _is_checkpoint(address):
        return [row for row in _read(place_of_rows(address)) if row.get("checkpoint") == address]
    run = find_run(what)
    rows: list[Row] = []
    for name in (METRICS, EVALUATIONS):
        with suppress(FileNotFoundError):
            rows += read_jsonl(Storage.at(run), name)
    return rows


def compared(a: str, b: str) -> list[Comparison]:
    """The last rows of every metric of A and B; raises ConfigError where they must not be compared."""
    try:
        return compare(rows_of(a), rows_of(b))
    except UnlikeRows as error:
        raise ConfigError(str(error)) from None


def _is_checkpoint(address: str) -> bool:
    return not is_run(address) and split_address(split_address(address)[0])[1] == CHECKPOINTS


def _read(file: str) -> list[Row]:
    folder, name = split_address(file)
    try:
        return read_jsonl(Storage.at(folder), name)
    except FileNotFoundError:
        raise ConfigError(f"there are no rows of metrics in {file}; jobs/evaluate.py CHECKPOINT writes some") from None
