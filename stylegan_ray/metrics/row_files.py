"""Files of rows of metrics, in the folder of their run or beside their network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from stylegan_ray.config import ConfigError, nearest
from stylegan_ray.credentials import without_credentials
from stylegan_ray.jsonl import metric_rows
from stylegan_ray.metrics.blocks import Plan
from stylegan_ray.metrics.rows import Comparison, IncomparableRows, Row, compare, mean_rows, values_of_one_kind
from stylegan_ray.run_folder import (
    CHECKPOINTS,
    EVALUATIONS,
    METRICS,
    NETWORK_ENDINGS,
    find_run,
    folder_of,
    is_run,
    read_config,
)
from stylegan_ray.storage import Storage, absolute, join_address, split_address

PLAIN_KEYS = ("psi", "cutoff", "noise", "dialect")
"""Keys in which rows that describe a network have the defaults of the evaluate command."""


def rows_file(network: str) -> str:
    """The file for rows of a network file or checkpoint: in the folder of its run, else beside it."""
    return join_address(folder_of(network), EVALUATIONS)


def load_rows(what: str) -> list[Row]:
    """Rows of a run (from training, then from the evaluate command), of a network, or of a .jsonl file.

    Raises ConfigError for a missing run or file.
    """
    name = split_address(what)[1]
    if name.endswith(".jsonl"):
        return _read(absolute(what))
    address = absolute(what)
    if name.endswith(NETWORK_ENDINGS) or _is_checkpoint(address):
        return [row for row in _read(rows_file(address)) if row.get("checkpoint") == address]
    run = find_run(what)
    rows: list[Row] = []
    for name in (METRICS, EVALUATIONS):
        rows += metric_rows(Storage.at(run), name)
    return rows


def rows_of_network(network: str, nimg: int, data_path: str | None = None) -> list[Row]:
    """The last row with a value of each metric that describes a network: of its run at this clock value, or evaluated.

    Rows of `evaluate` are those of this very file or checkpoint, computed with the default psi, noise and dialect, and
    on the data at `data_path` where that is known; they agree with the run's own in all that makes them comparable.
    """
    address = without_credentials(absolute(network))
    evaluated = [
        row
        for row in _rows_beside(network, EVALUATIONS)
        if row.get("checkpoint") == address
        and _is_plain(row)
        and (data_path is None or row.get("data_path") in (None, data_path))
    ]
    rows = values_of_one_kind(_rows_beside(network, METRICS) + evaluated)
    found = [row for row in rows if row.get("class") is None and row.get("kimg") == nimg / 1000]
    return list({row["metric"]: row for row in found}.values())


def _is_plain(row: Row) -> bool:
    """Whether a row was computed as the evaluate command does unless it is told otherwise."""
    plan = vars(Plan(()))
    return all(row.get(key, plan[key]) == plan[key] for key in PLAIN_KEYS)


def _rows_beside(network: str, name: str) -> list[Row]:
    """The rows of a file in the folder of a network's run, or beside it; none where it cannot be read."""
    with suppress(ValueError, OSError):
        return metric_rows(Storage.at(folder_of(network)), name)
    return []


def grouped(runs: Sequence[str], keys: Sequence[str]) -> dict[str, list[Row]]:
    """Mean rows of runs by the values of some keys of their configuration; raises ConfigError for an unknown key."""
    groups: dict[str, list[list[Row]]] = {}
    for run in runs:
        values = read_config(Storage.at(run)).flat()
        if unknown := [key for key in keys if key not in values]:
            raise ConfigError(f"--by {unknown[0]}: no such key{nearest(unknown[0], values)}")
        label = ", ".join("null" if values[key] is None else str(values[key]) for key in keys)
        groups.setdefault(label, []).append(load_rows(run))
    return {f"{label} ({len(group)} run{'s' * (len(group) > 1)})": mean_rows(group) for label, group in groups.items()}


def compare_stored(a: str, b: str) -> list[Comparison]:
    """Pairs of the last rows of every metric of A and B; raises ConfigError if they are not comparable."""
    try:
        return compare(load_rows(a), load_rows(b))
    except IncomparableRows as error:
        raise ConfigError(*error.args) from None


def _is_checkpoint(address: str) -> bool:
    return not is_run(address) and split_address(split_address(address)[0])[1] == CHECKPOINTS


def _read(file: str) -> list[Row]:
    folder, name = split_address(file)
    storage = Storage.at(folder)
    if not storage.exists(name):
        raise ConfigError(f"there are no rows of metrics in {file}; jobs/evaluate.py CHECKPOINT writes some")
    return metric_rows(storage, name)
