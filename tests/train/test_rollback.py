"""What the training does about gradients that are not finite, with a NaN put into one of them."""

import pytest
from support.laws import run
from support.toy import toy_config, toy_state

from stylegan_ray.storage import Storage
from stylegan_ray.train import step
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.train.loop import Diverged
from stylegan_ray.train.resume import Rollback


@pytest.fixture
def nan_at(monkeypatch):
    """Puts a NaN into G's gradient at a clock value while the run draws the numbers of a stream_salt."""
    add = step.add

    def inject(nimg, salts):
        def poisoned(phase, job, share):
            add(phase, job, share)
            batch = job.batch
            if phase.network == "G" and batch.place.nimg == nimg and batch.state.stream_salt in salts:
                batch.state.gradients["G"].flat[0] = float("nan")

        monkeypatch.setattr(step, "add", poisoned)

    return inject


def test_rollback_goes_on_from_the_checkpoint_with_other_numbers(nan_at, tmp_path):
    cfg, checkpoints = toy_config(**{"train.on_nonfinite": "rollback"}), Storage.at(tmp_path)
    nan_at(96, salts=(0, 1))
    state, untouched = toy_state(cfg), toy_state(cfg)
    rollback = Rollback(state, cfg, checkpoints)
    run(cfg, state, pauses=2)
    write_checkpoint(Snapshot.of(state, cfg), checkpoints)
    at = state.cur_nimg
    assert at < 96
    for salt in (1, 2):
        with pytest.raises(Diverged, match="not finite"):
            run(cfg, state)
        rollback.go_back(Diverged("not finite"), print)
        assert (state.cur_nimg, state.stream_salt, state.num_nonfinite) == (at, salt, salt)
    run(cfg, state)
    assert state.cur_nimg == cfg.train.total_kimg * 1000 and Snapshot.of(state, cfg).is_finite()
    assert state.counters()["stream_salt"] == 2, "a restart has to go on with the same numbers"
    run(toy_config(), untouched, pauses=1)
    assert untouched.stream_salt == 0


def test_skipping_ends_when_its_budget_is_spent(nan_at):
    cfg = toy_config(**{"train.on_nonfinite": "skip", "train.nonfinite_budget": 1})
    nan_at(0, salts=(0,))  # G and its regularisation: two steps
    with pytest.raises(FloatingPointError, match=r"2 steps were skipped.*nonfinite_budget=1"):
        run(cfg, toy_state(cfg))


def test_skipping_within_its_budget_trains_to_the_end(nan_at):
    cfg = toy_config(**{"train.on_nonfinite": "skip", "train.nonfinite_budget": 2})
    nan_at(0, salts=(0,))
    state = toy_state(cfg)
    rows = run(cfg, state)
    assert sum(row["nonfinite"] for row in rows) == state.num_nonfinite == 2
    assert Snapshot.of(state, cfg).is_finite()


def test_error_stops_at_once(nan_at):
    cfg = toy_config(**{"train.on_nonfinite": "error"})
    nan_at(48, salts=(0,))
    with pytest.raises(FloatingPointError, match=r"not finite at nimg 48.*on_nonfinite=error"):
        run(cfg, toy_state(cfg))
