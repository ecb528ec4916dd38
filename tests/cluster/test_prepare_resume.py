"""A command that prepares data and is ended goes on with the images that it had finished."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from support.data_sets import encoded, noise_picture, numbered, opened, write_folder
from support.jobs import ROOT

from benchmarks.cluster.local_cluster import descendants, kill
from stylegan_ray import cli
from stylegan_ray.cluster.prepare.write import write_task
from stylegan_ray.config import DataConfig
from stylegan_ray.data import formats, write
from stylegan_ray.data.errors import DataError
from stylegan_ray.data.open import open_index
from stylegan_ray.data.options import PrepareOptions
from stylegan_ray.data.write import WriteTask
from stylegan_ray.report.console import ProgressLine

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Watched, which tasks receive


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(write, "PLAN_IMAGES", 2)


class Watched:
    """Images that count how often each is read, and raise an error at one of them."""

    def __init__(self, images, error=None, at=None):
        self.images, self.error, self.at, self.entries = images, error, at, []

    def read(self, entry, name, level):
        if entry == self.at:
            raise self.error
        self.entries.append(entry)
        return self.images.read(entry, name, level)


def run(source, dest, error=None, at=None, order=None, stamp="s", workers=0, **keys):
    """Writes a data set as prepare_data does; returns the entries that were read, where this process reads them."""
    dataset = opened(source, **keys)
    dataset.images = images = Watched(dataset.images, error, at)
    format = formats.by_file_name(str(dest)) or formats.by_name("tfrecords")
    order = np.arange(dataset.num_images) if order is None else order
    task = WriteTask.plan(dataset, format, str(dest), order, stamp)
    options = PrepareOptions(str(source), str(dest), workers=workers, overwrite=True, on_bad_image="skip")
    if error is None:
        write_task(task, options, ProgressLine())
    else:
        with pytest.raises(type(error)):
            write_task(task, options, ProgressLine())
    return images.entries


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.is_dir() else path.read_bytes()


def kept(folder):
    return sorted(folder.glob(".*.finished"))


def leftovers(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "source", numbered(9))


@pytest.mark.parametrize("dest", ["d.zip", "d", "d.parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("storage fails")])
def test_nothing_is_done_twice_and_the_bytes_are_equal(source, tmp_path, capsys, dest, error):
    (tmp_path / "whole").mkdir()
    assert run(source, tmp_path / "whole" / dest) == list(range(9))
    capsys.readouterr()
    order = np.array([8, 1, 2, 7, 4, 5, 6, 3, 0])
    assert run(source, tmp_path / "whole" / dest, order=order) == order.tolist()
    assert run(source, tmp_path / dest, error, 5, order) == [8, 1, 2, 7, 4]
    assert not (tmp_path / dest).exists() and len(kept(tmp_path)) == 1
    assert f"4 of 9 images are finished, and kept in {tmp_path}" in capsys.readouterr().out
    assert run(source, tmp_path / dest, error, 3, order) == [4, 5, 6]
    assert run(source, tmp_path / dest, order=order) == [6, 3, 0]
    assert "Going on with 6 of 9 images" in capsys.readouterr().out
    assert content(tmp_path / dest) == content(tmp_path / "whole" / dest)
    assert not leftovers(tmp_path)


def test_tasks_go_on_with_what_others_have_finished(ray_local, source, tmp_path, capsys):
    run(source, tmp_path / "whole.zip")
    run(source, tmp_path / "d.zip", OSError("storage fails"), 5, workers=2)
    assert "4 of 9 images are finished" in capsys.readouterr().out
    run(source, tmp_path / "d.zip", workers=2)
    assert "Going on with 4 of 9 images" in capsys.readouterr().out
    assert content(tmp_path / "d.zip") == content(tmp_path / "whole.zip") and not leftovers(tmp_path)


@pytest.mark.parametrize(
    "change", [{"resolution": 8, "resize": "box"}, {"order": np.arange(9)[::-1]}, {"stamp": "t"}, {"mirror": True}]
)
def test_other_options_or_data_start_anew(source, tmp_path, capsys, change):
    run(source, tmp_path / "d.zip", KeyboardInterrupt(), 5)
    if change.pop("mirror", False):
        for path in source.iterdir():
            path.write_bytes(encoded(noise_picture(99 - int(path.stem))))
    assert len(run(source, tmp_path / "d.zip", **change)) == 9
    assert "with other options or data" in capsys.readouterr().out and not leftovers(tmp_path)


def test_another_destination_keeps_what_is_not_its_own(source, tmp_path):
    run(source, tmp_path / "d.zip", KeyboardInterrupt(), 5)
    assert len(run(source, tmp_path / "e.zip")) == 9
    assert len(kept(tmp_path)) == 1 and run(source, tmp_path / "d.zip") == [4, 5, 6, 7, 8]


def test_an_error_that_would_come_again_keeps_nothing(source, tmp_path):
    run(source, tmp_path / "d.zip", DataError("no"), 5)
    assert not leftovers(tmp_path)


def test_plans_with_unreadable_images_are_done_again(source, tmp_path):
    (source / "002.png").write_bytes(encoded(noise_picture(2))[:-99])
    keys = {"on_bad_image": "skip"}
    assert run(source, tmp_path / "d.zip", KeyboardInterrupt(), 8, **keys) == [0, 1, 3, 4, 5, 6, 7]
    assert run(source, tmp_path / "d.zip", **keys) == [3, 8]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "head", "garbage"])
def test_damaged_records_are_done_again(source, tmp_path, damage):
    run(source, tmp_path / "whole.zip")
    run(source, tmp_path / "d.zip", KeyboardInterrupt(), 8)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    size = len(whole) // 4
    path.write_bytes(
        {
            "truncated": whole[: 2 * size + 100],
            "flipped": whole[: size + 99] + bytes([whole[size + 99] ^ 1]) + whole[size + 100 :],
            "head": whole[: 2 * size] + b"\xff" * 16 + whole[2 * size + 16 :],
            "garbage": bytes(range(256)) * 40,
        }[damage]
    )
    read = {"truncated": range(4, 9), "flipped": [2, 3, 8], "head": range(4, 9), "garbage": range(9)}[damage]
    assert run(source, tmp_path / "d.zip") == list(read)
    assert content(tmp_path / "d.zip") == content(tmp_path / "whole.zip")


def test_a_link_in_its_place_is_not_followed(source, tmp_path, capsys):
    run(source, tmp_path / "d.zip", KeyboardInterrupt(), 8)
    (path,) = kept(tmp_path)
    path.unlink()
    (tmp_path / "precious").write_bytes(b"mine")
    path.symlink_to(tmp_path / "precious")
    assert len(run(source, tmp_path / "d.zip")) == 9
    assert "are not kept" in capsys.readouterr().out and (tmp_path / "precious").read_bytes() == b"mine"


def test_a_file_that_grows_too_large_is_given_up(source, tmp_path, capsys):
    """As on a disk that fills up; the finished images of all TFRecord files are together larger than the largest."""
    run(source, tmp_path / "whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(map(len, content(tmp_path / "whole").values())), limits[1]))
    capsys.readouterr()
    try:
        run(source, tmp_path / "d")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "are not kept (File too large)" in capsys.readouterr().out and not leftovers(tmp_path)
    assert {name.partition("-")[2]: data for name, data in content(tmp_path / "d").items()} == {
        name.partition("-")[2]: data for name, data in content(tmp_path / "whole").items()
    }


def test_there_must_be_room_for_the_destination_too(source, tmp_path, monkeypatch, capsys):
    """The image bytes of a zip are known: 9 x (768 + 300); the file is given up where they would not fit."""
    free = iter([10_000, 20_000, 8_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    assert len(run(source, tmp_path / "d.zip")) == 9
    assert "are not kept (" in capsys.readouterr().out and (tmp_path / "d.zip").exists() and not leftovers(tmp_path)


def test_a_destination_in_object_storage_keeps_them_in_the_cache(source, tmp_path, cache):
    (tmp_path / "store").mkdir()
    dest = f"file://{tmp_path}/store/d.zip"
    run(source, dest, KeyboardInterrupt(), 5)
    assert len(list((tmp_path / "cache/finished").iterdir())) == 1 and not list((tmp_path / "store").glob("*finished"))
    assert run(source, dest) == [4, 5, 6, 7, 8] and not list((tmp_path / "cache/finished").iterdir())


def test_a_changed_image_is_seen_by_its_times(source):
    """Of large data sets only the first bytes are compared."""
    before = open_index(DataConfig(path=str(source)))[1].stamp
    assert open_index(DataConfig(path=str(source)))[1].stamp == before
    os.utime(source / "004.png", (1, 1))
    assert open_index(DataConfig(path=str(source)))[1].stamp != before


# Kills of the command itself.


def command(source, dest, workers):
    words = [source, dest, "--resolution", "512", "--workers", workers]
    return [sys.executable, str(Path(ROOT, "jobs/prepare_data.py")), *map(str, words)]


def kill_when_finished(words, folder, num_bytes, sec=900):
    """Starts a command, and ends it and all that it has started by SIGKILL when so much is kept."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(words, start_new_session=True, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + sec
        while not any(path.stat().st_size >= num_bytes for path in kept(folder)):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.005)
    finally:
        started = descendants(process.pid)
        process.kill()
        process.wait()
        kill(started)


def check_kill(source, tmp_path, workers):
    """84 images of 512 px, 21 at a time in 16.5 MB."""
    assert cli.run(cli.prepare_data, command(source, tmp_path / "whole.zip", 0)[2:]) == 0
    kill_when_finished(command(source, tmp_path / "d.zip", workers), tmp_path, 17_000_000)
    assert not (tmp_path / "d.zip").exists() and len(kept(tmp_path)) == 1
    done = subprocess.run(command(source, tmp_path / "d.zip", workers), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = re.search(r"Going on with (\d+) of 84 images", done.stdout)
    assert found and 21 <= int(found[1]) <= 63
    assert content(tmp_path / "d.zip") == content(tmp_path / "whole.zip") and not leftovers(tmp_path)


@pytest.fixture
def many(tmp_path):
    return write_folder(tmp_path / "many", numbered(84, size=(64, 64)))


def test_a_killed_command_goes_on(many, tmp_path):
    check_kill(many, tmp_path, workers=0)


@pytest.mark.cluster
def test_a_killed_command_with_tasks_goes_on(many, tmp_path):
    check_kill(many, tmp_path, workers=2)
