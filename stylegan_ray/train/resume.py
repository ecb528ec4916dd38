"""Starting a new run from the networks of another one."""

from __future__ import annotations

from torch import nn

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.generate.source import load
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


def copy_matching(target: nn.Module, source: nn.Module, part: str, partly: bool) -> list[str]:
    """Copies tensors of equal name and shape; unless `partly`, any other is an error that shows the difference."""
    theirs, ours = source.state_dict(), target.state_dict()
    shapes = {name: tuple(value.shape) for name, value in theirs.items()}
    matching = [name for name, value in ours.items() if shapes.get(name) == tuple(value.shape)]
    unlike = [f"{part}.{name}: {tuple(ours[name].shape)} here, {shapes.get(name, 'absent')} there" for name in ours]
    unlike = [line for name, line in zip(ours, unlike, strict=True) if name not in set(matching)]
    unlike += [f"{part}.{name}: absent here, {shape} there" for name, shape in shapes.items() if name not in ours]
    if unlike and not partly:
        raise ConfigError(
            f"the networks to start from differ from those of this configuration in {len(unlike)} tensors "
            f"({'; '.join(unlike[:5])}); use the same model keys, or "
            f"train.resume_with_new_nets=true to copy what matches"
        )
    target.load_state_dict({name: theirs[name].to(ours[name]) for name in matching}, strict=False)
    return [f"{part}: copied {len(matching)} of {len(ours)} tensors", *unlike]
