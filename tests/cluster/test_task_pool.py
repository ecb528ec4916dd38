"""Work in tasks of Ray Data: in order, bounded, stopped when nobody takes, and unharmed by the death of a process."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from stylegan_ray.cluster import task_pool as module  # noqa: E402
from stylegan_ray.cluster.task_pool import in_order  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_local")


class Squares:
    """Says a plan's number, its square and its process; notes what it does in a file."""

    def __init__(self, log: Path, bad=None, fatal=None) -> None:
        self.log, self.bad, self.fatal = log, bad, fatal

    def __call__(self, plan):
        with self.log.open("a") as file:
            file.write(f"{plan}\n")
        if plan == self.bad:
            raise ValueError(f"plan {plan} is bad")
        if plan == self.fatal and self.log.read_text().split().count(str(plan)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05 * (plan % 3 == 0))
        return [b"%d" % plan, b"%d" % plan**2, b"%d" % os.getpid()]


def results(work, num, max_tasks=2):
    return [[int(bytes(piece)) for piece in pieces] for pieces in in_order(work, list(range(num)), max_tasks)]


def executor_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


@pytest.mark.parametrize("max_tasks", [1, 2])
def test_results_come_in_the_order_of_plans_over_segments(tmp_path, monkeypatch, max_tasks):
    monkeypatch.setattr(module, "TASKS_PER_SEGMENT", 7)
    found = results(Squares(tmp_path / "log"), 20, max_tasks)
    assert [row[:2] for row in found] == [[i, i * i] for i in range(20)]
    assert len({row[2] for row in found}) <= max_tasks and not executor_threads()
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(20)), "nothing is done twice"


def test_no_more_is_done_than_may_wait(tmp_path):
    log = tmp_path / "log"
    pieces = in_order(Squares(log), list(range(40)), max_tasks=2)
    next(pieces)
    time.sleep(2)
    assert len(log.read_text().split()) <= 1 + 2 * 2
    pieces.close()
    assert not executor_threads()


def test_an_error_comes_out_as_it_was_raised(tmp_path, caplog, capfd):
    with pytest.raises(ValueError, match=r"^plan 5 is bad$") as caught:
        results(Squares(tmp_path / "log", bad=5), 12)
    assert caught.value.__cause__ is None and not executor_threads()
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_a_killed_process_goes_unnoticed(tmp_path):
    found = results(Squares(tmp_path / "log", fatal=3), 10)
    assert [row[0] for row in found] == list(range(10))
