"""Names of metrics: fid50k, kid50k_full, pr50k3, ppl_wend, ... with any count; `_tiny` for the shipped detector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast

from stylegan_ray.config import ConfigError, nearest
from stylegan_ray.metrics.path_length import PathSettings

Kind = Literal["fid", "kid", "mind", "is", "pr", "ppl", "ls"]

EXAMPLES = (
    "fid50k", "fid50k_full", "kid50k", "kid50k_full", "is50k", "pr50k3", "pr50k3_full",
    "ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend", "ppl2_wend", "ls",
    "fid5k_tiny", "fid5k_full_tiny", "kid5k_tiny", "is5k_tiny", "pr5k3_tiny", "ppl_wend_tiny", "fid50k_dinov2",
    "mind5k", "mind5k_tiny", "fid5k_efflite0", "kid5k_efflite0", "mind5k_efflite0", "pr5k3_efflite0",
)  # fmt: skip
"""Names listed when a name is unknown; any count is possible, e.g. fid500 or fid2.5k."""

DETECTORS = {
    "fid": "inception", "kid": "inception", "mind": "inception", "is": "inception", "pr": "vgg16", "ppl": "lpips",
    "ls": "celeba",
}  # fmt: skip
"""Detector of each kind, as in the original, which has no mind."""

HIGHER_IS_BETTER = ("is", "pr")
"""Kinds of metrics whose larger values are better; of all others smaller ones are."""

SUFFIXES = {"tiny": "tiny", "dinov2": "dinov2", "efflite0": "efflite0"}
"""Detectors by suffix."""

MOST_CURVES = 24
"""Metrics whose curves a plot or a page shows: drawing one takes most of a second."""

_DIGITS = "[0-9]{1,9}"
_NUMBER = rf"{_DIGITS}(\.{_DIGITS})?"
_SETS = re.compile(rf"(?P<kind>fid|kid|mind)(?P<count>{_NUMBER}k?)(?P<full>_full)?(_(?P<suffix>tiny|dinov2|efflite0))?")
_IS = re.compile(rf"is(?P<count>{_NUMBER}k?)(_(?P<suffix>tiny))?")
_PR = re.compile(
    rf"pr(?P<count>{_NUMBER}k|{_DIGITS})(_?(?P<nhood>(?<=[k_]){_DIGITS}))?(?P<full>_full)?(_(?P<suffix>tiny|dinov2|efflite0))?"
)
_PPL = re.compile(
    rf"ppl(?P<version>2?)(?P<count>{_NUMBER}k)?_(?P<space>[zw])(?P<sampling>full|end)(_(?P<suffix>tiny))?"
)
_LS = re.compile(rf"ls(?P<count>{_NUMBER}k?)?")


@dataclass(frozen=True)
class MetricSpec:
    """A parsed metric name."""

    name: str
    kind: Kind
    detector: str
    """Name of the detector."""
    num_gen: int
    """Generated images; for path lengths, steps."""
    num_real: int | None = None
    """Reals, at most; None: all."""
    needs_reals: bool = True
    nhood_size: int = 3
    """pr: the radius of a ball is the distance to this neighbor."""
    num_splits: int = 10
    """is: number of splits."""
    num_subsets: int = 100
    """kid: number of subsets."""
    subset_size: int = 1000
    """kid: images per subset, at most."""
    num_directions: int = 1000
    """mind: directions on which features are projected."""
    path: PathSettings | None = None
    """ppl: kind of path."""
    keep: float = 0.5
    """ls: share of images, those with the most certain classifications."""

    @property
    def needs_features(self) -> bool:
        """Whether the metric needs features of single images, not only their mean and covariance."""
        return self.kind in ("kid", "mind", "pr", "is")

    @property
    def values(self) -> tuple[str, ...]:
        """The names of its values in rows."""
        return tuple(self.name + value for value in VALUES.get(self.kind, ("",)))


VALUES = {"pr": ("_precision", "_recall"), "ls": ("_z", "_w")}
"""What rows of metrics with two values add to their names."""


def split_value(name: str) -> tuple[str, str]:
    """The metric of a name as rows have it, and what the value adds: pr5k3_recall is pr5k3 and _recall."""
    value = next((value for values in VALUES.values() for value in values if name.endswith(value)), "")
    return name.removesuffix(value), value


def name_in_rows(name: str, num_images: int | None) -> str:
    """A name as rows have it, where `metrics.num_images` may replace the number of images."""
    metric, value = split_value(name)
    return (with_num_images(metric, num_images) if num_images else metric) + value


def parse_metric(name: str) -> MetricSpec:
    """The metric of a name; raises ConfigError with the nearest name for an unknown one."""
    for pattern, make in (
        (_SETS, _set_distance),
        (_IS, _inception_score),
        (_PR, _precision_recall),
        (_PPL, _path_length),
        (_LS, _separability),
    ):
        match = pattern.fullmatch(name)
        if match:
            spec = make(name, match.groupdict())
            least = spec.nhood_size + 1 if spec.kind == "pr" else 2  # every image needs that many neighbors
            if spec.num_gen < least:
                raise ConfigError(f"metric {name!r} asks for {spec.num_gen} images; at least {least} are needed")
            return spec
    hint = nearest(name, EXAMPLES)
    raise ConfigError(f"unknown metric {name!r}{hint} Metrics: {', '.join(EXAMPLES)} (with any count)")


def specs_of(names: Sequence[str], num_images: int | None) -> list[MetricSpec]:
    """The metrics of a run: those of metrics.names, with metrics.num_images images where it is set."""
    return parse_metrics([with_num_images(name, num_images) if num_images else name for name in names])


def parse_metrics(names: tuple[str, ...] | list[str]) -> list[MetricSpec]:
    """The metrics of several names, each once."""
    return [parse_metric(name) for name in dict.fromkeys(names)]


def is_higher_better(metric: str) -> bool:
    """Whether larger values of a metric (its name as in rows) are better."""
    return metric.startswith(HIGHER_IS_BETTER)


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether a value of a metric (its name as in rows) is better than another one."""
    return value > than if is_higher_better(metric) else value < than


