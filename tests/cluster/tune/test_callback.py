"""What a stop request does to a sweep: trials save their states before Ray Tune ends their processes."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

from stylegan_ray import interrupts
from stylegan_ray.cluster.tune import callback
from stylegan_ray.cluster.tune.callback import Session
from stylegan_ray.cluster.tune.trials import Record, Trial
from stylegan_ray.run_folder import STOP
from stylegan_ray.storage import Storage


@pytest.fixture
def session(tmp_path):
    """A session of two trials, in whose process Tune has set its handler of SIGINT."""
    tune = SimpleNamespace(asked=0)

    def of_tune(number, frame):
        tune.asked += 1

    view = SimpleNamespace(num_samples=0, objective="x", message=lambda text: None, refresh=lambda: None)
    session = Session(Storage.at(tmp_path), {number: Trial(Record(number, {})) for number in (0, 1)}, view)
    with interrupts.kept():
        signal.signal(signal.SIGINT, of_tune)
        session.begin(SimpleNamespace(num_samples=2))
        yield session, tune


def test_a_signal_and_the_stop_file_are_told_apart(session, tmp_path):
    """As of train: the exit status is 130 after a signal alone."""
    session, tune = session
    (tmp_path / STOP).touch()
    session.look([])
    assert session.was_stopped and not session.was_signaled
    session.look([])
    assert tune.asked == 1
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_tune_ends_the_trials_when_all_have_saved(session, tmp_path):
    """It kills their processes ten seconds after SIGINT, and a large training takes longer to save."""
    session, tune = session
    session.look([0, 1])
    signal.raise_signal(signal.SIGINT)
    session.look([0, 1])
    session.report(1, {"ended": "interrupted", "generation": 0})
    session.look([0, 1])
    assert session.was_signaled and (tmp_path / STOP).exists() and tune.asked == 0
    session.report(0, {"ended": "interrupted", "generation": 0})
    session.look([0, 1])
    session.look([0, 1])
    assert tune.asked == 1


def test_a_trial_that_cannot_save_does_not_keep_the_sweep(session, monkeypatch):
    session, tune = session
    monkeypatch.setattr(callback, "SECONDS_TO_SAVE", -1.0)
    signal.raise_signal(signal.SIGTERM)
    session.look([0])
    assert tune.asked == 1


def test_the_handler_neither_prints_nor_writes(session, tmp_path):
    """It may interrupt a print: Python refuses to enter the same buffer again, and the sweep would end with that."""
    session, _ = session
    said = []
    session.view.message = said.append
    signal.raise_signal(signal.SIGINT)
    assert said == [] and not (tmp_path / STOP).exists()
    session.look([0, 1])
    session.look([0, 1])
    assert len(said) == 1 and said[0].startswith("Stopping") and (tmp_path / STOP).exists()


def test_a_second_signal_ends_the_sweep_at_once(session):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_stop_request_between_two_experiments_ends_the_second_one(session):
    """Its trials would report for ever that they are interrupted."""
    session, tune = session
    signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda number, frame: setattr(tune, "asked", 10))
    session.begin(SimpleNamespace(num_samples=2))
    session.look([])
    assert tune.asked == 10
