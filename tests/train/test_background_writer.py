"""Files reach the storage in order, whenever it fails in between, and training never waits for it."""

import threading

import pytest

from stylegan_ray.packed_tensors import PackedTensors
from stylegan_ray.run_folder import CHECKPOINTS, complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.background_writer import BackgroundWriter
from stylegan_ray.train.checkpoint import Snapshot


class FullDisk(Storage):
    """A storage that refuses to write while `is_full` is set."""

    is_full = threading.Event()

    def write(self, name, content):
        if self.is_full.is_set():
            raise OSError(28, "No space left on device")
        super().write(name, content)

    def folder(self, name):
        return FullDisk(self.filesystem, self.path(name))


@pytest.fixture
def storage(tmp_path):
    FullDisk.is_full.clear()
    here = Storage.at(tmp_path)
    yield FullDisk(here.filesystem, here.root)
    FullDisk.is_full.clear()


def snapshot(nimg):
    return Snapshot(PackedTensors({}), {"cur_nimg": nimg}, "")


def writer_to(storage, messages, keep=3):
    return BackgroundWriter(storage, keep, messages.append, pauses_sec=(0.01,))


@pytest.mark.parametrize("is_full", [False, True])
def test_the_memory_of_a_checkpoint_is_spare_once_it_is_written(storage, is_full):
    writer = writer_to(storage, [])
    if is_full:
        FullDisk.is_full.set()
    writer.write_checkpoint(first := snapshot(16))
    if is_full:
        assert not writer.flush(0.2) and writer.take_spare() is None
        FullDisk.is_full.clear()
    assert writer.flush(10)
    assert writer.take_spare() is first and writer.take_spare() is None
    writer.close()


def test_jobs_run_in_order_and_a_checkpoint_after_what_comes_before_it(storage):
    order, writer = [], writer_to(storage, [])
    writer.write("a", b"1")
    writer.write_checkpoint(snapshot(16), before=lambda: order.append(storage.read("a")))
    writer.submit("b", lambda: order.append(complete_checkpoints(storage.folder(CHECKPOINTS))))
    assert writer.flush(10)
    assert order == [b"1", ["ckpt-000000000016"]] and writer.newest_checkpoint == "ckpt-000000000016"


def test_a_checkpoint_waits_until_what_comes_before_it_succeeds(storage):
    """As run files: a checkpoint must not know of a tick that they lack."""
    attempts, messages = [], []

    def sync():
        attempts.append(complete_checkpoints(storage.folder(CHECKPOINTS)))
        if len(attempts) < 3:
            raise OSError(5, "Input/output error")

    writer = writer_to(storage, messages)
    writer.write_checkpoint(snapshot(16), before=sync)
    assert writer.flush(10)
    assert attempts == [[], [], []] and writer.newest_checkpoint == "ckpt-000000000016"
    assert "Input/output error" in messages[0] and len(messages) == 2


def test_old_checkpoints_are_deleted(storage):
    writer = writer_to(storage, [], keep=2)
    for nimg in (1, 2, 3):
        writer.write_checkpoint(snapshot(nimg))
        assert writer.flush(10)
    assert complete_checkpoints(storage.folder(CHECKPOINTS)) == ["ckpt-000000000002", "ckpt-000000000003"]


def test_a_full_storage_is_reported_once_and_costs_only_old_checkpoints(storage):
    """Checkpoint 1 is there when the disk fills up; 2 is tried, 3 waits in vain for 4, and all files arrive."""
    messages: list[str] = []
    writer = writer_to(storage, messages)
    writer.write_checkpoint(snapshot(1))
    assert writer.flush(10)
    FullDisk.is_full.set()
    writer.write_checkpoint(snapshot(2))
    assert not writer.flush(0.1)
    writer.write("image", b"i")
    writer.write_checkpoint(snapshot(3))
    writer.write_checkpoint(snapshot(4))
    assert not writer.flush(0.1)
    FullDisk.is_full.clear()
    assert writer.flush(10)
    assert complete_checkpoints(storage.folder(CHECKPOINTS)) == ["ckpt-000000000001", "ckpt-000000000004"]
    assert storage.read("image") == b"i"
    failure, recovery = messages
    assert failure.startswith("fault: ") and "ckpt-000000000002" in failure and "No space left" in failure
    assert "continue from ckpt-000000000001" in failure and "\n" not in failure
    assert "works again" in recovery and "2 checkpoints" in recovery


def test_an_error_that_is_not_the_storages_reaches_the_training(storage):
    writer = writer_to(storage, [])
    writer.write_checkpoint(snapshot(1), before=lambda: {}["missing"])
    with pytest.raises(KeyError):
        writer.flush(10)


def test_the_bytes_that_wait_are_bounded(storage, monkeypatch):
    monkeypatch.setattr("stylegan_ray.train.background_writer.MAX_BYTES", 10)
    messages: list[str] = []
    writer = writer_to(storage, messages)
    FullDisk.is_full.set()
    writer.write("first", b"12345678")
    assert not writer.flush(0.1)
    writer.write("second", b"12345678")
    writer.write("third", b"12345678")
    FullDisk.is_full.clear()
    writer.write("fourth", b"123")
    FullDisk.is_full.clear()
    assert writer.flush(10)
    assert storage.names() == ["first", "fourth", "third"] and any("second" in text for text in messages)


def test_a_file_larger_than_the_bound_is_written(storage, monkeypatch):
    """config-f with fmap_max 1024 is larger than a GiB."""
    monkeypatch.setattr("stylegan_ray.train.background_writer.MAX_BYTES", 10)
    messages: list[str] = []
    writer = writer_to(storage, messages)
    for is_full in (True, False):
        (FullDisk.is_full.set if is_full else FullDisk.is_full.clear)()
        writer.write(f"network-{is_full}", b"x" * 100)
    assert writer.flush(10)
    assert storage.names() == ["network-False", "network-True"] and not any("dropped" in text for text in messages)


def test_training_waits_for_a_storage_that_is_slow_and_drops_nothing(storage, monkeypatch):
    monkeypatch.setattr("stylegan_ray.train.background_writer.MAX_BYTES", 10)
    messages: list[str] = []
    writer, may_go_on = writer_to(storage, messages), threading.Event()
    writer.submit("slow", lambda: may_go_on.wait(10) and None)
    writer.write("first", b"12345678")
    writer.write("second", b"12345678")
    threading.Timer(0.2, may_go_on.set).start()
    writer.write("third", b"12345678")
    assert may_go_on.is_set(), "it waited"
    assert writer.flush(10) and storage.names() == ["first", "second", "third"] and messages == []


def test_a_closed_writer_writes_nothing_more(storage):
    """The next attempt in the same process has a writer of its own for the same files."""
    writer, order = writer_to(storage, []), []
    FullDisk.is_full.set()
    writer.write("waits", b"1")
    writer.submit("rows", lambda: order.append("rows"))
    writer.close()
    FullDisk.is_full.clear()
    assert not writer._thread.is_alive() and storage.names() == [] and order == []
