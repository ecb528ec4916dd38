"""Signals of the driver and of its workers."""

import os
import signal
import subprocess
import threading
import time

import pytest

ray = pytest.importorskip("ray")

import torch  # noqa: E402

from stylegan_ray.cluster import signals  # noqa: E402
from stylegan_ray.cluster.resources import start_local  # noqa: E402
from stylegan_ray.cluster.signals import GO_ON, LOG, SAVE, STOP_RUN, Signals, stop_on_signals  # noqa: E402
from stylegan_ray.config import load_config  # noqa: E402
from stylegan_ray.interrupts import handled_by  # noqa: E402
from stylegan_ray.run_folder import STOP  # noqa: E402
from stylegan_ray.storage import Storage  # noqa: E402


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_for_a_stop_and_the_second_ends_at_once(number):
    said, before = [], signal.getsignal(number)
    with stop_on_signals(said.append) as stop_requested:
        assert not stop_requested()
        os.kill(os.getpid(), number)
        assert stop_requested() and stop_requested() and len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


@pytest.fixture
def hangups():
    """SIGHUP as where these tests do not run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_closed_sends_two_hangups_and_asks_once(hangups):
    with stop_on_signals(lambda _: None) as stop_requested:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop_requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_hangup_of_the_whole_process_group_does_not_end_ray(monkeypatch, hangups):
    answers, heard = [], []

    def init(**_):
        os.kill(os.getpid(), signal.SIGHUP)
        answers.append(subprocess.check_output(["sh", "-c", "kill -HUP $$; echo lives"], text=True))

    monkeypatch.setattr(ray, "init", init)
    with handled_by(lambda number, _: heard.append(number)):
        start_local(load_config("tiny"), lambda _: None, {})
    assert answers == ["lives\n"] and heard == [signal.SIGHUP], "the command itself hears it"


class Quiet:
    has_messages = False

    def message(self, text):
        raise AssertionError(text)


def signals_of(folder, sender=None, **keys):
    run = folder if isinstance(folder, Storage) else Storage.at(folder)
    return Signals(load_config("tiny", keys), run, sender or Quiet(), torch.device("cpu"))


def test_a_stop_file_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "LOCAL_STOP_SEC", 0.01)
    found = signals_of(tmp_path)
    assert not found.interrupted() and found.reason == GO_ON and not found.ends
    (tmp_path / STOP).touch()
    found.stop_file.join(60)
    assert found.interrupted() and found.reason == STOP_RUN and found.ends


def test_a_storage_that_does_not_answer_does_not_hold_up_the_training(tmp_path):
    asked, answers = threading.Event(), threading.Event()

    class Hanging(Storage):
        def exists(self, name):
            asked.set()
            return answers.wait(60)

    found = signals_of(Hanging(Storage.at(tmp_path).filesystem, str(tmp_path)))
    assert asked.wait(60) and not found.interrupted() and found.reason == GO_ON
    found.close()
    answers.set()
    found.stop_file.join(60)
    assert not found.stop_file.is_alive() and found.interrupted(), "the answer counts when it comes"


def test_a_checkpoint_is_due_by_the_clock(tmp_path):
    found = signals_of(tmp_path, **{"train.checkpoint_minutes": 1})
    assert not found.interrupted()
    found.saved_at = time.monotonic() - 61
    assert found.interrupted() and found.reason == SAVE and not found.ends


def test_messages_are_logged_between_groups_without_a_pause(tmp_path):
    class Loud(Quiet):
        has_messages = True

    found = signals_of(tmp_path, Loud())
    assert not found.interrupted() and found.reason == LOG
