"""Files are written whole, addresses are joined and split, failed actions are retried."""

import os
from pathlib import Path

import pytest
from support.s3 import s3_server

from stylegan_ray import storage
from stylegan_ray.storage import (
    Storage,
    delete_old_partials,
    extend_address,
    join_address,
    one_line,
    retry,
    split_address,
    write_file,
)
from stylegan_ray.untrusted import BadFileError


def test_a_file_that_cannot_be_written_keeps_its_old_content(tmp_path, monkeypatch):
    here = Storage.at(tmp_path)
    here.write("a/b", b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        here.write("a/b", b"new")
    assert here.read("a/b") == b"old" and here.names("a") == ["b"], "a full disk keeps no partial file"


def test_a_file_is_copied_within_a_storage(tmp_path):
    here = Storage.at(tmp_path)
    with s3_server():
        for storage in (here, Storage.at("s3://bucket/runs")):
            storage.write("a/b", bytes(200_000))
            storage.copy("a/b", "c")
            assert storage.read("c") == storage.read("a/b") == bytes(200_000)
            with pytest.raises(OSError):
                storage.copy("a/missing", "c")
            assert storage.size("c") == 200_000 and storage.names() == ["a", "c"]


def test_no_file_replaces_a_pipe_or_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileExistsError, match=f"{name} is a folder, device, pipe or socket"):
            Storage.at(tmp_path).write(name, b"a")
        with pytest.raises(FileExistsError, match=f"{name} is a folder, device, pipe or socket"):
            write_file(tmp_path / name, b"a")
    assert (tmp_path / "pipe").is_fifo() and Storage.at(tmp_path).names() == ["folder", "pipe"]


def test_a_link_that_a_user_names_is_followed_and_one_in_a_folder_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    for content in (b"first", b"second"):
        assert write_file(tmp_path / "link", content) == str(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_bytes() == content
    Storage.at(tmp_path).write("link", b"third")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_bytes() == b"second"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, error in (("to_pipe", FileExistsError), ("loop", OSError)):
        with pytest.raises(error):
            write_file(tmp_path / name, b"a")
        assert (tmp_path / name).is_symlink()


@pytest.mark.parametrize("address", ["", "s3://", "gs:///", "s3://?region=eu"])
def test_an_address_that_names_no_place(address):
    with pytest.raises(BadFileError, match=r"names no bucket; write [sg][s3]://BUCKET/PATH|is empty"):
        Storage.at(address)


def test_two_writers_of_one_process_number_do_not_share_a_partial_file(tmp_path):
    """Containers count their processes each for itself, and write into one folder."""
    with storage.whole_file(tmp_path / "a") as one, storage.whole_file(tmp_path / "a") as other:
        Path(one).write_bytes(b"one")
        Path(other).write_bytes(b"other")
    assert (tmp_path / "a").read_bytes() == b"one" and Storage.at(tmp_path).names() == ["a"]


def test_what_killed_writers_left_is_deleted(tmp_path):
    living = f"a.png.{os.getppid()}-0123abcd.part"
    for name in (f"a.png.{os.getpid()}-0123abcd.part", "a.png.99999999-0123abcd.part", living, "b.png.7-0123abcd.part"):
        (tmp_path / name).write_bytes(b"")
    storage.delete_partials(tmp_path, {"a.png"})
    assert sorted(Storage.at(tmp_path).names()) == sorted([living, "b.png.7-0123abcd.part"])


def test_what_killed_writers_left_in_a_cache_goes_when_it_is_old(tmp_path, monkeypatch):
    for name in ("a.npz", "a.npz.12.part"):
        (tmp_path / name).write_bytes(b"")
    delete_old_partials(tmp_path)
    assert Storage.at(tmp_path).names() == ["a.npz", "a.npz.12.part"]
    monkeypatch.setattr(storage, "OLD_SEC", -1.0)
    delete_old_partials(tmp_path)
    assert Storage.at(tmp_path).names() == ["a.npz"]
    delete_old_partials(tmp_path / "nothing")


def test_deleting_a_missing_file_is_no_error(tmp_path):
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
def test_join_address(address, expected):
    assert join_address(address, "a") == expected


def test_the_address_beside_another_keeps_its_query():
    assert (
        extend_address("s3://bucket/set.zip?region=eu", ".changes.json") == "s3://bucket/set.zip.changes.json?region=eu"
    )
    assert [extend_address(path, ".x") for path in ("set.zip", "/sets/a/")] == ["./set.zip.x", "/sets/a.x"]


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
def test_split_address(address, expected):
    assert split_address(address) == expected


def test_retry_repeats_the_action_and_reports_the_first_failure():
    said, answers = [], [OSError("down\nagain"), OSError("down"), "up"]

    def action():
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert retry(action, said.append, pauses_sec=(0, 0, 0)) == "up"
    assert len(said) == 1 and said[0].startswith("fault: storage") and "down again" in said[0]


def test_retry_raises_the_error_of_the_last_attempt():
    errors = [OSError("first"), OSError("second"), OSError("last")]

    def action():
        raise errors.pop(0)

    with pytest.raises(OSError, match="last"):
        retry(action, print, pauses_sec=(0, 0))
    assert not errors


def test_one_line():
    assert one_line("a\n b") == "a b" and one_line("") == "str" and one_line("x" * 10, 5) == "xx..."


def test_a_web_address_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"https://host/net.pkl' is a web address: download"):
        Storage.at("https://host/net.pkl")


def test_names_that_are_no_text(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).touch()
    (tmp_path / "b").mkdir()
    assert [name.isascii() for name in Storage.at(tmp_path).names()] == [True, False]
    assert Storage.at(tmp_path).names("absent") == []
