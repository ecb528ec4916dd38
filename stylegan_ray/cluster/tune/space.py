"""Search spaces: dotted keys with ranges or lists from a YAML file; sampling, perturbing and checking them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stylegan_ray.config import ConfigError, RunConfig, known_keys, nearest, unknown_key
from stylegan_ray.jsonl import is_number
from stylegan_ray.rng import stream, stream_key
from stylegan_ray.storage import one_line
from stylegan_ray.train.checks import why_idle
from stylegan_ray.untrusted import CONFIG_BYTES, printable, read_file, reading, short_repr
from stylegan_ray.untrusted_text import parse_yaml

Values = dict[str, Any]
RANGES, LISTS = ("uniform", "loguniform"), ("choice", "grid")
DEFAULT_SPACE = """\
schedule.G_lrate: {loguniform: [0.0005, 0.02]}
schedule.D_lrate: {loguniform: [0.0005, 0.02]}
train.G_reg_interval: {choice: [1, 2, 4, 8, 16]}
train.D_reg_interval: {choice: [4, 8, 16, 32]}
loss.r1_gamma: {loguniform: [0.1, 100]}
"""
"""Learning rates, lazy intervals and gamma: what users of StyleGAN tune first."""
REFUSED = {
    "run.": "the sweep names and stores its trials itself; only run.seed can be searched",
    "cluster.": "every trial gets the same resources",
    "metrics.": "trials are compared by one metric, computed in one way",
    "train.total_kimg": "the scheduler counts time in it; give it on the command line",
}
OWN_DATA = ("subset", "mirror_augment", "shuffle", "balance")
"""Keys of `data` that choose among the images of a data set; the others decide which one all trials share."""
MOVABLE = (
    "loss.",
    "schedule.G_lrate",
    "schedule.D_lrate",
    "train.G_reg_interval",
    "train.D_reg_interval",
    "augment.pipe",
    "augment.target",
    "augment.ada_kimg",
    "augment.policy",
)
"""Keys that may change while a TrainState continues: not the networks, the data order or the minibatch."""
MOST_CORNERS = 1024
RESAMPLE, UP, DOWN = 0.25, 1.2, 0.8
"""Probability that population based training samples a parameter again, and the factors of a perturbation."""


@dataclass(frozen=True)
class Parameter:
    """One key to search."""

    key: str
    kind: str
    values: tuple[Any, ...]
    """Lowest and highest value of a range; the members of a list."""
    is_whole: bool = False
    condition: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Active only where each of these keys has one of these values."""

    @property
    def is_range(self) -> bool:
        return self.kind in RANGES

    @property
    def is_ordered(self) -> bool:
        """Whether its values are numbers, so that they have an order."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Whether its condition holds, given the values of the keys before it."""
        return all(values.get(key, _ABSENT) in allowed for key, allowed in self.condition.items())

    def sample(self, rng: np.random.Generator) -> Any:
        """A random value."""
        if not self.is_range:
            return self.values[int(rng.integers(len(self.values)))]
        (low, high), fraction = self.values, float(rng.random())
        if self.kind == "loguniform":
            return self.clip(low * (high / low) ** fraction)
        return self.clip(low + (high - low) * fraction)

    def fraction(self, value: Any) -> float:
        """The position of a value in [0, 1] between lowest and highest; members of a list have equal distances."""
        if not self.is_range:
            ordered = sorted(self.values) if self.is_ordered else list(self.values)
            return ordered.index(value) / max(len(ordered) - 1, 1)
        low, high = self.values
        if self.kind == "loguniform":
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def clip(self, value: float) -> int | float:
        """The value rounded to four digits, or to a whole number, and clipped to the range."""
        low, high = self.values
        rounded = round(value) if self.is_whole else float(f"{value:.4g}")
        return min(max(rounded, low), high)

    def perturb(self, value: Any, rng: np.random.Generator) -> Any:
        """A neighbor of a value, or with probability RESAMPLE any value (Jaderberg et al. 2017, explore)."""
        resample, up = rng.random() < RESAMPLE, rng.random() < 0.5
        if resample:
            return self.sample(rng)
        if self.is_range:
            near = self.clip(value * (UP if up else DOWN))
            step = (1 if up else -1) if self.is_whole and near == value else 0
            return self.clip(near + step)
        ordered = sorted(self.values) if self.is_ordered else list(self.values)
        return ordered[min(max(ordered.index(value) + (1 if up else -1), 0), len(ordered) - 1)]


