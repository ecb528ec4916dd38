"""Growing files and images of a run, on a disk and in an object store."""

import json

import pytest
import torch
from support.reports import object_store, row

from stylegan_ray.report.run_files import RunFiles
from stylegan_ray.run_folder import cut
from stylegan_ray.storage import Storage


def started(run):
    cut(run, 0, 0)
    files = RunFiles(run.write)
    files.begin(run, 0)
    return files


def ticks(run):
    return [json.loads(line)["Progress/tick"] for line in run.read("stats.jsonl").splitlines()]


def test_object_stores_are_written_at_sync_only(tmp_path):
    run = object_store(tmp_path.name)
    files = started(run)
    files.tick(row(0))
    assert ticks(run) == []
    files.sync()
    assert ticks(run) == [0]
    copy = files.spool.folder
    files.close()
    assert not copy.exists(), "the local copy is deleted when the run ends"


def test_local_files_grow_in_place(tmp_path):
    run = Storage.at(tmp_path)
    files = started(run)
    for tick in range(2):
        files.tick(row(tick))
        assert ticks(run) == list(range(tick + 1))
    files.close()


def test_lines_that_a_disk_refuses_wait_and_keep_their_order(tmp_path):
    run = Storage.at(tmp_path)
    files = started(run)
    files.tick(row(0))
    whole = run.read("stats.jsonl")
    (tmp_path / "stats.jsonl").unlink()
    (tmp_path / "stats.jsonl").mkdir()  # opening it fails, as on a broken disk
    files.tick(row(1))
    files.tick(row(2))
    with pytest.raises(OSError):
        files.sync()
    (tmp_path / "stats.jsonl").rmdir()
    (tmp_path / "stats.jsonl").write_bytes(whole)
    files.sync()
    assert ticks(run) == [0, 1, 2]
    files.close()


def test_images_are_png_files(tmp_path):
    run = Storage.at(tmp_path)
    files = started(run)
    files.images("fakes000004.250", torch.zeros(3, 4, 5, dtype=torch.uint8), 4250)
    assert run.read("fakes000004.250.png").startswith(b"\x89PNG")
