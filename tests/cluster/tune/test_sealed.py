"""What Ray Tune stores of a sweep's file system."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from support.jobs import ROOT
from support.s3 import s3_server

pytest.importorskip("ray")

from pyarrow import fs

from stylegan_ray.cluster.tune.sealed import sealed
from stylegan_ray.storage import Storage

ADDRESS = "s3://HIDDENUSER:HIDDENWORD@bucket/sweep"
OTHER_PROCESS = """
import pickle, sys
from stylegan_ray.cluster.tune.sealed import introduce
found = pickle.loads(sys.stdin.buffer.read())
introduce("s3://HIDDENUSER:HIDDENWORD@bucket/sweep")
handler = found.handler.filesystem
print(found.open_input_stream("bucket/sweep/a/b").read().decode(), b"HIDDENWORD" in pickle.dumps(handler))
"""


def test_it_is_pickled_without_credentials_and_works_in_another_process(tmp_path):
    with s3_server():
        filesystem = sealed(Storage.at(ADDRESS), ADDRESS)
        content = pickle.dumps(filesystem)
        assert b"HIDDEN" not in content
        filesystem.create_dir("bucket/sweep/a", recursive=True)
        with filesystem.open_output_stream("bucket/sweep/a/b") as stream:
            stream.write(b"here")
        assert filesystem.get_file_info("bucket/sweep/a/b").size == 4
        listed = filesystem.get_file_info(fs.FileSelector("bucket/sweep", recursive=True))
        assert "bucket/sweep/a/b" in [info.path for info in listed]
        words = [sys.executable, "-c", OTHER_PROCESS]
        done = subprocess.run(words, input=content, capture_output=True, cwd=ROOT, check=True)
        assert done.stdout.split() == [b"here", b"True"], "the other process uses the credentials"
        filesystem.delete_file("bucket/sweep/a/b")
        assert filesystem.get_file_info("bucket/sweep/a/b").type == fs.FileType.NotFound


def test_others_stay_as_they_are(tmp_path):
    storage = Storage.at(tmp_path)
    assert sealed(storage, str(tmp_path)) is storage.filesystem
