"""Gradients that are not finite: steps are skipped, the run rolls back or stops, as train.on_nonfinite says."""

import numpy as np
import pytest
from support.laws import run
from support.toy import ToySet, toy_config, toy_minibatches, toy_state

from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.train.loop import Diverged, training_loop
from stylegan_ray.train.resume import Rollback
from stylegan_ray.train.stats import StopWatch


class Poisoned(ToySet):
    """Labels of reals are NaN at a position while the run draws by certain values of stream_salt: D's gradients too."""

    def __init__(self, state, position, salts=(0,)):
        super().__init__()
        self.state, self.position, self.salts = state, position, salts

    def micro_batch(self, positions, level=0):
        images, labels = super().micro_batch(positions, level)
        if self.position in positions and self.state.stream_salt in self.salts:
            labels = labels * np.nan
        return images, labels


def test_rollback_continues_from_the_checkpoint_with_other_random_numbers(tmp_path):
    keys = {"train.on_nonfinite": "rollback", "train.total_kimg": 0.096}
    cfg, checkpoints = toy_config(**keys), Storage.at(tmp_path)
    state, untouched = toy_state(cfg), toy_state(cfg)
    source = Poisoned(state, position=64, salts=(0, 1))
    rollback = Rollback(state, cfg, checkpoints)
    run(cfg, state, pauses=2, source=source)
    write_checkpoint(Snapshot.of(state, cfg), checkpoints)
    at = state.cur_nimg
    assert at < 64
    for salt in (1, 2):
        with pytest.raises(Diverged, match="not finite"):
            run(cfg, state, source=source)
        rollback.go_back(Diverged("not finite"), print)
        assert (state.cur_nimg, state.stream_salt, state.num_nonfinite) == (at, salt, salt)
    run(cfg, state, source=source)
    assert state.cur_nimg == cfg.train.total_kimg * 1000 and Snapshot.of(state, cfg).is_finite()
    assert state.counters()["stream_salt"] == 2, "a restart has to continue with the same numbers"
    run(toy_config(), untouched, pauses=1)
    assert untouched.stream_salt == 0


def test_skipping_ends_when_its_budget_is_spent():
    cfg = toy_config(**{"train.on_nonfinite": "skip", "train.nonfinite_budget": 1})
    state = toy_state(cfg)  # D and its regularization: two steps
    with pytest.raises(FloatingPointError, match=r"2 steps.*nonfinite_budget=1.*lower"):
        run(cfg, state, source=Poisoned(state, position=0))


def test_skipping_within_its_budget_trains_to_the_end():
    keys = {"train.on_nonfinite": "skip", "train.nonfinite_budget": 2, "train.total_kimg": 0.064}
    cfg = toy_config(**keys, **{"loss.D": "wgan_gp"})
    state = toy_state(cfg)
    rows = run(cfg, state, source=Poisoned(state, position=0))
    assert sum(row["nonfinite"] for row in rows) == state.num_nonfinite == 2
    assert Snapshot.of(state, cfg).is_finite()


def test_error_stops_at_once():
    cfg = toy_config(**{"train.on_nonfinite": "error"})
    state = toy_state(cfg)
    with pytest.raises(FloatingPointError, match=r"nimg 48.*on_nonfinite=error.*on_nonfinite=skip"):
        run(cfg, state, source=Poisoned(state, position=48))
    assert state.cur_nimg == 48


def test_time_before_a_rollback_is_not_that_of_the_tick_after_it():
    cfg = toy_config()
    state, source = toy_state(cfg), ToySet()
    watch = StopWatch(state.device)
    loop = training_loop(state, cfg, toy_minibatches(cfg), source, lambda: True, watch)
    next(loop), next(loop)
    watch.seconds["G"] += 1000
    loop.close()
    pause = next(training_loop(state, cfg, toy_minibatches(cfg, state.cur_nimg), source, watch=watch))
    assert sum(value for name, value in pause.stats.items() if name.startswith("Timing/share/")) <= 1


def test_the_copy_of_the_start_is_kept_until_there_is_a_checkpoint():
    cfg = toy_config(**{"train.on_nonfinite": "rollback"})
    state = toy_state(cfg)
    rollback = Rollback(state, cfg, Storage.at("unused"))
    rollback.note_checkpoint(False)
    assert rollback.begin is not None
    rollback.note_checkpoint(True)
    assert rollback.begin is None
    run(cfg, state, pauses=1)
    assert Rollback(state, cfg, Storage.at("unused")).begin is None, "a run that continues has a checkpoint"
