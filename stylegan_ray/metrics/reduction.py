"""From blocks to values. Blocks are added in order, so the bits do not depend on where and when they are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from stylegan_ray.metrics.blocks import SHARING, Plan, Result, Task
from stylegan_ray.metrics.distances import frechet_distance, inception_score, kernel_distance, monge_distance
from stylegan_ray.metrics.manifold import precision_recall
from stylegan_ray.metrics.names import VALUES, MetricSpec
from stylegan_ray.metrics.path_length import perceptual_path_length
from stylegan_ray.metrics.separability import linear_separability
from stylegan_ray.metrics.statistics import FeatureStats


class Collected:
    """The first `count` rows of an array: as rows, as statistics in float64, or both."""

    def __init__(self, count: int, keeps_rows: bool, makes_stats: bool) -> None:
        self.count, self.keeps_rows, self.makes_stats, self.num = count, keeps_rows, makes_stats, 0
        self.stats: FeatureStats | None = None
        self._parts: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Adds rows until there are `count`."""
        rows = rows[: self.count - self.num]
        self.num += len(rows)
        if self.keeps_rows:
            self._parts.append(rows)
        if self.makes_stats:
            self.stats = self.stats or FeatureStats(rows.shape[1])
            self.stats.update(rows)

    def rows(self) -> np.ndarray:
        """All rows."""
        return np.concatenate(self._parts)

    @classmethod
    def restored(cls, num: int, rows: np.ndarray | None, stats: FeatureStats | None) -> Collected:
        """Rows or statistics that were collected before."""
        collected = cls(num, rows is not None, stats is not None)
        collected.num, collected.stats = num, stats
        collected._parts = [] if rows is None else [rows]
        return collected


class InOrder:
    """Passes blocks on in order; early ones wait."""

    def __init__(self, add: Callable[[Result], None]) -> None:
        self._add, self._next = add, 0
        self._waiting: dict[int, Result] = {}

    def add(self, block: int, result: Result) -> None:
        self._waiting[block] = result
        while self._next in self._waiting:
            self._add(self._waiting.pop(self._next))
            self._next += 1

    def is_waiting(self) -> bool:
        """Whether blocks wait for a missing one."""
        return bool(self._waiting)


@dataclass(frozen=True)
class Value:
    """A value of a metric."""

    metric: str
    """Name of the metric, with a suffix if it has two values."""
    spec: MetricSpec
    value: float
    num_gen: int
    num_real: int = 0
    spread: float | None = None


