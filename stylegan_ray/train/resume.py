"""How a run continues: from its newest checkpoint, from the one before it diverged, or from another run's networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from stylegan_ray import distributed
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.interop.loading import load
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.storage import Storage, retry
from stylegan_ray.train.checkpoint import Snapshot, newest_checkpoint, read_checkpoint
from stylegan_ray.train.state import TrainState

Say = Callable[[str], None]


def go_to_newest(
    state: TrainState, checkpoints: Storage, say: Say, usable: Callable[[Snapshot], bool] = lambda _: True
) -> str | None:
    """Restores the newest checkpoint that rank 0 finds, on every rank; returns its name, or None without one."""
    newest = retry(lambda: newest_checkpoint(checkpoints, usable), say) if distributed.rank() == 0 else None
    name = distributed.from_rank0(newest.name if newest else None)
    if name is not None:
        snapshot = newest or retry(lambda: read_checkpoint(checkpoints.folder(name)), say)
        snapshot.restore(state)
    return name


class Rollback:
    """Returns a run that has diverged to its last checkpoint, to continue with other random numbers.

    With the same ones it would compute the same gradients again.
    """

    def __init__(self, state: TrainState, cfg: RunConfig, checkpoints: Storage) -> None:
        self.state, self.cfg, self.checkpoints = state, cfg, checkpoints
        self.begin = Snapshot.of(state, cfg) if cfg.train.on_nonfinite == "rollback" else None
        """The start of the attempt, for a run without checkpoints."""

    def go_back(self, trouble: FloatingPointError, say: Say) -> str:
        """Restores the state on every rank and raises stream_salt; returns a log line. Over the budget it raises."""
        state, budget = self.state, self.cfg.train.nonfinite_budget
        salt, num = state.stream_salt + 1, state.num_nonfinite + 1
        if num > budget:
            raise FloatingPointError(
                f"{trouble}, after {budget} rollbacks (train.nonfinite_budget={budget}); lower the learning rates"
            ) from None
        name = go_to_newest(state, self.checkpoints, say, Snapshot.is_finite)
        if name is None:
            assert self.begin is not None
            self.begin.restore(state)
        state.stream_salt, state.num_nonfinite = salt, num
        return (
            f"fault: {trouble}; continues from {name or 'the start'} at {state.cur_nimg / 1000:g} kimg with other "
            f"random numbers (rollback {num} of {budget})"
        )


def start_from(state: TrainState, cfg: RunConfig, source: str) -> list[str]:
    """Copies the networks of a run folder, checkpoint or network file; returns lines on what was copied and what not.

    cur_nimg starts at train.resume_kimg; null: at that of the source, 0 where it has none.
    """
    found = load(source)
    networks = found.parts()
    lines = []
    for part in ("G", "D", "G_ema"):
        lines += copy_matching(getattr(state, part), networks[part], part, cfg.train.resume_with_new_nets)
    kimg = cfg.train.resume_kimg
    state.cur_nimg = found.cur_nimg if kimg is None else round(kimg * 1000)
    state.tick_start_nimg = state.augment_nimg = state.cur_nimg
    state.elapsed_sec = cfg.train.resume_time or 0.0
    return lines


def check_start(cfg: RunConfig, resolution: int | Sequence[int], channels: int, label_size: int, source: str) -> None:
    """Raises ConfigError when a run cannot start from the networks of `source`; copies nothing."""
    networks = load(source).parts()
    with torch.device("meta"):
        G = build_generator(cfg.model, resolution, channels, label_size)
        D = build_discriminator(cfg.model, resolution, channels, label_size)
    for part, ours in (("G", G), ("D", D), ("G_ema", G)):
        matching_names(ours, networks[part], part, cfg.train.resume_with_new_nets)


def copy_matching(target: nn.Module, source: nn.Module, part: str, partly: bool) -> list[str]:
    """Copies tensors of equal name and shape; returns lines on what was copied and what not."""
    matching, unlike = matching_names(target, source, part, partly)
    theirs, ours = source.state_dict(), target.state_dict()
    target.load_state_dict({name: theirs[name].to(ours[name]) for name in matching}, strict=False)
    return [f"{part}: copied {len(matching)} of {len(ours)} tensors{', but not' if unlike else ''}", *unlike]


def matching_names(target: nn.Module, source: nn.Module, part: str, partly: bool) -> tuple[list[str], list[str]]:
    """Names of tensors of equal name and shape, and lines on the others; those raise ConfigError unless `partly`."""
    ours, theirs = ({k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (target, source))
    unlike = [
        f"  {part}.{name}: {ours.get(name, 'absent')} here, {theirs.get(name, 'absent')} there"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
    if unlike and not partly:
        more = [f"  and {len(unlike) - MOST_SHOWN} more"] if len(unlike) > MOST_SHOWN else []
        shown = "\n".join([*unlike[:MOST_SHOWN], *more])
        raise ConfigError(
            f"the networks of the source differ from those of this configuration in {len(unlike)} tensors of {part}:\n"
            f"{shown}\nuse the same model keys and data shape, or train.resume_with_new_nets=true to copy what matches"
        )
    return [name for name in ours if ours[name] == theirs.get(name)], unlike


MOST_SHOWN = 8
"""Differences that an error shows at most."""
