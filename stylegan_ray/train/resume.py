"""Starting a new run from the networks of another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.generate.source import load
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.train.state import TrainState


def start_from(state: TrainState, cfg: RunConfig, source: str) -> list[str]:
    """Takes the networks of a run folder, checkpoint or network file; returns what was copied and what was not.

    The clock starts at train.resume_kimg (null: where the other run stood, as far as its file says).
    """
    found = load(source)
    networks = found.parts()
    lines = []
    for part in ("G", "D", "G_ema"):
        lines += copy_matching(getattr(state, part), networks[part], part, cfg.train.resume_with_new_nets)
    kimg = cfg.train.resume_kimg
    state.cur_nimg = found.cur_nimg if kimg is None else round(kimg * 1000)
    state.tick_start_nimg = state.cur_nimg
    state.elapsed_sec = cfg.train.resume_time or 0.0
    return lines


def check_start(cfg: RunConfig, resolution: int | Sequence[int], channels: int, label_size: int, source: str) -> None:
    """Raises ConfigError when a run of these networks cannot start from those of `source`; copies nothing."""
    networks = load(source).parts()
    with torch.device("meta"):
        G = build_generator(cfg.model, resolution, channels, label_size)
        D = build_discriminator(cfg.model, resolution, channels, label_size)
    for part, ours in (("G", G), ("D", D), ("G_ema", G)):
        matching_names(ours, networks[part], part, cfg.train.resume_with_new_nets)


def copy_matching(target: nn.Module, source: nn.Module, part: str, partly: bool) -> list[str]:
    """Copies tensors of equal name and shape; returns what was copied and what was not, in words."""
    matching, unlike = matching_names(target, source, part, partly)
    theirs, ours = source.state_dict(), target.state_dict()
    target.load_state_dict({name: theirs[name].to(ours[name]) for name in matching}, strict=False)
    return [f"{part}: copied {len(matching)} of {len(ours)} tensors{', but not' if unlike else ''}", *unlike]


def matching_names(target: nn.Module, source: nn.Module, part: str, partly: bool) -> tuple[list[str], list[str]]:
    """Tensors of equal name and shape, and the others in words; unless `partly`, others raise ConfigError."""
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
            f"the networks to start from differ from those of this configuration in {len(unlike)} tensors of {part}:\n"
            f"{shown}\nuse the same model keys and data shape, or train.resume_with_new_nets=true to copy what matches"
        )
    return [name for name in ours if ours[name] == theirs.get(name)], unlike


MOST_SHOWN = 8
"""Differences that an error shows."""