class Reduction:
    """Collects the blocks of a plan and computes its metrics."""

    def __init__(
        self, plan: Plan, real_counts: Mapping[str, int], known_reals: Mapping[tuple[str, int], Collected] | None = None
    ) -> None:
        """`real_counts`: reals per metric; `known_reals`: features computed before, by (array, count)."""
        self.plan, self.real_counts = plan, real_counts
        needs_reals = [spec for spec in plan.specs if spec.needs_reals]
        self.known_reals = dict(known_reals or {})
        self.new_reals = {
            key: collected
            for key, collected in _collectors(needs_reals, lambda spec: real_counts[spec.name]).items()
            if key not in self.known_reals
        }
        shared = [spec for spec in plan.specs if spec.kind in SHARING]
        self.fakes = _collectors(shared, lambda spec: spec.num_gen)
        self.own: dict[str, dict[str, Collected]] = {spec.name: {} for spec in plan.specs}
        self._orders: dict[tuple[str, str], InOrder] = {}

    def add(self, task: Task, result: Result) -> None:
        """Adds a block; in any order, each once."""
        adders = {"real": self._add_reals, "fake": self._add_fakes}
        order = InOrder(adders.get(task.kind, partial(self._add_own, task.of)))
        self._orders.setdefault((task.kind, task.of), order).add(task.block, result)

    def missing_reals(self) -> dict[str, int]:
        """Number of reals that each detector has yet to see."""
        most: dict[str, int] = {}
        for array, count in self.new_reals:
            detector = array.partition("/")[2]
            most[detector] = max(most.get(detector, 0), count)
        return most

    def values(self) -> list[Value]:
        """The values, once every block has been added."""
        generated = [*self.fakes.values(), *(c for arrays in self.own.values() for c in arrays.values())]
        assert all(c.num == c.count for c in generated) and not any(o.is_waiting() for o in self._orders.values())
        compute = {
            "fid": self._fid, "kid": self._kid, "mind": self._mind, "is": self._is, "pr": self._pr, "ppl": self._ppl,
            "ls": self._ls,
        }  # fmt: skip
        return [value for spec in self.plan.specs for value in compute[spec.kind](spec)]

    def _add_reals(self, result: Result) -> None:
        for (array, _), collected in self.new_reals.items():
            if array in result:
                collected.add(result[array])

    def _add_fakes(self, result: Result) -> None:
        for (array, _), collected in self.fakes.items():
            collected.add(result[array])

    def _add_own(self, metric: str, result: Result) -> None:
        for name, array in result.items():
            count = next(spec.num_gen for spec in self.plan.specs if spec.name == metric)
            self.own[metric].setdefault(name, Collected(count, keeps_rows=True, makes_stats=False)).add(array)

    def _real(self, spec: MetricSpec) -> Collected:
        key = (_array_of(spec), self.real_counts[spec.name])
        return self.known_reals.get(key) or self.new_reals[key]

    def _fake(self, spec: MetricSpec) -> Collected:
        return self.fakes[_array_of(spec), spec.num_gen]

    def _sides(self, spec: MetricSpec, value: float, suffix: str = "") -> Value:
        real, fake = self._real(spec), self._fake(spec)
        return Value(spec.name + suffix, spec, value, num_gen=fake.num, num_real=real.num)

    def _fid(self, spec: MetricSpec) -> list[Value]:
        real, fake = self._real(spec).stats, self._fake(spec).stats
        assert real is not None and fake is not None
        return [self._sides(spec, frechet_distance(real, fake, self.plan.dialect))]

    def _kid(self, spec: MetricSpec) -> list[Value]:
        real, fake = self._real(spec).rows(), self._fake(spec).rows()
        return [self._sides(spec, kernel_distance(real, fake, spec.num_subsets, spec.subset_size, self.plan.seed))]

    def _mind(self, spec: MetricSpec) -> list[Value]:
        real, fake = self._real(spec).rows(), self._fake(spec).rows()
        return [self._sides(spec, monge_distance(real, fake, spec.num_directions, self.plan.seed))]

    def _pr(self, spec: MetricSpec) -> list[Value]:
        real, fake = self._real(spec).rows(), self._fake(spec).rows()
        values = precision_recall(real, fake, spec.nhood_size, self.plan.dialect)
        return [self._sides(spec, v, suffix) for v, suffix in zip(values, VALUES["pr"], strict=True)]

    def _is(self, spec: MetricSpec) -> list[Value]:
        fake = self._fake(spec)
        mean, deviation = inception_score(fake.rows(), min(spec.num_splits, fake.num))
        return [Value(spec.name, spec, mean, num_gen=fake.num, spread=deviation)]

    def _ppl(self, spec: MetricSpec) -> list[Value]:
        distances = self.own[spec.name]["distances"]
        return [Value(spec.name, spec, perceptual_path_length(distances.rows()), num_gen=distances.num)]

    def _ls(self, spec: MetricSpec) -> list[Value]:
        arrays = {name: collected.rows() for name, collected in self.own[spec.name].items()}
        return [
            Value(
                name,
                spec,
                linear_separability(arrays[space], arrays["logits"], spec.keep),
                len(arrays[space]),
            )
            for name, space in zip(spec.values, "zw", strict=True)
        ]


def _array_of(spec: MetricSpec) -> str:
    """The array of a block that a metric uses."""
    return f"{'logits' if spec.kind == 'is' else 'features'}/{spec.detector}"


def _collectors(specs: Sequence[MetricSpec], count: Callable[[MetricSpec], int]) -> dict[tuple[str, int], Collected]:
    """A collector for each (array, count), shared by all metrics that use it."""
    keys = dict.fromkeys((_array_of(spec), count(spec)) for spec in specs)
    users = {key: [spec for spec in specs if (_array_of(spec), count(spec)) == key] for key in keys}
    return {
        key: Collected(key[1], any(s.needs_features for s in some), any(s.kind == "fid" for s in some))
        for key, some in users.items()
    }
