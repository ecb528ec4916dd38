"""Files reach the storage in order, whatever it does in between, and the training never waits for it."""

import threading

import pytest

from stylegan_ray.run_folder import CHECKPOINTS, complete_checkpoints
from stylegan_ray.storage import Storage
from stylegan_ray.train.background_writer import Outbox
from stylegan_ray.train.checkpoint import Snapshot


class Faulty(Storage):
    """A storage that fails while it is told to; notes what it was asked to write."""

    broken = threading.Event()
    asked: list[str]

    def write(self, name, content):
        if self.broken.is_set():
            raise OSError(28, "No space left on device")
        super().write(name, content)

    def folder(self, name):
        return Faulty(self.filesystem, self.path(name))


@pytest.fixture
def storage(tmp_path):
    Faulty.broken.clear()
    here = Storage.at(tmp_path)
    yield Faulty(here.filesystem, here.root)
    Faulty.broken.clear()


def snapshot(nimg):
    return Snapshot({}, {"cur_nimg": nimg}, "")


def outbox(storage, said, keep=3):
    return Outbox(storage, keep, said.append, pauses_sec=(0.01,))


def test_files_come_in_order_and_checkpoints_after_what_they_rest_on(storage):
    order, box = [], outbox(storage, [])
    box.file("a", b"1")
    box.checkpoint(snapshot(16), before=lambda: order.append(storage.read("a")))
    assert box.finish(10)
    assert order == [b"1"] and box.newest == "ckpt-000000000016"
    assert complete_checkpoints(storage.folder(CHECKPOINTS)) == ["ckpt-000000000016"]


def test_old_checkpoints_go(storage):
    box = outbox(storage, [], keep=2)
    for nimg in (1, 2, 3):
        box.checkpoint(snapshot(nimg))
        assert box.finish(10)
    assert complete_checkpoints(storage.folder(CHECKPOINTS)) == ["ckpt-000000000002", "ckpt-000000000003"]


def test_a_full_storage_is_said_once_and_costs_no_more_than_old_checkpoints(storage):
    """Checkpoint 1 is there when the disk fills up; 2 is tried, 3 waits in vain for 4, and all files arrive."""
    said: list[str] = []
    box = outbox(storage, said)
    box.checkpoint(snapshot(1))
    assert box.finish(10)
    Faulty.broken.set()
    box.checkpoint(snapshot(2))
    assert not box.finish(0.1)
    box.file("picture", b"p")
    box.checkpoint(snapshot(3))
    box.checkpoint(snapshot(4))
    assert not box.finish(0.1)
    Faulty.broken.clear()
    assert box.finish(10)
    assert complete_checkpoints(storage.folder(CHECKPOINTS)) == ["ckpt-000000000001", "ckpt-000000000004"]
    assert storage.read("picture") == b"p"
    trouble, works = said
    assert trouble.startswith("fault: storage does not take ckpt-000000000002") and "No space left" in trouble
    assert "would continue from ckpt-000000000001" in trouble and "\n" not in trouble
    assert works.startswith("storage works again") and "2 checkpoints were left out" in works


def test_an_error_that_is_not_the_storages_reaches_the_training(storage):
    box = outbox(storage, [])
    box.checkpoint(snapshot(1), before=lambda: {}["missing"])
    with pytest.raises(KeyError):
        box.finish(10)


def test_what_waits_is_bounded(storage, monkeypatch):
    monkeypatch.setattr("stylegan_ray.train.background_writer.MOST_BYTES", 10)
    said: list[str] = []
    box = outbox(storage, said)
    Faulty.broken.set()
    box.file("first", b"12345678")
    assert not box.finish(0.1)
    box.file("second", b"12345678")
    box.file("third", b"12345678")
    Faulty.broken.clear()
    assert box.finish(10)
    assert storage.names() == ["first", "third"] and any("second is given up" in text for text in said)
