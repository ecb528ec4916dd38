"""An end before train.total_kimg: a metric that does not improve any more (train.stop_when)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stylegan_ray.config import ConfigError, RunConfig, nearest
from stylegan_ray.metrics.names import is_better, name_in_rows
from stylegan_ray.train.metrics import metric_specs, ticks_between


def rule_of(cfg: RunConfig) -> tuple[str, int]:
    """The metric, as its rows name it, and how many values without improvement end the run."""
    assert cfg.train.stop_when is not None
    name, _, patience = cfg.train.stop_when.rpartition(":")
    return name_in_rows(name, cfg.metrics.num_images), int(patience)


def check_stop_when(cfg: RunConfig) -> None:
    """Raises ConfigError where train.stop_when names a metric that the run does not compute, or not before its end."""
    if cfg.train.stop_when is None:
        return
    names = [name for spec in metric_specs(cfg) for name in spec.values]
    name, _ = rule_of(cfg)
    if name not in names:
        have = f"metrics.names has {', '.join(names)}" if names else "metrics.names is empty"
        raise ConfigError(
            f"train.stop_when={cfg.train.stop_when!r}: the run does not compute {name}{nearest(name, names)}; {have}"
        )
    if ticks_between(cfg) is None:
        raise ConfigError(
            f"train.stop_when={cfg.train.stop_when!r} needs metrics between the start and the end, and there are none "
            f"with metrics.ticks=null and train.network_snapshot_ticks=null; give --metrics.ticks"
        )


def why_to_stop(cfg: RunConfig, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a run with these rows of metrics.jsonl ends, in a sentence; None where it goes on.

    A function of the values alone, so a run that continues ends where the undisturbed one does.
    """
    if cfg.train.stop_when is None:
        return None
    name, patience = rule_of(cfg)
    found = [row for row in rows if row.get("metric") == name and row.get("value") is not None]
    best = 0
    for index, row in enumerate(found):
        if is_better(name, row["value"], found[best]["value"]):
            best = index
        if index - best == patience:
            return (
                f"train.stop_when={cfg.train.stop_when}: {name} has not been better than {found[best]['value']:.4g} at "
                f"{found[best]['kimg']:g} kimg in {patience} value{'s' if patience > 1 else ''} since"
            )
    return None
