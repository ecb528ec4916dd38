"""Folders for temporary files, of processes that end and of those that are killed."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from stylegan_ray import scratch

CODE = "from stylegan_ray.scratch import new_folder; (new_folder() / 'file').write_text('x'); print('made', flush=True)"


@pytest.fixture(autouse=True)
def parent(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start(parent, code):
    environment = os.environ | {"TMPDIR": str(parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "made\n"
    return process


def test_a_folder_is_deleted_with_its_process(parent):
    assert start(parent, CODE).wait() == 0
    assert not list(parent.iterdir())


def test_a_folder_of_a_killed_process_is_deleted_by_the_next_and_no_other(parent):
    process = start(parent, f"{CODE}; input()")
    (foreign := parent / "stylegan_ray-0").mkdir()
    (link := parent / f"{scratch.PREFIX}link").symlink_to(foreign)
    (abandoned,) = set(parent.iterdir()) - {foreign, link}
    scratch.delete_folder(scratch.new_folder())
    assert (abandoned / "file").exists(), "its process lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = scratch.new_folder()
    assert set(parent.iterdir()) == {folder, foreign, link}
    scratch.delete_folder(folder)
    scratch.delete_folder(folder)
    assert set(parent.iterdir()) == {foreign, link}


def test_a_folder_that_another_process_took_for_abandoned_is_replaced(parent, monkeypatch):
    opened, numbers = scratch.open_folder, []

    def open_late(folder):
        numbers.append(folder)
        if len(numbers) == 1:
            folder.rmdir()
        return opened(folder)

    monkeypatch.setattr(scratch, "open_folder", open_late)
    folder = scratch.new_folder()
    assert folder == numbers[1] and folder.exists()
    scratch.delete_folder(folder)


def test_a_file_system_without_locks_has_folders_too(monkeypatch):
    monkeypatch.setattr(scratch, "lock", lambda file: False)
    folder = scratch.new_folder()
    assert folder.exists()
    scratch.delete_folder(folder)
