"""Files through pyarrow, as in an object store, give what a local disk gives."""

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.data_sets import numbered, opened, write_folder, write_zip

from stylegan_ray.data import DataError
from stylegan_ray.data import files as data_files
from stylegan_ray.data.files import LocalFiles, StoredFiles, files_at
from stylegan_ray.data.left_out import is_hidden, is_hidden_part


@pytest.fixture
def both(tmp_path):
    write_folder(tmp_path / "d", {"b/2.bin": b"2" * 1000, "a.bin": bytes(range(256)), "b/1.bin": b""})
    return files_at(str(tmp_path / "d")), files_at(f"file://{tmp_path}/d")


def test_local_and_stored_files_agree(both):
    local, stored = both
    assert isinstance(local, LocalFiles) and isinstance(stored, StoredFiles)
    assert [info[:2] for info in local.listing()] == [("a.bin", 256), ("b/1.bin", 0), ("b/2.bin", 1000)]
    assert local.listing() == stored.listing()
    for files in (local, stored, pickle.loads(pickle.dumps(local)), pickle.loads(pickle.dumps(stored))):
        assert files.info("b/2.bin") == local.info("b/2.bin")
        assert files.read("a.bin") == bytes(range(256))
        assert files.read_at("a.bin", 250, 100) == bytes(range(250, 256))
        with files.open("a.bin") as file:
            file.seek(-2, 2)
            assert file.read() == b"\xfe\xff"
        with pytest.raises(FileNotFoundError):
            files.info("c.bin")


def test_stored_data_sets(tmp_path):
    write_folder(tmp_path / "d", numbered(4))
    write_zip(tmp_path / "d.zip", numbered(4))
    for name in ("d", "d.zip"):
        local, stored = opened(tmp_path / name), opened(f"file://{tmp_path}/{name}")
        assert local.fingerprint == stored.fingerprint
        np.testing.assert_array_equal(local.read(3), pickle.loads(pickle.dumps(stored)).read(3))
    with pytest.raises(DataError, match="does not exist"):
        opened(f"file://{tmp_path}/none.zip")
    with pytest.raises(DataError, match="does not exist"):
        opened(f"file://{tmp_path}/none")
    with pytest.raises(DataError, match="cannot be opened"):
        opened("nonsense://bucket/d")


def test_many_threads_read_one_file(tmp_path):
    content = np.random.default_rng(0).bytes(1 << 16)
    write_folder(tmp_path / "d", {"a.bin": content})
    for _ in range(20):
        files = files_at(str(tmp_path / "d"))
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda at, files=files: files.read_at("a.bin", at, 512), range(0, 1 << 16, 512))
            assert b"".join(parts) == content


@pytest.mark.parametrize(
    "name",
    [".a", "a/.b/c.png", "a.b/c", "__MACOSX/x", "x__MACOSX/y", "__macosxy/z", "a/@eaDir", "@eaDirx/a", "a/lost+found/b",
     "lostt+found/b", "#Recycle/a", "System Volume Information/a", "$RECYCLE.BIN", "a//b", "/", "",
     "..", "a\n/.b", ".\n", "lost+found\n/a", "İ/.a", "ſystem volume information/a"],
)  # fmt: skip
def test_hidden_names_are_found_in_one_pass(name):
    assert is_hidden(name) == any(map(is_hidden_part, name.split("/")))


def test_a_fault_of_an_object_store_has_an_errno():
    """By which it is told from what decoders raise: a timeout is no bad image."""
    with pytest.raises(OSError, match="NETWORK_CONNECTION") as caught, data_files._faults_of_storage():
        raise OSError("When reading information: AWS Error NETWORK_CONNECTION")
    assert caught.value.errno == errno.EIO


def test_few_files_are_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "MOST_HANDLES", 3)
    found = files_at(str(write_folder(tmp_path / "d", {f"{i}.bin": bytes([i]) for i in range(8)})))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [found.read_at(f"{i}.bin", 0, 1) for i in range(8)] == [bytes([i]) for i in range(8)]
    assert len(os.listdir("/proc/self/fd")) <= before + 3