def is_new_best(metric: str, value: float, before: Iterable[float]) -> bool:
    """Whether a value of a metric is better than all before it."""
    return all(is_better(metric, value, than) for than in before)


def best_index(metric: str, values: Sequence[float]) -> int:
    """The place of the first value that none is better than."""
    best = 0
    for index, value in enumerate(values):
        if is_better(metric, value, values[best]):
            best = index
    return best


def with_num_images(name: str, num_images: int) -> str:
    """The name of the same metric with another count: fid50k with 500 is fid500 (`metrics.num_images`)."""
    kind = parse_metric(name).kind
    match = next(match for pattern in (_SETS, _IS, _PR, _PPL, _LS) if (match := pattern.fullmatch(name)))
    # Before a neighborhood size or an underscore only the form with k is unambiguous.
    plain = num_images % 1000 and kind not in ("pr", "ppl")
    count = str(num_images) if plain else f"{Decimal(num_images) / 1000:f}k"
    begin, end = match.span("count")
    if begin < 0:
        begin = end = match.end("version") if kind == "ppl" else len("ls")
    return name[:begin] + count + name[end:]


def _count(text: str) -> int:
    return round(float(text[:-1]) * 1000) if text.endswith("k") else round(float(text))


def _detector(kind: str, suffix: str | None) -> str:
    return SUFFIXES[suffix] if suffix else DETECTORS[kind]


def _set_distance(name: str, parts: dict[str, str | None]) -> MetricSpec:
    kind, count = cast("Kind", parts["kind"]), _count(parts["count"] or "")
    if kind == "mind" and parts["full"]:
        raise ConfigError(
            f"metric {name!r}: both sides are cut to the same number of images; use {name.replace('_full', '')!r}"
        )
    return MetricSpec(name, kind, _detector(kind, parts["suffix"]), count, None if parts["full"] else count)


def _inception_score(name: str, parts: dict[str, str | None]) -> MetricSpec:
    detector = _detector("is", parts["suffix"])
    return MetricSpec(name, "is", detector, _count(parts["count"] or ""), num_real=0, needs_reals=False)


def _precision_recall(name: str, parts: dict[str, str | None]) -> MetricSpec:
    count, nhood = _count(parts["count"] or ""), int(parts["nhood"] or 3)
    detector = _detector("pr", parts["suffix"])
    return MetricSpec(name, "pr", detector, count, None if parts["full"] else count, nhood_size=nhood)


def _path_length(name: str, parts: dict[str, str | None]) -> MetricSpec:
    path = PathSettings(
        space="z" if parts["space"] == "z" else "w",
        sampling="full" if parts["sampling"] == "full" else "end",
        crop=not parts["version"],  # ppl2 differs from ppl by not cropping to the face
    )
    detector = _detector("ppl", parts["suffix"])
    return MetricSpec(name, "ppl", detector, _count(parts["count"] or "50k"), 0, needs_reals=False, path=path)


def _separability(name: str, parts: dict[str, str | None]) -> MetricSpec:
    return MetricSpec(name, "ls", DETECTORS["ls"], _count(parts["count"] or "200k"), 0, needs_reals=False)
