"""Pictures and runs in object storage: what is read, written, cut and continued there."""

import json
import zipfile

import pytest
import torch
from safetensors.torch import load
from support.jobs import Job, small_model, write_pictures
from support.plain import train_without_ray
from support.processes import spawn
from support.s3 import s3_server

from stylegan_ray.storage import Storage

pytestmark = pytest.mark.cluster


def zipped(folder):
    """The pictures of a folder in a zip."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for picture in sorted(folder.rglob("*.png")):
            archive.write(picture, picture.relative_to(folder))
    return path.read_bytes()


def ticks(run):
    """The ticks that stand in the bucket."""
    return run.read("stats.jsonl").count(b"\n") if run.exists("stats.jsonl") else 0


def test_a_run_in_a_bucket_is_killed_and_continues_bit_for_bit(tmp_path):
    with s3_server():
        bucket = Storage.at("s3://bucket")
        bucket.write("pictures.zip", zipped(write_pictures(tmp_path / "pictures")))
        run = Storage.at("s3://bucket/runs/run")
        words = [*small_model(), "--run.name", "run", "--cluster.num_workers", "2", "--train.total_kimg", "1.28"]
        words += ["--train.checkpoint_ticks", "1", "--run.storage", "s3://bucket/runs"]
        command = ["train", "config-f", "s3://bucket/pictures.zip", *words]

        first = Job(*command, storage=tmp_path, log=tmp_path / "first.log")
        try:
            first.wait_for(lambda: ticks(run) >= 4, 300)
        finally:
            first.kill()
        second = Job(*command, storage=tmp_path, log=tmp_path / "second.log")
        assert second.wait(600) == 0, second.text()
        assert "from ckpt-" in second.text(), second.text()

        (tmp_path / "config.yaml").write_bytes(run.read("config.yaml"))
        spawn(train_without_ray, (2, str(tmp_path), str(tmp_path / "plain.pt")), nprocs=2)
        plain = torch.load(tmp_path / "plain.pt")
        for name, value in load(run.read("network-final.safetensors")).items():
            assert value.equal(plain["tensors"][name]), name
        rows = [json.loads(line) for line in run.read("stats.jsonl").splitlines()]
        assert [row["Progress/tick"] for row in rows] == [row["Progress/tick"] for row in plain["rows"]]
        assert {"reals.png", "fakes_init.png", "log.txt", "tensorboard"} <= set(run.names())
