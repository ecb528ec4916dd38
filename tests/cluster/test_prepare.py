"""Preparing and checking data sets, as the command does it."""

import json
import os
import resource
import shlex
import shutil
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs
from support.data_sets import chw, encoded, label_json, noise_picture, numbered, opened, write_folder, write_zip
from support.jobs import Job
from support.s3 import s3_server

from stylegan_ray import cli
from stylegan_ray.data import scan, write
from stylegan_ray.data.formats import parquet
from stylegan_ray.options import train_options
from stylegan_ray.storage import Storage


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))


def run(*words, workers=0):
    return cli.run(cli.prepare_data, [*map(str, words), "--workers", str(workers)])


def pixels(path, **keys):
    data = opened(path, **keys)
    return np.stack([data.read(i) for i in range(data.num_images)])


def labels(path):
    data = opened(path, cond=True, shuffle="blocks")
    return data.labels(np.arange(data.num_images)).tolist()


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def source(tmp_path):
    """Seven images with a class each."""
    named = [[name, i % 3] for i, name in enumerate(numbered(7))]
    return write_folder(tmp_path / "source", {**numbered(7), "dataset.json": label_json(named)})


@pytest.mark.parametrize("dest", ["d.zip", "d", "d.parquet"])
def test_workers_on_ray_write_what_one_process_writes(ray_local, source, tmp_path, monkeypatch, dest):
    monkeypatch.setattr(write, "PLAN_IMAGES", 2)
    (tmp_path / "one").mkdir()
    assert run(source, tmp_path / "one" / dest) == 0
    assert run(source, tmp_path / dest, workers=2) == 0
    one, ray = tmp_path / "one" / dest, tmp_path / dest
    assert content(ray) == content(one) if ray.is_dir() else ray.read_bytes() == one.read_bytes()
    assert pixels(ray).shape == (7, 3, 16, 16)


def test_a_bad_image_in_a_task_is_one_clear_error(ray_local, source, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(write, "PLAN_IMAGES", 2)
    monkeypatch.setattr(scan, "DECODE_UP_TO", 0)
    (source / "004.png").write_bytes(encoded(noise_picture(1))[:-200])
    assert run(source, tmp_path / "d.zip", workers=2) == 2
    error = capfd.readouterr().err
    assert "'004.png'" in error and "--on-bad-image skip" in error and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "source"]