_ABSENT = object()


@dataclass(frozen=True)
class Space:
    """The parameters, each after those that its condition names, and the values that all trials share."""

    parameters: tuple[Parameter, ...]
    fixed: Values
    where: str = "the space"
    """The file that it is from."""

    @classmethod
    def read(cls, path: str | None, base: RunConfig) -> Space:
        """The space of a YAML file, or the default one, without what has no effect; raises ConfigError."""
        if path is None:
            space = cls.parse(DEFAULT_SPACE, "the default space", base)
            values = base.flat()
            return replace(space, parameters=tuple(p for p in space.parameters if not why_idle(p.key, values)))
        try:
            content = read_file(path, CONFIG_BYTES)
        except (OSError, ValueError) as error:
            raise ConfigError(f"space file {printable(path, 500)} cannot be read: {one_line(error)}") from error
        return cls.parse(content, path, base)

    @classmethod
    def parse(cls, text: str | bytes, where: str, base: RunConfig) -> Space:
        """The space of a YAML text; raises ConfigError that names the file, the key and a way out."""
        with reading(where, ConfigError):
            tree = parse_yaml(text, where)
        if not isinstance(tree, dict) or not tree:
            raise ConfigError(f"{where}: a space is a mapping of dotted keys, such as", *DEFAULT_SPACE.splitlines())
        try:
            for key in tree:
                _check_key(key)
            fixed = {key: entry for key, entry in tree.items() if not isinstance(entry, dict)}
            parameters = [_parameter(key, tree[key], base) for key in tree if key not in fixed]
            if not parameters:
                raise ConfigError(
                    "there is nothing to search; write a range or a list, such as", *DEFAULT_SPACE.splitlines()
                )
            return cls(tuple(_dependencies_first(parameters, fixed)), fixed, printable(where, 500))
        except ConfigError as error:
            first, *others = error.args
            raise ConfigError(f"{where}: {first}", *others) from error

    @property
    def keys(self) -> list[str]:
        return [parameter.key for parameter in self.parameters]

    @property
    def grid_size(self) -> int:
        """The number of points of the grid: 1 where there is none."""
        return math.prod(len(parameter.values) for parameter in self.parameters if parameter.kind == "grid")

    @property
    def is_grid(self) -> bool:
        """Whether no value is random: every parameter is a grid, or the choice of a single value."""
        return all(parameter.kind == "grid" or len(parameter.values) == 1 for parameter in self.parameters)

    def sample(self, seed: int, number: int) -> Values:
        """The values of a trial: a function of seed and number, independent of all other trials.

        Grid parameters take all their combinations in turn; trials after the last one begin again.
        """
        values, left = dict(self.fixed), number % max(self.grid_size, 1)
        for parameter in self.parameters:
            index = 0
            if parameter.kind == "grid":
                left, index = divmod(left, len(parameter.values))
            if not parameter.is_active(values):
                continue
            rng = stream(stream_key(seed, 0, f"sweep/{parameter.key}"), number)
            values[parameter.key] = parameter.values[index] if parameter.kind == "grid" else parameter.sample(rng)
        return values

    def perturb(self, values: Mapping[str, Any], seed: int, occasion: int) -> Values:
        """Values near others, for a trial that copies another one's state: a function of seed and occasion."""
        near = dict(self.fixed)
        for parameter in self.parameters:
            if parameter.is_active(near):
                rng = stream(stream_key(seed, 0, f"move/{parameter.key}", occasion), 0)
                given = values.get(parameter.key, _ABSENT)
                near[parameter.key] = parameter.sample(rng) if given is _ABSENT else parameter.perturb(given, rng)
        return near

    def check(self, base: RunConfig, seed: int, num_samples: int) -> None:
        """Raises ConfigError when a corner of the space or one of the first samples is not a valid configuration."""
        samples = (self.sample(seed, number) for number in range(num_samples))
        for values in itertools.chain(self._corners(), samples):
            try:
                base.with_overrides(values)
            except ConfigError as error:
                given = ", ".join(f"{key}={printable(value, 80)}" for key, value in values.items())
                raise ConfigError(f"{self.where} contains an invalid configuration ({given}):", *error.args) from error

    def check_movable(self) -> None:
        """Raises ConfigError for parameters that cannot change in the middle of a run."""
        fixed = [key for key in self.keys if not key.startswith(MOVABLE)]
        if fixed:
            raise ConfigError(
                f"--scheduler pbt changes parameters in the middle of a run, and {', '.join(fixed)} cannot change "
                f"there: a copied state would not fit. It changes {', '.join(MOVABLE)}; for others use --scheduler asha"
            )

    def _corners(self) -> Iterator[Values]:
        """Combinations of lowest and highest values and of list members; if these are many, one parameter at a time."""
        ends = [parameter.values for parameter in self.parameters]
        if math.prod(map(len, ends)) <= MOST_CORNERS:
            choices: Iterator[tuple[Any, ...]] = itertools.product(*ends)
        else:
            first = [end[0] for end in ends]
            choices = ((*first[:i], value, *first[i + 1 :]) for i, end in enumerate(ends) for value in end)
        for choice in choices:
            values = dict(self.fixed)
            for parameter, value in zip(self.parameters, choice, strict=True):
                if parameter.is_active(values):
                    values[parameter.key] = value
            yield values


