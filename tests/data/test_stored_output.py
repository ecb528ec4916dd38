"""Data sets in object storage, which renames nothing: what is not whole is not read, and the next writer deletes it.

A folder with an address (file://) stands for object storage.
"""

import os
from contextlib import suppress

import pytest
from support.data_sets import numbered, opened, write_folder

from stylegan_ray import cli
from stylegan_ray.data import DataError, atomic_output
from stylegan_ray.data.atomic_output import StoredOutput, delete_leftovers


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def prepare(tmp_path):
    """Writes pictures of 16 px to a folder with an address; returns the status."""
    source = write_folder(tmp_path / "pictures", numbered(6))

    def call(dest, *words):
        return cli.run(cli.prepare_data, [str(source), f"file://{tmp_path}/{dest}", "--workers", "0", *words])

    return call


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def kill_after(monkeypatch, num_closed):
    """Ends a writer where it has closed so many files."""
    closed, whole_open = [], StoredOutput.open

    def open_file(self, name):
        stream = whole_open(self, name)
        close = stream.close

        class Stream:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                if len(closed) == num_closed:
                    raise Killed
                closed.append(name)
                close()

            def __getattr__(self, key):
                return getattr(stream, key)

        return Stream()

    monkeypatch.setattr(StoredOutput, "open", open_file)
    monkeypatch.setattr(StoredOutput, "abandon", lambda self: None)


def names(folder):
    return sorted(name for name in os.listdir(folder) if not name.startswith(".lease"))


def test_a_killed_writer_of_tfrecords(prepare, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, suppress(Killed):
        kill_after(patch, 2)
        prepare("d")
    assert ".unfinished" in names(tmp_path / "d") and len(names(tmp_path / "d")) > 2
    with pytest.raises(DataError, match="ended before it was whole"):
        opened(f"file://{tmp_path}/d")
    assert prepare("d") == 0  # without --overwrite: what is there is no data set
    assert names(tmp_path / "d") == [f"d-r0{level}.tfrecords" for level in (2, 3, 4)]
    assert opened(f"file://{tmp_path}/d").num_images == 6


def test_a_killed_writer_that_replaces_a_data_set(prepare, tmp_path, monkeypatch):
    assert prepare("d") == 0
    with monkeypatch.context() as patch, suppress(Killed):
        kill_after(patch, 1)
        prepare("d", "--overwrite", "--resolution", "8")
    with pytest.raises(DataError, match="ended before it was whole"):
        opened(f"file://{tmp_path}/d")
    assert prepare("d", "--resolution", "8") == 0
    assert names(tmp_path / "d") == ["d-r02.tfrecords", "d-r03.tfrecords"]


def test_a_writer_that_is_killed_before_its_first_file_leaves_the_older_data_set(prepare, tmp_path):
    assert prepare("d") == 0
    output = StoredOutput(f"file://{tmp_path}/d", is_file=False)
    output.begin()
    with pytest.raises(DataError, match="still running"):
        opened(f"file://{tmp_path}/d")
    delete_leftovers(f"file://{tmp_path}/d", is_file=False)
    assert opened(f"file://{tmp_path}/d").num_images == 6


def test_a_zip_that_is_not_whole(prepare, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, suppress(Killed):
        kill_after(patch, 0)
        prepare("d.zip")
    assert names(tmp_path).count(".d.zip.unfinished") == 1
    with pytest.raises(DataError, match="ended before it was whole"):
        opened(f"file://{tmp_path}/d.zip")
    assert prepare("d.zip") == 0
    assert opened(f"file://{tmp_path}/d.zip").num_images == 6 and ".d.zip.unfinished" not in names(tmp_path)


def test_an_error_leaves_nothing(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_output.StoredOutput, "finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare("d")
    assert names(tmp_path / "d") == []


def test_a_mark_cannot_name_files_elsewhere(prepare, tmp_path):
    (tmp_path / "kept").write_bytes(b"")
    write_folder(tmp_path / "d", {".unfinished": b'{"older": [], "opened": ["../kept", "kept", "/kept"]}'})
    assert prepare("d") == 0 and (tmp_path / "kept").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 10_000, b'{"older": 1, "opened": []}', b"\xff"])
def test_a_mark_that_is_none(prepare, tmp_path, capsys, content):
    write_folder(tmp_path / "d", {".unfinished": content})
    assert prepare("d") == 2
    assert ".unfinished" in capsys.readouterr().err
