"""A run whose addresses hold credentials: they are in nothing that it writes or prints."""

import os
import tempfile
from pathlib import Path

import pytest
from support.jobs import Job, small_model, write_pictures
from support.s3 import s3_server

from stylegan_ray.storage import Storage

pytestmark = pytest.mark.cluster
SECRETS = (b"HIDDENUSER", b"HIDDENWORD", b"HIDDENTOKEN")
WITH = "s3://HIDDENUSER:HIDDENWORD@bucket"


def files_below(storage, folder=""):
    """The files in a bucket's folder, by path."""
    for info in storage.filesystem.get_file_info(fs_selector(storage.path(folder))):
        if info.is_file:
            with storage.filesystem.open_input_stream(info.path) as stream:
                yield info.path, stream.read()


def fs_selector(path):
    from pyarrow.fs import FileSelector

    return FileSelector(path, recursive=True)


def has_secret(content):
    return any(secret in content for secret in SECRETS)


SWEEP = ["--samples", "1", "--scheduler", "fifo", "--objective", "Loss/D/loss", "--cluster.num_workers", "1"]


@pytest.mark.parametrize(("command", "options"), [("train", []), ("tune", SWEEP)])
def test_no_credential_is_written_or_printed(tmp_path, monkeypatch, command, options):
    """Run folder, networks, checkpoints, log, TensorBoard, cached indices, and Ray's own files of the session."""
    with s3_server(), tempfile.TemporaryDirectory(prefix="sg-", dir="/tmp") as session:
        monkeypatch.setenv("RAY_TMPDIR", session)
        monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))
        bucket = Storage.at("s3://bucket")
        for path in write_pictures(tmp_path / "pictures").rglob("*.png"):
            bucket.write(f"pictures/{path.parent.name}/{path.name}", path.read_bytes())
        words = [*small_model(), "--run.storage", f"{WITH}/runs", "--train.total_kimg", "0.064"]
        job = Job(command, "config-f", f"{WITH}/pictures", *options, *words, storage=tmp_path, log=tmp_path / "job.log")
        assert job.wait(600) == 0, job.text()
        assert not has_secret(job.text().encode()), job.text()
        stored = dict(files_below(bucket, "runs"))
        assert [name for name in stored if name.endswith("network-final.safetensors")]
        assert command == "train" or [name for name in stored if name.endswith("tuner.pkl")]
        assert [name for name in stored if "/tensorboard/" in name] and [name for name in stored if "COMPLETE" in name]
        assert not [name for name, content in stored.items() if has_secret(content) or has_secret(name.encode())]
        local = [path for place in (session, tmp_path) for path in Path(place).rglob("*") if path.is_file()]
        assert not [path for path in local if os.access(path, os.R_OK) and has_secret(path.read_bytes())]
