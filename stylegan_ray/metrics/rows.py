"""Rows of metrics: values with everything that decides whether they are comparable; and their comparison."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch

from stylegan_ray.data import Dataset
from stylegan_ray.metrics.blocks import Plan
from stylegan_ray.metrics.detectors import Detector
from stylegan_ray.metrics.names import MetricSpec
from stylegan_ray.metrics.reduction import Value
from stylegan_ray.untrusted import UserError, printable

Row = dict[str, Any]

MUST_AGREE = (
    "metric", "num_gen", "num_real", "detector", "detector_sha256", "resize", "data", "mirror", "dialect",
    "psi", "cutoff", "noise",
)  # fmt: skip
"""Keys in which comparable rows agree. Seeds may differ: the spread is the variation over seeds."""


class IncomparableRows(UserError):  # noqa: N818 (it names a state)
    """Rows that are not comparable; the message names the keys that differ."""


@dataclass(frozen=True)
class Comparison:
    """Two comparable rows."""

    metric: str
    a: Row
    b: Row

    @property
    def difference(self) -> float:
        """Value of B minus value of A."""
        return self.b["value"] - self.a["value"]

    @property
    def in_spreads(self) -> float | None:
        """The difference in units of the spread over repeats; None unless both rows have one."""
        spreads = [row["spread"] for row in (self.a, self.b) if row.get("spread") and row.get("repeats")]
        return self.difference / math.hypot(*spreads) if len(spreads) == 2 else None


def value_row(
    value: Value, plan: Plan, detector: Detector, dataset: Dataset | None, provenance: Mapping[str, Any], seconds: float
) -> Row:
    """The row of a value; `provenance` describes the networks (kimg, checkpoint, total_sec, ...)."""
    return {
        "metric": value.metric, "value": value.value, "spread": value.spread,
        "num_gen": value.num_gen, "num_real": value.num_real, "seed": plan.seed,
        "detector": detector.name, "detector_sha256": detector.sha256, "resize": detector.resize,
        "data": getattr(dataset, "fingerprint", None), "data_path": getattr(dataset, "path", None),
        "mirror": plan.mirror, "dialect": plan.dialect, "psi": plan.psi, "cutoff": plan.cutoff, "noise": plan.noise,
        **_environment(provenance, seconds),
    }  # fmt: skip


def full_name(row: Row) -> str:
    """The metric of a row, and the class where it is of one, such as "fid5k_tiny of cats"."""
    return f"{row['metric']} of {row['class']}" if row.get("class") is not None else row["metric"]


def unavailable_row(spec: MetricSpec, reason: str, provenance: Mapping[str, Any]) -> Row:
    """The row of a metric that cannot be computed: no value, and the reason with a way out."""
    return {"metric": spec.name, "value": None, "unavailable": reason, **_environment(provenance, 0.0)}


def values_of_one_kind(rows: Iterable[Row]) -> list[Row]:
    """Rows with a value that are comparable with the first one of their metric: points of one curve.

    A run's own rows come first, so those of `evaluate` with another psi, say, are left out.
    """
    first: dict[str, Row] = {}
    found = [row for row in rows if row.get("value") is not None]
    return [row for row in found if not unlike_keys(first.setdefault(full_name(row), row), row)]


def unlike_keys(a: Row, b: Row) -> list[str]:
    """The keys in which two rows would have to agree to be comparable, and do not."""
    return [key for key in MUST_AGREE if a.get(key) != b.get(key)]


def mean_rows(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of several runs as one run's: where all have a value at a kimg, its mean, lowest and highest.

    A key in which the runs should agree and do not has the list of its values.
    """
    found = [{(full_name(row), row.get("kimg")): row for row in values_of_one_kind(rows)} for rows in runs]
    means = []
    for place in found[0]:
        if all(place in others for others in found):
            rows = [others[place] for others in found]
            values = [row["value"] for row in rows]
            seconds = [row["total_sec"] for row in rows if row.get("total_sec") is not None]
            own = {"value": statistics.fmean(values), "lowest": min(values), "highest": max(values), "spread": None}
            total_sec = statistics.fmean(seconds) if len(seconds) == len(rows) else None
            unlike = {key: [row.get(key) for row in rows] for other in rows for key in unlike_keys(rows[0], other)}
            means.append(rows[0] | own | unlike | {"total_sec": total_sec})
    return means


def summary_rows(repeats: Sequence[Sequence[Row]]) -> list[Row]:
    """One row per metric over repeats with different seeds: mean, and standard deviation of one repeat."""
    summaries = []
    for rows in zip(*repeats, strict=True):
        values = [row["value"] for row in rows]
        if None in values:
            continue
        spread = statistics.stdev(values) if len(values) > 1 else None
        own = {
            "value": statistics.fmean(values),
            "spread": spread,
            "values": values,
            "seed": [row["seed"] for row in rows],
        }
        summaries.append({**rows[0], **own, "repeats": len(rows), "seconds": sum(row["seconds"] for row in rows)})
    return summaries


def compare(rows_a: Iterable[Row], rows_b: Iterable[Row]) -> list[Comparison]:
    """Pairs of the last rows of each metric in A and B; raises IncomparableRows if any pair is not comparable."""
    last_a, last_b = _last(rows_a), _last(rows_b)
    shared = [metric for metric in last_a if metric in last_b]
    if not shared:
        sides = [", ".join(last) or "none" for last in (last_a, last_b)]
        raise IncomparableRows(f"A and B have no metric in common: A has {sides[0]}; B has {sides[1]}")
    unlike = [
        f"{metric}: {key} is {printable(last_a[metric].get(key))} in A and {printable(last_b[metric].get(key))} in B"
        for metric in shared
        for key in unlike_keys(last_a[metric], last_b[metric])
    ]
    if unlike:
        raise IncomparableRows("these rows are not comparable:", *unlike)
    return [Comparison(metric, last_a[metric], last_b[metric]) for metric in shared]


def _last(rows: Iterable[Row]) -> dict[str, Row]:
    """The last row with a value of each metric, and of each class: after repeats, their summary."""
    return {full_name(row): row for row in rows if row.get("value") is not None}


def _environment(provenance: Mapping[str, Any], seconds: float) -> Row:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    versions = {
        "stylegan_ray": metadata.version("stylegan-ray"),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    return {"kimg": None, **provenance, "versions": versions, "seconds": round(seconds, 3), "time": when}
