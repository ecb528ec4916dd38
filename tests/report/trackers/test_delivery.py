"""A tracker gets each row once, when a checkpoint covers it, whatever dies in between; a dead one costs one warning."""

import json
import time

import pytest
from support.grown import GrowingRun, memory_of

from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.report.trackers import Deliveries, check_trackers, delivery
from stylegan_ray.report.trackers.delivery import Delivery
from stylegan_ray.report.trackers.memory import Memory


class Recorder:
    """A tracker that keeps what it gets, and that the test can break."""

    title, address = "Recorder", "http://tracker"

    def __init__(self):
        self.begun, self.points, self.networks, self.ended = [], [], [], []
        self.broken, self.num_broken = None, 0

    def begin(self, memory, about):
        self.check("begin")
        self.begun.append(memory.id)

    def add(self, points, memory):
        self.check("add")
        self.points += points
        return True

    def add_network(self, path, nimg):
        with open(path, "rb") as file:
            self.networks.append((file.read(), nimg))

    def end(self, state):
        self.ended.append(state)

    def drop(self):
        pass

    def check(self, call):
        if call == self.broken:
            self.num_broken += 1
            raise ConnectionError(f"no route to the server at {call}")

    @property
    def curve(self):
        return [(p.nimg, p.scalars["Loss/D/loss"]) for p in self.points if "Loss/D/loss" in p.scalars]

    @property
    def metrics(self):
        return [(p.nimg, p.scalars["Metrics/fid5k_tiny"]) for p in self.points if "Metrics/fid5k_tiny" in p.scalars]

    @property
    def images(self):
        return [p.image for p in self.points if p.image]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(delivery, "LOOK_SEC", 0.01)
    monkeypatch.setattr(delivery, "PAUSES_SEC", (0.01,))


@pytest.fixture
def run(tmp_path):
    return GrowingRun(tmp_path)


def delivery_of(run, tracker, say=print, address="http://tracker"):
    return Delivery(tracker, Memory(run.folder, "recorder", address), run.about, say)


def delivered(run, tracker, address="http://tracker"):
    """One process drives the run to an end; returns what it said."""
    said = []
    thread = delivery_of(run, tracker, said.append, address)
    thread.start()
    thread.end_with("done")
    thread.wait()
    return said


CURVE = [(128, 0.0), (4128, 1.0), (8128, 2.0), (12128, 3.0), (16128, 4.0)]


def test_only_what_a_checkpoint_covers_is_sent(run):
    tracker = Recorder()
    run.add_ticks(2)
    run.add_ticks(2, checkpoint=False)
    delivered(run, tracker)
    assert tracker.curve == CURVE[:2]
    assert tracker.metrics == [(128, 100.0)] and tracker.images == ["fakes000000.128.png"]


def test_a_crash_and_a_resume_neither_cut_nor_double_a_row(run):
    """Ticks 2 and 3 are lost and repeated with another loss, which alone is sent."""
    first, second = Recorder(), Recorder()
    run.add_ticks(2)
    run.add_ticks(2, checkpoint=False, loss=-1.0)
    delivered(run, first)
    run.lose(2)
    run.add_ticks(3)
    delivered(run, second)
    assert first.curve + second.curve == CURVE
    assert first.metrics + second.metrics == [(128, 100.0), (8128, 98.0), (16128, 96.0)]
    assert len(first.images + second.images) == 3
    assert first.begun == second.begun, "one id for the life of the run"


def test_a_late_metric_follows_its_tick(run):
    """Metrics beside the training come when later ticks have been sent."""
    tracker = Recorder()
    run.add_ticks(2)
    delivered(run, tracker)
    run.add_metric(1, 7.0)
    run.add_ticks(1)
    delivered(run, tracker)
    assert tracker.metrics == [(128, 100.0), (4128, 7.0), (8128, 98.0)]
    assert tracker.curve == CURVE[:3]


