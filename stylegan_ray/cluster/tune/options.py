"""Options of the tune command: what to search, how, and the configuration that all trials share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import tyro

from stylegan_ray.cluster.tune.space import Space
from stylegan_ray.config import ConfigError, RunConfig, is_yaml
from stylegan_ray.metrics.names import is_higher_better, name_in_rows, parse_metric, split_value
from stylegan_ray.options import check_least, train_options

DEFAULT_SAMPLES = 16


@dataclass(frozen=True)
class SweepOptions:
    """Searches learning rates, regularization intervals, gamma or other keys: tune [SPACE.yaml] [PRESET] [DATA] ....

    Takes every --section.key of the train command for what all trials share; --run.name is the sweep's folder. The same
    command again continues.
    """

    samples: int | None = None
    """Number of trials; null: the whole grid, and at least 16 where a value is random."""
    scheduler: Literal["asha", "pbt", "fifo"] = "asha"
    """Stop the worse trials early, let them copy better ones' states and change their values, or run all to the end."""
    search: Literal["random", "optuna"] = "random"
    """Random values and grids, or Optuna, which learns from earlier trials (extra [tune])."""
    objective: str = "fid500_tiny"
    """What to optimize: a metric as rows name it (pr5k3_tiny_recall), or any scalar of a tick (Loss/scores/real)."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether to minimize or maximize it; auto: the metric's direction, min for scalars."""
    every: int = 1
    """Ticks between two values of the objective, where it is a metric, and between image grids."""
    concurrent: int | None = None
    """Trials at once; null: as many as fit."""
    grace_kimg: float | None = None
    """asha: no trial is stopped before this kimg; null: train.total_kimg / reduction^2."""
    reduction: float = 3.0
    """asha: one in this many continues from each rung."""
    perturb_kimg: float | None = None
    """pbt: kimg between two comparisons with the population; null: train.total_kimg / 4."""


@dataclass(frozen=True)
class Plan:
    """A sweep as the command line describes it; nothing is opened yet."""

    options: SweepOptions
    given: RunConfig
    """The configuration as given."""
    cfg: RunConfig
    """The same with the keys that comparing trials needs."""
    space: Space
    num_samples: int = field(default=DEFAULT_SAMPLES)

    @property
    def metric(self) -> str | None:
        """The objective, where it is a metric."""
        return None if "/" in self.options.objective else self.options.objective

    @property
    def objective(self) -> str:
        """The key that trials report."""
        if self.metric is None:
            return self.options.objective
        return f"Metrics/{name_in_rows(self.metric, self.cfg.metrics.num_images)}"

    @property
    def higher_is_better(self) -> bool:
        """Whether the objective is maximized."""
        if self.options.mode != "auto":
            return self.options.mode == "max"
        return self.metric is not None and is_higher_better(self.metric)


def sweep_options(argv: Sequence[str], prog: str = "tune") -> Plan:
    """Parses the command line; raises ConfigError, or exits with help or a usage error."""
    options, words = tyro.cli(SweepOptions, args=list(argv), prog=prog, return_unknown_args=True, use_underscores=False)
    path = words.pop(0) if words and is_yaml(words[0]) else None
    given = train_options(words, prog)
    if given.resume_from or given.dry_run:
        raise ConfigError("a sweep takes neither --resume-from nor --dry-run; leave them out")
    check_least(options, samples=1, every=1, concurrent=1, grace_kimg=1e-6, reduction=1.01, perturb_kimg=1e-6)
    base = with_objective(given.cfg, options)
    space = Space.read(path, base)
    num_samples = options.samples or (space.grid_size if space.is_grid else max(DEFAULT_SAMPLES, space.grid_size))
    space.check(base, base.run.seed, num_samples if options.search == "random" else 0)
    if options.scheduler == "pbt":
        space.check_movable()
    return Plan(options, given.cfg, base, space, num_samples)


def with_objective(cfg: RunConfig, options: SweepOptions) -> RunConfig:
    """The configuration of the trials: computes the objective, and image grids, as often as the options say."""
    changes = {
        "train.image_snapshot_ticks": options.every,
        "train.network_snapshot_ticks": None,
        "train.checkpoint_ticks": 1,
        "cluster.keep_checkpoints": min(cfg.cluster.keep_checkpoints, 2),
    }
    if "/" not in options.objective:
        name, value = split_value(options.objective)
        values = parse_metric(name).values
        if name + value not in values:
            raise ConfigError(
                f"--objective {options.objective}: rows of {name} are named {' and '.join(values)}; use one"
            )
        changes |= {
            "metrics.names": list(dict.fromkeys([*cfg.metrics.names, name])),
            "metrics.ticks": options.every,
            "metrics.placement": "inline",
        }
    return cfg.with_overrides(changes)
