"""How a run continues: from its newest checkpoint, or from the one before it diverged."""

from __future__ import annotations

from collections.abc import Callable

from stylegan_ray import distributed
from stylegan_ray.config import RunConfig
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
        is_new = state.iteration == 0
        self.begin = Snapshot.of(state, cfg) if is_new and cfg.train.on_nonfinite == "rollback" else None
        """The start of a run, until it has a checkpoint."""

    def note_checkpoint(self, is_stored: bool) -> None:
        """Frees the copy of the start once rank 0 has stored a checkpoint. A collective call."""
        if self.begin is not None and distributed.from_rank0(is_stored):
            self.begin = None

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
