"""Settings of property tests, and random configurations: a value of every key's type and range."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from stylegan_ray.config import ConfigError, RunConfig, known_keys, load_config

EXAMPLES = int(os.environ.get("STYLEGAN_RAY_EXAMPLES", "0"))
"""Examples of each property; 0: few, and always the same ones. STYLEGAN_RAY_EXAMPLES=2000 pytest tests/properties"""


def examples(few: int) -> settings:
    """Settings of a property test that has so many examples by default."""
    return settings(
        max_examples=EXAMPLES or few, derandomize=not EXAMPLES, deadline=None, database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
"""Any text that can be encoded."""
MOST = 1 << 40


def values(annotation: Any, limits: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """Values of a type of a key: what pydantic accepts for it."""
    limits, origin, args = limits or {}, get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = [limits_of(extra) for extra in args[1:]]
        return values(args[0], limits | {name: value for part in found for name, value in part.items()})
    if origin in (Union, UnionType):
        return st.one_of([values(arg, limits) for arg in args])
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return st.lists(values(args[0]), max_size=3).map(tuple)
        return st.tuples(*map(values, args))
    if origin is dict:
        return st.dictionaries(st.integers(1, 4096), values(args[1]), max_size=3)
    if annotation is NoneType:
        return st.none()
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        least = limits.get("ge", limits.get("gt", -MOST - 1) + 1)
        return st.integers(least, limits.get("le", MOST))
    if annotation is float:
        bounds = {"min_value": limits.get("ge", limits.get("gt")), "max_value": limits.get("le", limits.get("lt"))}
        bounds |= {"exclude_min": "gt" in limits, "exclude_max": "lt" in limits}
        return st.floats(**bounds, allow_nan=False, allow_infinity=False)
    assert annotation is str, annotation
    return st.from_regex(limits["pattern"], fullmatch=True) if "pattern" in limits else TEXT


def limits_of(extra: Any) -> dict[str, Any]:
    """The limits in the metadata of a type, such as Gt(gt=0), or in a field of pydantic."""
    if isinstance(extra, FieldInfo):
        return {name: value for part in extra.metadata for name, value in limits_of(part).items()}
    names = ("ge", "gt", "le", "lt", "pattern")
    return {name: value for name in names if (value := getattr(extra, name, None)) is not None}


@cache
def values_of_key(key: str) -> st.SearchStrategy[Any]:
    """Values of a key such as schedule.G_lrate."""
    section, name = key.split(".")
    field = RunConfig.model_fields[section].annotation.model_fields[name]
    return values(field.annotation, limits_of(field))


KEYS = tuple(key for key in known_keys() if key != "run.preset")


@st.composite
def overrides(draw: st.DrawFn, most: int = 8) -> dict[str, Any]:
    """Keys with values, which need not go together."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=most))
    return {key: draw(values_of_key(key)) for key in keys}


@st.composite
def configs(draw: st.DrawFn, preset: str = "config-f", most: int = 8) -> tuple[RunConfig, dict[str, Any]]:
    """A configuration and what is overridden in it; a key that does not go with those before it is left out."""
    cfg, chosen = load_config(preset), draw(overrides(most))
    try:
        return cfg.with_overrides(chosen), chosen
    except ConfigError:
        pass
    kept: dict[str, Any] = {}
    for key, value in chosen.items():
        with suppress(ConfigError):
            cfg = cfg.with_overrides({key: value})
            kept[key] = value
    return cfg, kept
