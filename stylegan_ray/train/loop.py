"""The training loop: a generator that yields between groups, at ticks, when it is interrupted and at the end."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from stylegan_ray.config import RunConfig
from stylegan_ray.rng import LabelSource, SeededDraws
from stylegan_ray.train.schedule import Group, group_at
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.stats import StopWatch
from stylegan_ray.train.step import MicroBatches, train_iteration


class Diverged(FloatingPointError):  # noqa: N818
    """Gradients are not finite, and train.on_nonfinite=rollback."""


@dataclass(frozen=True)
class Pause:
    """A moment between two groups; the state can be saved."""

    stats: dict[str, Any] | None
    """The row of stats.jsonl of the tick that has just ended, or None."""
    done: bool
    """Whether total_kimg is reached."""

    def ends_tick_of(self, every: int | None) -> bool:
        """Whether a tick ends here at which something is due that happens every so many ticks."""
        return self.stats is not None and is_multiple(self.stats["Progress/tick"], every)


def is_multiple(tick: int, every: int | None) -> bool:
    """Whether something that happens every so many ticks happens at this one; None: it never happens."""
    return every is not None and tick % every == 0


def training_loop(
    state: TrainState,
    cfg: RunConfig,
    minibatches: Iterator[MicroBatches],
    label_source: LabelSource | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    watch: StopWatch | None = None,
) -> Iterator[Pause]:
    """Trains from state.cur_nimg to total_kimg; yields at ticks, when `interrupted` returns true, and at the end.

    `minibatches` begins at state.cur_nimg. `interrupted` is called once per group, with the same result on all
    ranks.
    """
    watch = watch or StopWatch(state.device)
    draws = SeededDraws(cfg.run.seed, state.stream_salt, label_source)
    with TickClock(state, watch) as clock:
        while state.cur_nimg < cfg.train.total_nimg:
            group = group_at(cfg, state.cur_nimg, state.resolution_log2)
            reset_for_new_lod(state, cfg, group.schedule.lod)
            for _ in range(group.repeats):
                with watch("data"):
                    micro_batches = next(minibatches)
                train_iteration(state, cfg, micro_batches, draws, group.schedule, watch)
            check_finite(state, cfg)
            done = state.cur_nimg >= cfg.train.total_nimg
            ended = tick_ended(state, group) or done
            asked = interrupted()
            if ended or asked:
                clock.pause()
                yield Pause(clock.end_tick(group) if ended else None, done)
                clock.resume()


def check_finite(state: TrainState, cfg: RunConfig) -> None:
    """Raises Diverged after a gradient that is not finite, or FloatingPointError after too many skipped steps."""
    train = cfg.train
    if train.on_nonfinite == "rollback" and state.nonfinite.item():
        raise Diverged(f"gradients were not finite in the group that ends at {state.cur_nimg / 1000:g} kimg")
    if train.on_nonfinite == "skip" and state.num_nonfinite > train.nonfinite_budget:
        raise FloatingPointError(
            f"{state.num_nonfinite} steps were skipped because gradients were not finite, more than "
            f"train.nonfinite_budget={train.nonfinite_budget}; lower the learning rates"
        )


def tick_ended(state: TrainState, group: Group) -> bool:
    """Whether a tick ends here; the first one ends with the first group, so that a run soon shows that it works."""
    return state.tick == 0 or state.cur_nimg >= state.tick_start_nimg + round(group.schedule.tick_kimg * 1000)


def reset_for_new_lod(state: TrainState, cfg: RunConfig, lod: float) -> None:
    """Resets Adam when a resolution begins to fade in or has faded in; stores the lod."""
    changed = math.floor(lod) != math.floor(state.prev_lod) or math.ceil(lod) != math.ceil(state.prev_lod)
    if cfg.train.reset_opt_for_new_lod and changed and state.iteration:
        for optimizer in state.optimizers.values():
            optimizer.reset()
    state.prev_lod = lod


class TickClock:
    """Wall time of ticks, and the rows of stats.jsonl."""

    def __init__(self, state: TrainState, watch: StopWatch) -> None:
        self.state, self.watch = state, watch
        self.tick_began = self.since = self.paused_at = time.perf_counter()
        self.maintenance_sec = 0.0
        self.tick_nimg = state.cur_nimg

    def __enter__(self) -> TickClock:
        self.watch.take()  # of a loop before this one that ended inside a tick
        self.watch.trains = True
        return self

    def __exit__(self, *_error: object) -> None:
        self.watch.trains = False

    def resume(self) -> None:
        """Counts the time since `pause` as maintenance."""
        now = time.perf_counter()
        self.state.elapsed_sec += now - self.since
        self.maintenance_sec += now - self.paused_at
        self.since = now
        self.watch.trains = True

    def pause(self) -> None:
        """Ends the training time; maintenance begins."""
        self.watch.trains = False
        self.paused_at = time.perf_counter()
        self.state.elapsed_sec += self.paused_at - self.since
        self.since = self.paused_at

    def end_tick(self, group: Group) -> dict[str, Any]:
        """The row of stats.jsonl of the tick that ends at this pause; begins the next tick."""
        state = self.state
        sec = max(self.paused_at - self.tick_began, 1e-9)
        kimg = (state.cur_nimg - self.tick_nimg) / 1000
        skipped = int(state.nonfinite.item())
        row = {
            "Progress/tick": state.tick,
            "Progress/kimg": state.cur_nimg / 1000,
            "Progress/lod": group.schedule.lod,
            "Progress/minibatch": group.schedule.minibatch_size,
            "Progress/augment_p": state.augment_p,
            **{name: value for name, value in state.means.take().items() if name.startswith("Loss/")},
            "nonfinite": skipped,
            "Timing/timestamp": time.time(),
            "Timing/total_sec": state.elapsed_sec,
            "Timing/sec_per_tick": sec,
            "Timing/sec_per_kimg": sec / kimg,
            "Timing/maintenance_sec": self.maintenance_sec,
            **{f"Timing/share/{part}": value / sec for part, value in self.watch.take().items()},
            **resources_used(state.device),
        }
        state.num_nonfinite += skipped
        state.nonfinite.zero_()
        state.tick += 1
        state.tick_start_nimg = state.cur_nimg
        self.tick_began, self.maintenance_sec, self.tick_nimg = self.paused_at, 0.0, state.cur_nimg
        return row


def resources_used(device: torch.device) -> dict[str, float]:
    """Peak memory of this process and of its GPU, in GiB."""
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"Resources/peak_gpu_mem_gb": gpu / 2**30, "Resources/cpu_mem_gb": cpu / 2**30}