def test_a_dead_server_costs_one_warning_and_the_rows_follow(run):
    tracker, said = Recorder(), []
    tracker.broken = "begin"
    run.add_ticks(2)
    thread = delivery_of(run, tracker, said.append)
    thread.start()
    wait_until(lambda: tracker.num_broken > 3)
    tracker.broken = None
    wait_until(lambda: len(tracker.curve) == 2)
    tracker.broken, tracker.num_broken = "add", 0
    run.add_ticks(1)
    wait_until(lambda: tracker.num_broken > 3)
    tracker.broken = None
    thread.end_with("done")
    thread.wait()
    assert tracker.curve == CURVE[:3] and tracker.ended == ["done"]
    warnings = [text for text in said if text.startswith("warning")]
    assert len(warnings) == 2 and all("no route to the server" in text and "follow" in text for text in warnings)
    assert len([text for text in said if "works again" in text]) == 2


def test_a_server_that_is_dead_at_the_end_gets_the_rest_by_the_same_command(run):
    tracker, again = Recorder(), Recorder()
    tracker.broken = "begin"
    run.add_ticks(3)
    (warning,) = delivered(run, tracker)
    assert "the same command sends the rest" in warning and tracker.curve == []
    tracker.broken = None
    deliveries = Deliveries(run.cfg, run.folder, run.about, print)
    deliveries.all = [delivery_of(run, tracker)]
    deliveries.finish("done")
    assert tracker.curve == CURVE[:3] and tracker.ended == ["done"]
    deliveries.all = [delivery_of(run, again)]
    deliveries.finish("done")
    assert again.begun == [], "a tracker that has everything is not asked"


def test_the_damaged_file_of_a_tracker_is_no_reason_to_fail(run):
    tracker = Recorder()
    run.add_ticks(3)
    delivered(run, tracker)
    deliveries, said = Deliveries(run.cfg, run.folder, run.about, print), []
    deliveries.all = [delivery_of(run, tracker, said.append)]
    run.folder.write(deliveries.all[0].memory.file, b"{")
    deliveries.finish("done")
    assert len(said) == 1 and said[0].startswith("warning")


def test_another_server_gets_the_whole_run_under_another_id(run):
    first, second = Recorder(), Recorder()
    run.add_ticks(2)
    delivered(run, first)
    delivered(run, second, address="http://user:password@other")
    assert first.curve == second.curve == CURVE[:2] and first.begun != second.begun
    assert memory_of(run.folder.root, "recorder")["address"] == "http://other"


def test_the_final_network_is_sent_once_where_it_is_asked_for(tmp_path):
    plain, asked = GrowingRun(tmp_path / "plain"), GrowingRun(tmp_path / "asked", **{"report.artifacts": True})
    networks = []
    for run in (plain, asked, asked):
        run.add_ticks(1)
        run.folder.write("network-final.safetensors", b"weights of G")
        tracker = Recorder()
        delivered(run, tracker)
        delivered(run, tracker)
        networks.append(tracker.networks)
    assert networks == [[], [(b"weights of G", 128)], [(b"weights of G", 4128)]]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"address": "http://tracker"}'])
def test_a_damaged_memory_is_named_and_not_overwritten(run, content):
    run.add_ticks(1)
    run.folder.write("tracker-recorder.json", content)
    tracker = Recorder()
    said = delivered(run, tracker)
    assert "tracker-recorder.json" in said[0] and tracker.begun == []
    assert run.folder.read("tracker-recorder.json") == content


def test_a_tracker_whose_package_is_missing_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr("stylegan_ray.report.trackers.find_spec", lambda name: None)
    check_trackers(load_config("tiny"))
    with pytest.raises(ConfigError, match=r"report\.wandb='painting'.*stylegan-ray\[wandb\]"):
        check_trackers(load_config("tiny", {"report.wandb": "painting"}))


@pytest.mark.parametrize("key, value", [("mlflow", "127.0.0.1:5000"), ("mlflow", "sqlite:///a.db"), ("wandb", "a/b/c")])
def test_addresses_are_checked(key, value):
    with pytest.raises(ConfigError, match=rf"report\.{key}='{value}"):
        load_config("tiny", {f"report.{key}": value})


def test_no_address_enters_a_network_file_or_the_name_of_the_run():
    cfg = load_config("tiny", {"report.mlflow": "http://somewhere:5000", "report.wandb": "painting"})
    assert cfg.digest() == load_config("tiny").digest()
    assert "somewhere" not in json.dumps(cfg.of_network()) and "painting" not in json.dumps(cfg.of_network())


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