def test_zip_is_that_of_the_original_tool(source, tmp_path, capsys):
    assert run(source, tmp_path / "d.zip") == 0
    output = capsys.readouterr().out
    assert "7 images of 16x16" in output and f"{tmp_path}/d.zip" in output
    assert f"train auto {tmp_path}/d.zip --data.cond" in output
    with zipfile.ZipFile(tmp_path / "d.zip") as archive:
        names = [f"00000/img{i:08d}.png" for i in range(7)]
        assert archive.namelist() == [*names, "dataset.json"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        assert archive.read("dataset.json") == label_json([[name, i % 3] for i, name in enumerate(names)])
        image = archive.read(names[3])
    assert image == encoded(noise_picture(3), compress_level=0)


def test_tfrecords_are_shuffled_like_the_originals(source, tmp_path):
    assert run(source, tmp_path / "set") == 0
    assert run(source, tmp_path / "plain", "--no-shuffle") == 0
    assert sorted(content(tmp_path / "set")) == [f"set-r0{k}.tfrecords" for k in (2, 3, 4)] + ["set-rxx.labels"]
    order = np.arange(7)
    np.random.RandomState(123).shuffle(order)
    np.testing.assert_array_equal(pixels(tmp_path / "set"), pixels(source)[order])
    np.testing.assert_array_equal(pixels(tmp_path / "plain"), pixels(source))
    assert labels(tmp_path / "set") == np.eye(3)[order % 3].tolist()


def in_other_formats(root):
    """The seven images with classes in every other format that can be read."""
    images = {name: encoded(image) for name, image in numbered(7).items()}
    named = label_json([[name, i % 3] for i, name in enumerate(images)])
    yield write_zip(root / "s.zip", {**images, "dataset.json": named})
    (root / "tar").mkdir()
    with tarfile.open(root / "tar/0.tar", "w") as archive:
        for i, (name, image) in enumerate(images.items()):
            write_folder(root / "members", {name: image, name.replace("png", "cls"): b"%d" % (i % 3)})
            for member in (name, name.replace("png", "cls")):
                archive.add(root / "members" / member, member)
    yield root / "tar"
    (root / "parquet").mkdir()
    rows = [{"image": {"bytes": image, "path": name}, "label": i % 3} for i, (name, image) in enumerate(images.items())]
    pq.write_table(pa.Table.from_pylist(rows), root / "parquet/0.parquet", row_group_size=3)
    yield root / "parquet"


def test_every_format_gives_the_same_set(source, tmp_path):
    assert run(source, tmp_path / "d") == 0
    for number, path in enumerate([*in_other_formats(tmp_path), tmp_path / "d"]):
        (tmp_path / str(number)).mkdir()
        order = "--no-shuffle" if path == tmp_path / "d" else "--shuffle"
        assert run(path, tmp_path / str(number) / "d", order) == 0
        assert content(tmp_path / str(number) / "d") == content(tmp_path / "d"), path
    assert run(tmp_path / "d", tmp_path / "again.zip") == 0
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        assert {label for _, label in json.loads(archive.read("dataset.json"))["labels"]} == {0, 1, 2}


def test_parquet_as_one_file_and_as_shards(source, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "PLAN_IMAGES", 2)
    monkeypatch.setattr(parquet, "SHARD_BYTES", 5000)
    assert run(source, tmp_path / "d.parquet") == 0
    assert run(source, tmp_path / "d", "--format", "parquet") == 0
    assert sorted(content(tmp_path / "d")) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    for path in (tmp_path / "d.parquet", tmp_path / "d"):
        np.testing.assert_array_equal(pixels(path, shuffle="blocks"), pixels(source))
        assert labels(path) == np.eye(3)[np.arange(7) % 3].tolist()


def test_real_valued_labels_stay_what_they_are(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    named = [[name, value] for name, value in zip(numbered(4), values.tolist(), strict=True)]
    source = write_folder(tmp_path / "source", {**numbered(4), "dataset.json": label_json(named)})
    for dest in ("d.zip", "d.parquet", "d"):
        assert run(source, tmp_path / dest, "--no-shuffle") == 0
        assert labels(tmp_path / dest) == values.tolist()


def test_images_are_cropped_and_scaled(tmp_path, capsys):
    files = {
        "a.png": noise_picture(0, (40, 70)),
        "b.png": noise_picture(1, (32, 32)),
        "c.png": noise_picture(2, (20, 20)),
    }
    source = write_folder(tmp_path / "source", files)
    assert run(source, tmp_path / "d.zip", "--resolution", "32", "--channels", "1") == 0
    assert "1 images are smaller than 32x32" in capsys.readouterr().out
    keys = {"resolution": 32, "channels": 1, "crop": "center", "resize": "lanczos"}
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), pixels(source, **keys))
    assert run(write_folder(tmp_path / "wide", numbered(2, size=(16, 32))), tmp_path / "e.zip") == 0
    assert pixels(tmp_path / "e.zip").shape == (2, 3, 16, 32), "without --resolution nothing is cropped"
    assert run(source, tmp_path / "f", "--resolution", "16x32") == 0
    assert pixels(tmp_path / "f").shape == (3, 3, 16, 32)


def test_unreadable_images_are_left_out_with_their_labels(source, tmp_path, capsys):
    (source / "002.png").write_bytes(b"no image")
    assert run(source, tmp_path / "d.zip") == 2
    assert "--on-bad-image skip" in (error := capsys.readouterr().err) and "data." not in error
    for dest in ("d.zip", "d"):
        assert run(source, tmp_path / dest, "--on-bad-image", "skip", "--no-shuffle") == 0
        assert "Left out  1 images" in capsys.readouterr().out
        assert labels(tmp_path / dest) == np.eye(3)[np.delete(np.arange(7), 2) % 3].tolist()
        np.testing.assert_array_equal(pixels(tmp_path / dest)[2], chw(noise_picture(3)))


