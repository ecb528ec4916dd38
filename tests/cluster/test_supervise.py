"""Attempts of a run: what another one gets over, what ends the run, how it is asked to stop, what is freed."""

from __future__ import annotations

import sys
import time

import pytest

ray = pytest.importorskip("ray")

from ray.util.placement_group import placement_group  # noqa: E402

from stylegan_ray.cluster import supervise  # noqa: E402
from stylegan_ray.cluster.channel import GROUP, MESSAGE, METRIC, TICK, Sender  # noqa: E402
from stylegan_ray.cluster.faults import MOST_WITHOUT_PROGRESS, FaultLog  # noqa: E402
from stylegan_ray.cluster.supervise import Outcome, Supervisor  # noqa: E402
from stylegan_ray.config import ClusterConfig  # noqa: E402
from stylegan_ray.run_folder import STOP  # noqa: E402
from stylegan_ray.storage import Storage  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Shown:
    """A view that remembers."""

    def __init__(self):
        self.ticks, self.metrics, self.messages = [], [], []
        self.tick, self.metric, self.message = self.ticks.append, self.metrics.append, self.messages.append

    def refresh(self):
        pass


@pytest.fixture
def supervisor(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(supervise, "PAUSES_SEC", (0.0,))
    monkeypatch.setattr(supervise, "LOOK_SEC", 0.05)
    run = Storage.at(tmp_path)
    return Supervisor(run, FaultLog(run), Shown(), lambda: False, ClusterConfig())


def test_what_workers_send_is_shown_in_order(supervisor):
    sender = Sender(supervisor.channel)

    def fit():
        sender.post(TICK, {"Progress/tick": 0})
        sender.post(METRIC, {"Metrics/fid": 3.0})
        for number in range(3):
            sender.post(MESSAGE, f"message {number}")
        return Outcome("done")

    assert supervisor.outcome_of(fit) == Outcome("done")
    view = supervisor.view
    assert view.ticks == [{"Progress/tick": 0}] and view.metrics == [{"Metrics/fid": 3.0}]
    assert view.messages == ["message 0", "message 1", "message 2"]


def test_a_failure_of_ray_train_is_counted_and_tried_again(supervisor):
    attempts = iter([OSError("storage"), RuntimeError("controller")])

    def fit():
        for error in attempts:
            raise error
        return Outcome("done")

    assert supervisor.outcome_of(fit) == Outcome("done")
    texts = [row["fault"] for row in supervisor.faults.rows()]
    assert [text.rpartition(": ")[2] for text in texts] == ["storage", "controller"]


def test_failures_without_a_checkpoint_between_them_end_the_run(supervisor):
    attempts = []

    def fit():
        attempts.append(0)
        raise OSError("always")

    outcome = supervisor.outcome_of(fit)
    assert outcome.state == "failed" and len(attempts) == MOST_WITHOUT_PROGRESS
    assert "always" in outcome.reason and "same command" in outcome.reason


def test_more_failures_than_the_configuration_allows_end_the_run(supervisor):
    def fit():
        raise ray.train.WorkerGroupError("workers failed", {0: OSError("disk")})

    assert supervisor.outcome_of(fit).state == "failed"


def test_an_end_that_a_worker_stored_ends_the_run(supervisor):
    def fit():
        supervisor.faults.add_end("diverged", "worker 0 diverged: NaN")
        raise RuntimeError("a worker failed")

    assert supervisor.outcome_of(fit) == Outcome("diverged", "worker 0 diverged: NaN")


def test_a_wish_to_stop_becomes_the_stop_file(supervisor):
    sender = Sender(supervisor.channel)
    supervisor.stop_requested = lambda: bool(supervisor.view.messages)

    def fit():
        sender.post(GROUP, None)  # the workers are up
        sender.post(MESSAGE, "the user asks for a stop")
        deadline = time.monotonic() + 30
        while not supervisor.run.exists(STOP):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return Outcome("stopped")

    assert supervisor.outcome_of(fit) == Outcome("stopped")


def test_a_wish_to_stop_before_the_workers_are_up_ends_the_run_at_once(supervisor):
    supervisor.stop_requested = lambda: True
    assert supervisor.outcome_of(lambda: time.sleep(20)) == Outcome("stopped")
    assert not supervisor.run.exists(STOP)


def test_a_wish_to_stop_while_no_group_can_start_ends_the_run(supervisor):
    """A node is lost and none takes its place: nobody is there to read the STOP file."""
    sender = Sender(supervisor.channel)
    supervisor.stop_requested = lambda: bool(supervisor.view.messages)

    def fit():
        sender.post(GROUP, None)
        ray.get(supervisor.channel.end_group.remote())
        sender.post(MESSAGE, "the user asks for a stop")
        time.sleep(20)

    assert supervisor.outcome_of(fit) == Outcome("stopped")


def test_the_stop_file_is_heard_while_no_group_can_start(supervisor):
    def fit():
        supervisor.run.write(STOP, b"")
        time.sleep(20)

    assert supervisor.outcome_of(fit) == Outcome("stopped")


def test_a_stop_request_between_two_attempts_is_heard_at_once(supervisor, monkeypatch):
    monkeypatch.setattr(supervise, "PAUSES_SEC", (60.0,))
    began = time.monotonic()
    supervisor.stop_requested = lambda: time.monotonic() > began + 1

    def fit():
        raise ConnectionError("first attempt")

    assert supervisor.outcome_of(fit).state == "stopped" and time.monotonic() - began < 20


class Leader:
    """Reserves CPUs as a controller does, tells, and dies."""

    def reserve(self, channel):
        group = placement_group([{"CPU": 1}] * 2)
        ray.get(group.ready())
        ray.get(channel.post.remote(GROUP, group))


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0)


def wait_for_cpus(number: float) -> None:
    deadline = time.monotonic() + 30
    while free_cpus() != number:
        assert time.monotonic() < deadline, f"{free_cpus():g} CPUs are free"
        time.sleep(0.1)


def test_the_next_attempt_frees_what_a_dead_controller_had_reserved(supervisor):
    free = []

    def fit():
        if not free:
            leader = ray.remote(num_cpus=0)(Leader).remote()
            ray.get(leader.reserve.remote(supervisor.channel))
            ray.kill(leader)
            wait_for_cpus(0)
            free.append(0)
            raise RuntimeError("the controller died")
        wait_for_cpus(2)
        return Outcome("done")

    wait_for_cpus(2)
    assert supervisor.outcome_of(fit) == Outcome("done")


def test_a_channel_whose_process_dies_goes_on(supervisor):
    sender = Sender(supervisor.channel)

    def fit():
        ray.kill(supervisor.channel, no_restart=False)
        deadline = time.monotonic() + 60
        while not supervisor.view.messages:
            sender.post(MESSAGE, "still here")
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return Outcome("done")

    assert supervisor.outcome_of(fit) == Outcome("done")
