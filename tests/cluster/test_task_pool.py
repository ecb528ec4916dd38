"""Work in Ray tasks: in order, bounded, stopped when nobody reads, and unharmed when a process dies."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from stylegan_ray.cluster.task_pool import TaskPool  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("ray_local")


class Squares:
    """Returns a plan, its square and its process; appends what it does to a file."""

    def __init__(self, log: Path, bad=None, fatal=None, always_fatal=None) -> None:
        self.log, self.bad, self.fatal, self.always_fatal = log, bad, fatal, always_fatal

    def __call__(self, plan):
        with self.log.open("a") as file:
            file.write(f"{plan}\n")
        if plan == self.bad:
            raise ValueError(f"plan {plan} is bad")
        first = self.log.read_text().split().count(str(plan)) == 1
        if plan == self.always_fatal or (plan == self.fatal and first):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05 * (plan % 3 == 0))
        return plan, plan**2, os.getpid()


def done(log: Path) -> list[int]:
    return sorted(map(int, log.read_text().split()))


@pytest.mark.parametrize("max_tasks", [1, 2])
def test_results_come_in_the_order_of_the_plans(tmp_path, max_tasks):
    found = list(TaskPool(Squares(tmp_path / "log"), max_tasks).in_order(range(20)))
    assert [row[:2] for row in found] == [(i, i * i) for i in range(20)]
    assert len({row[2] for row in found}) <= 2
    assert done(tmp_path / "log") == list(range(20)), "nothing is done twice"


def test_results_come_with_their_plans(tmp_path):
    found = list(TaskPool(Squares(tmp_path / "log"), 2).as_they_come(range(20)))
    assert sorted(plan for plan, _ in found) == done(tmp_path / "log") == list(range(20))
    assert all(result[:2] == (plan, plan**2) for plan, result in found)


def test_no_more_is_done_than_may_wait(tmp_path):
    log = tmp_path / "log"
    results = TaskPool(Squares(log), max_tasks=2).in_order(range(40))
    next(results)
    time.sleep(2)
    assert len(done(log)) <= 1 + 2 * 2
    results.close()
    num_done = len(done(log))
    time.sleep(1)
    assert len(done(log)) == num_done


@pytest.mark.parametrize("way", [TaskPool.in_order, TaskPool.as_they_come])
def test_an_error_comes_out_as_it_was_raised(tmp_path, caplog, capfd, way):
    with pytest.raises(ValueError, match=r"^plan 5 is bad$") as caught:
        list(way(TaskPool(Squares(tmp_path / "log", bad=5), 2), range(12)))
    assert caught.value.__cause__ is None
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_work_of_a_killed_process_is_done_again(tmp_path):
    found = list(TaskPool(Squares(tmp_path / "log", fatal=3), 2).in_order(range(10)))
    assert [row[0] for row in found] == list(range(10))


def test_work_that_kills_every_process_is_an_error(tmp_path):
    with pytest.raises(OSError, match=r"lost more than 3 times.*memory"):
        list(TaskPool(Squares(tmp_path / "log", always_fatal=3), 2).in_order(range(10)))