@pytest.mark.parametrize("dest", ["d.zip", "d"])
def test_a_data_set_is_replaced_on_request_and_only_by_a_complete_one(source, tmp_path, monkeypatch, capsys, dest):
    path = tmp_path / dest
    assert run(source, path) == 0
    before = pixels(path)
    assert run(source, path) == 2 and "--overwrite" in capsys.readouterr().err
    monkeypatch.setattr(scan, "DECODE_UP_TO", 0)
    other = write_folder(
        tmp_path / "other", {**numbered(3, size=(32, 32)), "9.png": encoded(noise_picture(1, (32, 32)))[:-99]}
    )
    assert run(other, path, "--overwrite") == 2
    np.testing.assert_array_equal(pixels(path), before)
    (other / "9.png").unlink()
    assert run(other, path, "--overwrite") == 0
    assert pixels(path).shape == (3, 3, 32, 32)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["cache", "source", "other", dest])


def test_a_file_that_cannot_be_written_leaves_nothing(source, tmp_path, capsys):
    """As on a full disk; the largest file of the data set has 5.7 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        assert run(source, tmp_path / "d") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in capsys.readouterr().err
    assert not (tmp_path / "d").exists() and not list(tmp_path.glob(".d*"))


def test_a_job_refuses_relative_paths(monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert run("openmoji", "d.zip") == 2
    assert "DEST='d.zip' is relative" in capsys.readouterr().err


# The data doctor.


def test_check_of_a_good_set(source, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert run(source, "--check") == 0
    output = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before, "it writes nothing"
    rows = dict(
        line.split(maxsplit=1) for line in output.splitlines() if not line.startswith((" ", "reading", "checking"))
    )
    assert rows["Images"] == "7 (folder)" and rows["Formats"] == "PNG 7" and rows["Sizes"].startswith("16x16 7")
    assert rows["Unreadable"] == rows["Duplicates"] == rows["Transparent"] == "none"
    assert rows["Labels"] == "3 classes of 2 to 3 images, median 2"
    assert rows["Train"].endswith(f"train auto {source} --data.cond")


def test_check_finds_what_is_wrong_and_its_advice_works(ray_local, tmp_path, monkeypatch, capsys):
    files = {
        "a.png": noise_picture(0, (40, 40)), "b.webp": encoded(noise_picture(0, (40, 40)), "WEBP", lossless=True),
        "c.jpg": encoded(noise_picture(1, (48, 36)), "JPEG"), "d.png": noise_picture(2, (40, 40), "L"),
        "e.png": noise_picture(3, (40, 40), "RGBA"), "f.png": b"no image",
        "g.png": encoded(noise_picture(4, (40, 40)))[:-300],
    }  # fmt: skip
    files |= {f"{i}.png": noise_picture(9, (40, 40)) for i in range(120)}
    source = write_folder(tmp_path / "source", files)
    assert run(source, "--check", workers=2) == 1
    output = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in output.splitlines() if line[:1].isupper())
    assert rows["Formats"] == "PNG 123, WEBP 1, JPEG 1" and rows["Modes"] == "RGB 123, L 1, RGBA 1"
    assert rows["Sizes"] == "40x40 124, 48x36 1 (height x width)"
    assert rows["Duplicates"].startswith("120: ") and "a.png = b.webp" in rows["Duplicates"]
    assert rows["Transparent"] == "1: e.png" and rows["Unreadable"] == "2"
    assert "f.png: " in output and "g.png: image file is truncated" in output
    options = rows["Train"].partition(f"{source} ")[2].split()
    keys = {name.removeprefix("--data."): value for name, value in zip(options[::2], options[1::2], strict=True)}
    data = opened(source, **{key: int(value) if value.isdigit() else value for key, value in keys.items()})
    assert data.shape() == (3, 32, 32) and data.num_images == 127


def test_check_recommends_the_options_that_were_given(tmp_path, capsys):
    source = write_folder(tmp_path / "source", {f"{i}.png": noise_picture(i, (40, 48), "RGBA") for i in range(3)})
    assert run(source, "--check", "--resolution", "16x24", "--alpha", "black", "--on-bad-image", "skip") == 0
    train = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Train"))
    options = train_options(train.split(" train ")[1].split()).cfg.data
    assert (options.resolution, options.crop, options.resize) == ((16, 24), "center", "lanczos")
    assert (options.alpha, options.on_bad_image) == ("black", "skip")


def test_check_of_tfrecords(source, tmp_path, capsys):
    assert run(source, tmp_path / "d") == 0
    file = tmp_path / "d/d-r04.tfrecords"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    assert run(tmp_path / "d", "--check") == 1
    assert "d-r04.tfrecords#1: " in (output := capsys.readouterr().out) and "TFRecord 6" in output
    file.write_bytes(whole[:-5])
    assert run(tmp_path / "d", "--check") == 1
    assert "d-r04.tfrecords is truncated" in capsys.readouterr().out


def test_check_of_nothing_readable(tmp_path, capsys):
    assert run(write_folder(tmp_path / "d", {"a.png": b"", "b.png": b"x"}), "--check") == 1
    assert "Train" not in capsys.readouterr().out
    assert run(tmp_path / "absent", "--check") == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("{s}", "DEST is missing"),
        ("{s} {s}", "is SOURCE itself"),
        ("{s} {t}/d.tar", "or a folder"),
        ("{s} {t}/d --format zip", "ends in .zip"),
        ("{s} {t}/d.zip --format tfrecords", "give a folder"),
        ("{s} {t}/d --resolution 16x", "--resolution 16x must be a side or height x width"),
        ("{s} {t}/d --resolution 17", "resolution 17 x 17 cannot be trained"),
        ("{s} {t}/d --resolution 32 --resize none", "--resolution=32x32, but SOURCE"),
        ("{s} {t}/d --subset 0", "--subset=0"),
        ("{s} {t}/d --shuffle --no-shuffle", "--shuffle and --no-shuffle"),
        ("{t}/absent {t}/d", "does not exist"),
        ("{t}/full {t}/d", "SOURCE {t}/full holds no images"),
        ("{s} {t}/full", "DEST {t}/full holds files that are not part of a data set, 'notes.txt'"),
        ("{s} {t}/full --overwrite", "'notes.txt'"),
        ("{s} {t}/full/notes.txt", "is a file"),
        ("{s} {t}/d.tar.gz", "DEST {t}/d.tar.gz: cannot write .gz; give a .parquet, a .zip, or a folder"),
        ("{s} {t}/d.7z", "cannot write .7z"),
        ("{s} {t}/d.HDF5", "cannot write .hdf5"),
        ("{s} s3://bucket/d.npz", "cannot write .npz"),
        ("{s} {t}/full/notes.txt/d", "cannot be written"),
        ("{s} {t}/folder.zip", "is a folder"),
        ("{s} {t}/pipe.zip --overwrite", "DEST {t}/pipe.zip cannot be written"),
        ("{s} ''", "DEST is empty; give a path or an address"),
        ("'' {t}/d", "SOURCE is empty; give a path or an address"),
        ("{s} /", "DEST / is the root of all folders"),
        ("{s} s3://", "DEST s3:// names no bucket; write s3://BUCKET/PATH"),
        ("{s} gs://", "DEST gs:// names no bucket; write gs://BUCKET/PATH"),
        ("s3:// {t}/d", "SOURCE s3:// names no bucket; write s3://BUCKET/PATH"),
        ("s3:// --check", "SOURCE s3:// names no bucket; write s3://BUCKET/PATH"),
    ],
)  # fmt: skip
def test_mistakes(source, tmp_path, monkeypatch, capsys, words, says):
    write_folder(tmp_path / "full", {"notes.txt": b""})
    write_folder(tmp_path / "folder.zip", {"notes.txt": b""})
    os.mkfifo(tmp_path / "pipe.zip")
    monkeypatch.chdir(tmp_path)
    assert run(*shlex.split(words.format(s=source, t=tmp_path))) == 2
    error = capsys.readouterr().err
    assert (tmp_path / "pipe.zip").is_fifo() and not (tmp_path / "s3:").exists()
    assert says.format(t=tmp_path) in error and "data." not in error and "Traceback" not in error
    assert not (tmp_path / "d").exists() and not list(tmp_path.rglob("*.part"))


def test_a_link_in_the_place_of_dest_is_followed(source, tmp_path):
    (tmp_path / "link.zip").symlink_to("there.other")
    assert run(source, tmp_path / "link.zip") == 0
    assert run(source, tmp_path / "link.zip", "--overwrite") == 0
    assert (tmp_path / "link.zip").is_symlink() and zipfile.is_zipfile(tmp_path / "there.other")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_folders_with_dots_in_their_names(source, tmp_path):
    for dest in ("d.v2", "d-1.5", "d.set/"):
        assert run(source, f"{tmp_path}/{dest}") == 0 and list((tmp_path / dest).glob("*.tfrecords"))


def test_an_option_without_effect_is_named(source, tmp_path, caplog):
    assert run(source, tmp_path / "d.zip", "--image-column", "mask") == 0
    assert f"SOURCE {source}: --image-column=mask has no effect" in caplog.text


def test_too_few_bytes_free(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert run(source, tmp_path / "d.zip") == 2
    assert "GB are free" in capsys.readouterr().err and not list(tmp_path.glob(".d*"))


def test_transparent_images(tmp_path, capsys):
    source = write_folder(tmp_path / "source", numbered(2, mode="RGBA"))
    assert run(source, tmp_path / "d.zip") == 2
    assert "--alpha white" in capsys.readouterr().err
    assert run(source, tmp_path / "d.zip", "--alpha", "black") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), pixels(source, alpha="black"))
    assert Image.open(zipfile.ZipFile(tmp_path / "d.zip").open("00000/img00000000.png")).mode == "RGB"


@pytest.fixture
def bucket():
    """The storage at s3://bucket, on a server of this test."""
    with s3_server():
        yield Storage.at("s3://bucket")


