"""Files of a run on a disk: whole or not there; addresses; patience."""

import os

import pytest

from stylegan_ray import storage
from stylegan_ray.storage import Storage, joined, one_line, parted, patiently


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    here = Storage.at(tmp_path)
    here.write("a/b", b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        here.write("a/b", b"new")
    assert here.read("a/b") == b"old" and here.names("a") == ["b"], "half a file is left on a full disk"


def test_deleting_what_is_not_there_is_no_error(tmp_path):
    here = Storage.at(tmp_path)
    here.delete("nothing")
    here.delete_folder("nothing")
    assert here.names("nothing") == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/runs/", "/runs/a"),
        ("/odd?name", "/odd?name/a"),
        ("s3://bucket/runs", "s3://bucket/runs/a"),
        ("s3://bucket/runs?endpoint_override=x:1", "s3://bucket/runs/a?endpoint_override=x:1"),
    ],
)
def test_joined(address, expected):
    assert joined(address, "a") == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/runs/a", ("/runs", "a")),
        ("/a/", ("/", "a")),
        ("a", (".", "a")),
        ("/odd/na?me", ("/odd", "na?me")),
        ("s3://bucket/runs/a.zip?endpoint_override=x:1", ("s3://bucket/runs?endpoint_override=x:1", "a.zip")),
    ],
)
def test_parted(address, expected):
    assert parted(address) == expected


def test_patience_tries_again_and_says_so_once(monkeypatch):
    said, answers = [], [OSError("down\nagain"), OSError("down"), "up"]
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)

    def action():
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert patiently(action, said.append) == "up"
    assert said == ["fault: storage does not answer: down again; trying again"]


def test_patience_ends(monkeypatch):
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)
    with pytest.raises(OSError, match="down"):
        patiently(lambda: (_ for _ in ()).throw(OSError("down")), print, pauses_sec=(1, 1))


def test_one_line():
    assert one_line("a\n b") == "a b" and one_line("") == "str" and one_line("x" * 10, 5) == "xx..."