def _check_key(key: Any) -> None:
    if key not in known_keys():
        raise unknown_key(str(key))
    for refused, why in REFUSED.items():
        if key.startswith(refused) and key != "run.seed":
            raise ConfigError(f"{key} cannot be searched: {why}")
    section, name = key.split(".")
    if section == "data" and name not in OWN_DATA:
        raise ConfigError(f"{key} cannot be searched: trials share one prepared data set; give it on the command line")


def _parameter(key: str, entry: Mapping[str, Any], base: RunConfig) -> Parameter:
    kinds = [kind for kind in (*RANGES, *LISTS) if kind in entry]
    unknown = [word for word in entry if word not in (*RANGES, *LISTS, "if")]
    if unknown or len(kinds) != 1:
        hint = nearest(str(unknown[0]), (*RANGES, *LISTS, "if")) if unknown else ""
        raise ConfigError(
            f"{key}: {dict(entry)} must be one of {{uniform: [LOW, HIGH]}}, {{loguniform: [LOW, HIGH]}}, "
            f"{{choice: [...]}}, {{grid: [...]}}, with an `if` in the same mapping where it is conditional{hint}"
        )
    (kind,) = kinds
    values = entry[kind]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{key}: {kind} takes a list, not {values!r}")
    values = [_number(value) for value in values]
    section, name = key.split(".")
    default = getattr(getattr(base, section), name)
    is_whole = isinstance(default, int) and not isinstance(default, bool)
    if kind in RANGES:
        _check_range(key, kind, values, is_whole)
    return Parameter(key, kind, tuple(values), is_whole, _condition(key, entry.get("if", {})))


def _number(value: Any) -> Any:
    """The value as a number where it is one: YAML reads 1e-3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check_range(key: str, kind: str, values: Sequence[Any], is_whole: bool) -> None:
    numbers = list(filter(is_number, values))
    if len(values) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise ConfigError(f"{key}: {kind} takes [LOW, HIGH], two finite numbers with LOW < HIGH, not {list(values)}")
    if kind == "loguniform" and numbers[0] <= 0:
        raise ConfigError(f"{key}: loguniform needs LOW above 0, not {numbers[0]}; use uniform")
    if is_whole and any(value != int(value) for value in numbers):
        raise ConfigError(f"{key} is a whole number, so the bounds of {kind} must be whole numbers, not {list(values)}")


def _condition(key: str, condition: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(condition, dict):
        raise ConfigError(f"{key}: if takes a mapping such as {{augment.mode: ada}}, not {condition!r}")
    for other in condition:
        if not isinstance(other, str):
            raise ConfigError(f"{key}: if names keys such as augment.mode, not {short_repr(other)}")
    return {other: tuple(value) if isinstance(value, list) else (value,) for other, value in condition.items()}


def _dependencies_first(parameters: Sequence[Parameter], fixed: Mapping[str, Any]) -> Iterator[Parameter]:
    """The parameters, each after those that its condition names."""
    known, waiting = set(fixed), list(parameters)
    names = [*fixed, *(parameter.key for parameter in parameters)]
    for parameter in parameters:
        for other in parameter.condition:
            if other not in names:
                raise ConfigError(
                    f"{parameter.key}: its condition names {printable(other, 80)}, which is not in the space"
                    f"{nearest(other, names)}"
                )
    while waiting:
        ready = [parameter for parameter in waiting if set(parameter.condition) <= known]
        if not ready:
            raise ConfigError(f"the conditions of {', '.join(p.key for p in waiting)} depend on each other; drop one")
        yield ready[0]
        known.add(ready[0].key)
        waiting.remove(ready[0])