@pytest.mark.parametrize(
    "dest",
    [
        "s3://bucket/sets/d",
        *(pytest.param(f"s3://bucket/d.{suffix}", marks=pytest.mark.slow) for suffix in ("zip", "parquet")),
    ],
)
def test_object_store(source, tmp_path, bucket, monkeypatch, capsys, dest):
    assert run(source, dest, "--no-shuffle") == 0
    np.testing.assert_array_equal(pixels(dest, shuffle="blocks"), pixels(source))
    assert labels(dest) == np.eye(3)[np.arange(7) % 3].tolist()
    assert run(source, dest) == 2 and "--overwrite" in capsys.readouterr().err
    other = write_folder(tmp_path / "other", numbered(4, size=(8, 8)))
    assert run(other, dest, "--overwrite", "--no-shuffle") == 0
    np.testing.assert_array_equal(pixels(dest, shuffle="blocks"), pixels(other))
    assert run(dest, tmp_path / "back.zip") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "back.zip"), pixels(other))


def files_in(bucket):
    found = bucket.filesystem.get_file_info(fs.FileSelector(bucket.root, recursive=True))
    return {info.path for info in found if info.type == fs.FileType.File}


@pytest.mark.parametrize("dest", ["s3://bucket/failed.zip", "s3://bucket/failed"])
def test_a_failure_leaves_nothing_in_an_object_store(source, bucket, monkeypatch, dest):
    monkeypatch.setattr(scan, "DECODE_UP_TO", 0)
    (source / "006.png").write_bytes(encoded(noise_picture(1))[:-200])
    before = files_in(bucket)
    assert run(source, dest) == 2
    assert files_in(bucket) == before


@pytest.mark.cluster
def test_the_job_starts_a_ray_of_its_own(source, tmp_path):
    options = [str(source), str(tmp_path / "d.zip"), "--workers", "2"]
    job = Job("prepare_data", *options, storage=tmp_path, log=tmp_path / "log")
    assert job.wait() == 0, job.text()
    assert "7 images" in job.text() and "train.py auto" in job.text()
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), pixels(source))


def test_renumbered_classes_arrive(tmp_path):
    """Ids such as dates are no class numbers, and become some."""
    named = [[name, 20200101 + i % 2] for i, name in enumerate(numbered(4))]
    source = write_folder(tmp_path / "source", {**numbered(4), "dataset.json": label_json(named)})
    assert run(source, tmp_path / "out.zip", "--renumber-classes") == 0
    assert np.argmax(labels(tmp_path / "out.zip"), axis=1).tolist() == [0, 1, 0, 1]


def test_a_slash_at_the_end_of_dest(source, tmp_path):
    assert run(source, f"{tmp_path}/out/") == 0 and len(pixels(tmp_path / "out")) == 7
    assert run(source, f"{tmp_path}/out.zip/") == 0 and (tmp_path / "out.zip").is_file()


@pytest.mark.parametrize("dest", [
    "s3://bucket/set.zip", "s3://KEY:SECRET@bucket/set.zip", "s3://bucket/set.zip?region=x", "s3://bucket/set.zip/",
])  # fmt: skip
def test_dest_that_is_source_is_refused_in_object_storage(dest, capsys):
    assert run("s3://bucket/set.zip", dest, "--overwrite") == 2
    assert "is SOURCE itself" in capsys.readouterr().err


def test_splits_of_archives(tmp_path, capsys):
    for name, seeds in (("train", (0, 1)), ("test", (2,))):
        with tarfile.open(tmp_path / f"{name}-000.tar", "w") as archive:
            for seed in seeds:
                path = tmp_path / f"{seed}.png"
                path.write_bytes(encoded(noise_picture(seed)))
                archive.add(path, path.name)
                path.unlink()
    assert len(pixels(tmp_path)) == 2 and len(pixels(tmp_path, split="test")) == 1
    pq.write_table(pa.table({"image": [encoded(noise_picture(0))]}), tmp_path / "0.parquet")
    assert run(tmp_path / "0.parquet", tmp_path / "out.zip", "--split", "test") == 2
    assert "it has none" in capsys.readouterr().err


@pytest.mark.parametrize("dest", ["out.zip", "out.parquet", "out"])
def test_classes_without_images_stay(tmp_path, dest):
    """The number of classes does not depend on the format, nor on which images are left out."""
    named = [[name, i] for i, name in enumerate(numbered(4))]
    source = write_folder(tmp_path / "source", {**numbered(4), "dataset.json": label_json(named)})
    (source / "003.png").write_bytes(b"no image")
    assert run(source, tmp_path / dest, "--on-bad-image", "skip", "--no-shuffle") == 0
    assert labels(tmp_path / dest) == np.eye(4)[:3].tolist()


def test_labels_that_a_zip_cannot_hold(tmp_path, capsys):
    vectors = np.random.default_rng(0).random((3, 1100)).astype(np.float32)
    table = pa.table({"image": [encoded(noise_picture(i)) for i in range(3)], "label": vectors.tolist()})
    pq.write_table(table, tmp_path / "d.parquet")
    assert run(tmp_path / "d.parquet", tmp_path / "out.zip") == 2
    assert "labels of 1100 numbers" in capsys.readouterr().err
    assert (
        run(tmp_path / "d.parquet", tmp_path / "out.parquet") == 0 and len(labels(tmp_path / "out.parquet")[0]) == 1100
    )
