"""Data sets of other programs, written by those programs' libraries and made ready by the command."""

import gzip
import io
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest
import scipy.io
from support.data_sets import chw, encoded, noise_picture, numbered, opened, write_folder
from support.foreign import idx, python2_pickle

from stylegan_ray import cli
from stylegan_ray.data import reader_process as process
from stylegan_ray.data import write
from stylegan_ray.readers.protocol import import_optional


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", str(tmp_path / "cache"))


def run(*words, workers=0):
    return cli.run(cli.prepare_data, [*map(str, words), "--workers", str(workers)])


def noise(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def pixels(path):
    data = opened(path)
    return np.stack([data.read(i) for i in range(data.num_images)])


def label_tree(path):
    """Labels in order, and the names of the classes, from dataset.json."""
    with zipfile.ZipFile(path) as archive:
        tree = json.loads(archive.read("dataset.json"))
    return tree["labels"] and [label for _, label in tree["labels"]], tree.get("class_names")


def write_lmdb(folder, items):
    environment = lmdb.open(str(folder), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for key, value in items.items():
            transaction.put(key, value)
    environment.close()
    return folder


def test_lmdb_of_rosinality(tmp_path, caplog, capsys):
    images = {size: [noise_picture(size + i, (size, size)) for i in range(3)] for size in (8, 16)}
    items = {f"{size}-{i:05d}".encode(): encoded(images[size][i]) for size in images for i in range(3)}
    source = write_lmdb(tmp_path / "set_lmdb", {**items, b"length": b"3"})
    assert run(source, tmp_path / "d.zip") == 0
    assert "size 16" in caplog.text
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), np.stack([chw(image) for image in images[16]]))
    assert run(source / "data.mdb", tmp_path / "file.zip") == 0
    assert (tmp_path / "file.zip").read_bytes() == (tmp_path / "d.zip").read_bytes()
    assert run(source, "--check") == 0
    assert "3 (lmdb)" in capsys.readouterr().out


def test_lmdb_of_lsun(tmp_path):
    images = {bytes([97 + i]) * 40: noise_picture(i) for i in range(3)}
    items = {key: encoded(image, "WEBP", lossless=True) for key, image in images.items()}
    assert run(write_lmdb(tmp_path / "cat_lmdb", items), tmp_path / "d.zip") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), np.stack([chw(image) for image in images.values()]))
    assert label_tree(tmp_path / "d.zip") == (None, None)


@pytest.mark.parametrize("channels_first", [True, False])
def test_hdf5_of_studiogan(tmp_path, channels_first):
    images = noise(5, 3, 16, 16)
    with h5py.File(tmp_path / "CIFAR10_16_train.hdf5", "w") as file:
        stored = images if channels_first else images.transpose(0, 2, 3, 1)
        file.create_dataset("imgs", data=stored, chunks=(4, *stored.shape[1:]), compression="gzip")
        file.create_dataset("labels", data=np.array([3, 0, 1, 0, 9], dtype=np.int64))
    assert run(tmp_path / "CIFAR10_16_train.hdf5", tmp_path / "d.zip") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), images)
    assert label_tree(tmp_path / "d.zip")[0] == [3, 0, 1, 0, 9]


def test_hdf5_that_points_to_other_files(tmp_path, capsys):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["imgs"] = noise(2, 3, 16, 16)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["imgs"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "imgs")
    (tmp_path / "raw").write_bytes(bytes(2 * 3 * 256))
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("imgs", (2, 3, 16, 16), np.uint8, external=[(str(tmp_path / "raw"), 0, 2 * 3 * 256)])
    for name in ("link.h5", "external.h5"):
        assert run(tmp_path / name, tmp_path / "d.zip") == 2
        assert "another file" in capsys.readouterr().err


def write_idx(path, array):
    path.write_bytes(gzip.compress(idx(array)) if path.suffix == ".gz" else idx(array))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist(tmp_path, caplog, capsys, ending):
    (tmp_path / "raw").mkdir()
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"raw/{part}-images-idx3-ubyte{ending}", noise(4, 28, 28))
        write_idx(tmp_path / f"raw/{part}-labels-idx1-ubyte{ending}", np.array([5, 0, 4, 1], dtype=np.uint8))
    assert run(tmp_path / "raw", tmp_path / "d.zip") == 0
    padded = np.pad(noise(4, 28, 28), [(0, 0), (2, 2), (2, 2)])[:, None]
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), padded)
    assert label_tree(tmp_path / "d.zip")[0] == [5, 0, 4, 1]
    (tmp_path / f"raw/t10k-labels-idx1-ubyte{ending}").unlink()
    assert run(tmp_path / f"raw/t10k-images-idx3-ubyte{ending}", tmp_path / "e.zip") == 0
    assert "has no labels" in caplog.text and label_tree(tmp_path / "e.zip")[0] is None
    assert run(tmp_path / "raw", tmp_path / "f.zip", "--split", "Train") == 0
    assert run(tmp_path / "raw", tmp_path / "g.zip", "--split", "test") == 2
    assert "it has none; leave it out, or give the path of its file" in capsys.readouterr().err


def cifar10():
    """Five batches of three images, a test batch, and the names of ten classes."""
    batch = lambda i: {b"batch_label": b"one", b"labels": [i, 9, 0], b"data": noise(3, 3072) ^ np.uint8(i)}  # noqa: E731
    files = {f"data_batch_{i}": python2_pickle(batch(i)) for i in range(1, 6)}
    names = [b"class %d" % i for i in range(10)]
    meta = {b"num_cases_per_batch": 3, b"label_names": names, b"num_vis": 3072}
    return {**files, "test_batch": python2_pickle(batch(7)), "batches.meta": python2_pickle(meta)}


def test_cifar10_as_folder_and_as_archive(tmp_path):
    assert pickle.loads(cifar10()["data_batch_1"], encoding="bytes")[b"labels"] == [1, 9, 0]
    folder = write_folder(tmp_path / "cifar/cifar-10-batches-py", cifar10())
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    expected = np.concatenate([(noise(3, 3072) ^ np.uint8(i)).reshape(3, 3, 32, 32) for i in range(1, 6)])
    for number, source in enumerate((folder, tmp_path / "cifar", tmp_path / "cifar-10-python.tar.gz")):
        assert run(source, tmp_path / f"{number}.zip") == 0
        np.testing.assert_array_equal(pixels(tmp_path / f"{number}.zip"), expected)
        labels, names = label_tree(tmp_path / f"{number}.zip")
        assert labels == [label for i in range(1, 6) for label in (i, 9, 0)]
        assert names == [f"class {i}" for i in range(10)]


def archive_of(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_copies_of_batches_of_cifar_are_not_batches(tmp_path, capsys):
    files = cifar10()
    copies = {f"data_batch_1{ending}": files["data_batch_1"] for ending in (" (1)", ".bak", "~")}
    assert run(write_folder(tmp_path / "c", files | copies), tmp_path / "d.zip") == 0
    assert len(pixels(tmp_path / "d.zip")) == 15
    whole = {f"cifar-10-batches-py/{name}": content for name, content in files.items()}
    extra = {
        "__MACOSX/cifar-10-batches-py/batches.meta": b"x",
        "./cifar-10-batches-py/data_batch_1": files["data_batch_1"],
    }
    plain = archive_of(tmp_path / "cifar-10-python.tar", whole | extra, "w")
    assert run(plain, tmp_path / "e.zip") == 0 and len(pixels(tmp_path / "e.zip")) == 15
    twice = archive_of(tmp_path / "cifar-10-python.tar.gz", whole | {f"backup/{name}": files[name] for name in files})
    assert run(twice, tmp_path / "f.zip") == 2
    assert "batches in 2 folders, backup, cifar-10-batches-py" in capsys.readouterr().err
    (tmp_path / "c/batches.meta").unlink()
    assert run(tmp_path / "c", tmp_path / "g.zip") == 0, "without the names of the classes"
    assert label_tree(tmp_path / "g.zip") == (label_tree(tmp_path / "d.zip")[0], None)


def test_labels_of_cifar_belong_to_their_batch(tmp_path, capsys):
    data = {b"data": noise(3, 3072)}
    files = {
        "data_batch_1": pickle.dumps({**data, b"labels": (1, 9)}, 2),
        "data_batch_2": pickle.dumps({**data, b"labels": [0, 2, 9, 0]}, 2),
    }
    assert run(write_folder(tmp_path / "c", files), tmp_path / "d.zip") == 2
    assert "`labels` of data_batch_1 holds 2 labels for 3 images" in capsys.readouterr().err
    (tmp_path / "c/data_batch_2").unlink()
    (tmp_path / "c/data_batch_1").write_bytes(pickle.dumps({**data, b"labels": (1, 9, 2)}, 2))
    assert run(tmp_path / "c", tmp_path / "d.zip") == 0 and label_tree(tmp_path / "d.zip")[0] == [1, 9, 2]


def test_labels_of_idx_as_others_lay_them(tmp_path, caplog):
    images, labels = idx(noise(4, 28, 28)), idx(np.array([5, 0, 4, 1], dtype=np.uint8))
    for number, (image_file, label_file) in enumerate([
        ("train-images-idx3-ubyte/train-images-idx3-ubyte", "train-labels-idx1-ubyte/train-labels-idx1-ubyte"),
        ("train-images-idx3-ubyte", "train-labels.idx1-ubyte"),
    ]):  # fmt: skip
        source = write_folder(tmp_path / f"source{number}", {image_file: images, label_file: labels})
        assert run(source, tmp_path / f"{number}.zip") == 0
        assert label_tree(tmp_path / f"{number}.zip")[0] == [5, 0, 4, 1]
    files = {"qmnist-train-images-idx3-ubyte": images, "qmnist-train-labels-idx2-int": b"x"}
    assert run(write_folder(tmp_path / "q", files), tmp_path / "q.zip") == 0
    assert "'qmnist-train-labels-idx2-int' is not read" in caplog.text


@pytest.mark.parametrize(("protocol", "kind"), [(2, bytes), (3, str), (4, str), (5, str), (5, bytes)])
def test_cifar_pickled_by_python_3(tmp_path, protocol, kind):
    text = lambda word: word.encode() if kind is bytes else word  # noqa: E731
    batch = {"data": noise(2, 3072), "labels": [1, 0], "filenames": list(map(text, [*map(str, range(200)), "", "b"]))}
    names = {"label_names": ["cat", "dog"]}
    files = {"data_batch_1": batch, "batches.meta": names}
    pickled = {
        name: pickle.dumps({text(key): value for key, value in tree.items()}, protocol) for name, tree in files.items()
    }
    assert run(write_folder(tmp_path / "c", pickled), tmp_path / "d.zip") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), noise(2, 3072).reshape(2, 3, 32, 32))
    assert label_tree(tmp_path / "d.zip") == ([1, 0], ["cat", "dog"])


def test_the_folder_of_torchvision(tmp_path, capsys):
    write_folder(tmp_path / "data/cifar-10-batches-py", cifar10())
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    write_idx(tmp_path / "data/MNIST/raw/train-images-idx3-ubyte", noise(4, 28, 28))
    assert run(tmp_path / "data", tmp_path / "d.zip") == 2
    error = capsys.readouterr().err
    assert "an idx file ('MNIST/raw/train-images-idx3-ubyte') and CIFAR's folder of pickles ('cifar-10" in error
    assert "give the path of the one to read" in error


def test_data_sets_of_one_file_beside_another_are_named(tmp_path, caplog):
    write_folder(tmp_path / "data", {"train_32x32.mat": b"x", "features.h5": b"x"})
    write_idx(tmp_path / "data/train-images-idx3-ubyte", noise(4, 28, 28))
    assert run(tmp_path / "data", tmp_path / "d.zip") == 0
    assert "2 data sets beside the one that is read" in caplog.text


def test_emnist(tmp_path):
    for part, labels in (("train", [5, 0, 4, 1]), ("test", [1, 1, 1, 1])):
        write_idx(tmp_path / f"emnist-letters-{part}-images-idx3-ubyte", noise(4, 28, 28))
        write_idx(tmp_path / f"emnist-letters-{part}-labels-idx1-ubyte", np.array(labels, dtype=np.uint8))
    assert run(tmp_path, tmp_path / "d.zip") == 0
    assert label_tree(tmp_path / "d.zip")[0] == [5, 0, 4, 1]


def test_labels_for_other_images_have_a_way_out(tmp_path, capsys):
    write_idx(tmp_path / "train-images-idx3-ubyte", noise(3, 28, 28))
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([5, 0], dtype=np.uint8))
    assert run(tmp_path, tmp_path / "d.zip") == 2
    assert "holds 2 labels for 3 images; give files that belong together" in capsys.readouterr().err


@pytest.mark.parametrize("values", [[0.0, 2.0, 1.0], [[0.0], [2.0], [1.0]], [2**40, 2**41, 7]])
def test_labels_of_hdf5_in_floats_and_large(tmp_path, values):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["imgs"], file["labels"] = noise(3, 3, 16, 16), np.array(values)
    is_large = np.max(values) > 2
    assert run(tmp_path / "d.h5", tmp_path / "d.zip", *(["--renumber-classes"] if is_large else [])) == 0
    assert label_tree(tmp_path / "d.zip")[0] == ([1, 2, 0] if is_large else [0, 2, 1])


def test_cifar100_has_fine_labels(tmp_path):
    data = {b"data": noise(2, 3072), b"fine_labels": [1, 2], b"coarse_labels": [0, 0]}
    names = {b"fine_label_names": [b"apple", b"baby", b"bear"], b"coarse_label_names": [b"all"]}
    files = {"train": python2_pickle(data), "test": python2_pickle(data), "meta": python2_pickle(names)}
    assert run(write_folder(tmp_path / "cifar-100-python", files), tmp_path / "d.zip") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), noise(2, 3072).reshape(2, 3, 32, 32))
    assert label_tree(tmp_path / "d.zip") == ([1, 2], ["apple", "baby", "bear"])


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (b"\x80\x02cposix\nmkdir\nU\x04harm\x85R.", "asks for 'posix.mkdir'"),
        (b"\x80\x02c\x1b[2Jposix\nmkdir\nU\x04harm\x85R.", r"asks for '\x1b[2Jposix.mkdir'"),
        (b"\x80\x02Nr\xff\xff\xff\x3f.", "data_batch_1"),
        (b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns.", "data_batch_1"),
        (b"\x80\x02}.", "`labels`"),
        (python2_pickle({b"labels": [0], b"data": noise(1, 100)}), "[N,3072]"),
        (python2_pickle({b"labels": [0, 1], b"data": noise(1, 3072)}), "2 labels for 1 images"),
        (cifar10()["data_batch_1"][:5000], "no whole pickle"),
    ],
)
def test_hostile_pickles(tmp_path, monkeypatch, capsys, batch, says):
    monkeypatch.chdir(tmp_path)
    source = write_folder(tmp_path / "c", {"data_batch_1": batch, "batches.meta": cifar10()["batches.meta"]})
    assert run(source, tmp_path / "d.zip") == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error and "\x1b" not in error
    assert not (tmp_path / "harm").exists() and not (tmp_path / "d.zip").exists()


def test_svhn(tmp_path):
    images = noise(32, 32, 3, 4)
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": images, "y": np.array([[1], [9], [10], [2]], dtype=np.uint8)})
    assert run(tmp_path / "train_32x32.mat", tmp_path / "d.zip") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), images.transpose(3, 2, 0, 1))
    assert label_tree(tmp_path / "d.zip") == ([1, 9, 0, 2], list("0123456789"))


@pytest.mark.parametrize(
    ("y", "says"), [([0, 1, 10, 2], "both 0 and 10"), ([1, 2, 11, 3], "class 11.*folder of images")]
)
def test_classes_that_svhn_does_not_have(tmp_path, capsys, y, says):
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": noise(32, 32, 3, 4), "y": np.array(y, np.uint8)[:, None]})
    assert run(tmp_path / "train_32x32.mat", tmp_path / "d.zip") == 2
    assert re.search(says, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["label", "Labels", "y"])
def test_labels_of_hdf5_under_another_name_are_not_dropped(tmp_path, capsys, name):
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["imgs"], file[name] = noise(2, 3, 8, 8), np.array([0, 1])
    assert run(tmp_path / "d.hdf5", tmp_path / "d.zip") == 2
    assert f"no `labels`, but `{name}`; name it `labels`" in capsys.readouterr().err


@pytest.mark.parametrize(("files", "says"), [
    ({"list_attr_celeba.txt": b"1\nMale Young Male\n000.png 1 1 -1\n"}, "names the attribute 'Male' twice"),
    ({"list_attr_celeba.txt": b"4\nMale\n000.png 1\n001.png -1\n"}, "says that it has 4 images and has 2 lines"),
    ({"list_attr_celeba.txt": b"1\nMale\n000.png 1\n", "list_attr_celeba.csv": b"image_id,Male\n000.png,-1\n"},
     "a file of attributes more than once"),
])  # fmt: skip
def test_attributes_that_are_almost_right(tmp_path, capsys, files, says):
    assert run(write_folder(tmp_path / "celeba", numbered(2) | files), tmp_path / "d.zip") == 2
    assert says in capsys.readouterr().err


def test_lines_of_attributes_may_name_images_without_endings(tmp_path):
    files = {"list_attr_celeba.txt": b"2\nMale\n000 1\n001 -1\n"}
    assert run(write_folder(tmp_path / "celeba", numbered(2) | files), tmp_path / "d.zip") == 0
    assert label_tree(tmp_path / "d.zip") == ([[1], [0]], ["Male"])


@pytest.mark.parametrize("table", [False, True, "quoted"])
def test_celeba(tmp_path, caplog, capsys, table):
    rows = [("001.png", 1, -1, 1), ("000.png", -1, -1, 1), ("002.png", -1, 1, -1)]
    lines = [",".join(map(str, row)) if table else "{}  {} {} {}".format(*row) for row in rows]
    head = ["image_id,Bald,Smiling,Young"] if table else ["3", "Bald Smiling Young "]
    head = ['"image_id","Bald","Smiling","Young"'] if table == "quoted" else head
    name = "list_attr_celeba.csv" if table else "Anno/list_attr_celeba.txt"
    images = {f"img_align_celeba/{image}": picture for image, picture in numbered(4).items()}
    source = write_folder(tmp_path / "celeba", {**images, name: "\r\n".join([*head, *lines]).encode()})
    assert run(source, tmp_path / "d.zip") == 0
    assert "003.png" in caplog.text
    assert label_tree(tmp_path / "d.zip") == ([[0, 0, 1], [1, 0, 1], [0, 1, 0]], ["Bald", "Smiling", "Young"])
    np.testing.assert_array_equal(pixels(tmp_path / "d.zip"), pixels(source)[:3])
    (source / name).write_bytes(b"\n".join([*(line.encode() for line in head), b"000.png -1 2 1"]))
    assert run(source, tmp_path / "e.zip") == 2
    assert f"{name}, line {2 if table else 3}: an attribute is '2', and must be -1 or 1" in capsys.readouterr().err
    (source / name).write_bytes(b"\n".join([*(line.encode() for line in head), b"000.png -1 1"]))
    assert run(source, tmp_path / "e.zip") == 2
    assert "has 2 values, and must have 3 of -1 or 1, one for each attribute ('Bald'" in capsys.readouterr().err


def test_lsun_cars_become_384x512_in_a_black_square(tmp_path, capsys):
    images = {f"{i}.png": noise_picture(i, (384, 512)) for i in range(2)}
    assert (
        run(write_folder(tmp_path / "car", images), tmp_path / "d.zip", "--resolution", "384x512", "--letterbox") == 0
    )
    assert "enlarged" not in capsys.readouterr().out
    found = pixels(tmp_path / "d.zip")
    assert found.shape == (2, 3, 512, 512) and not found[:, :, :64].any() and not found[:, :, 448:].any()
    np.testing.assert_array_equal(found[0, :, 64:448], chw(images["0.png"]))
    assert run(tmp_path / "car", tmp_path / "car_set", "--resolution", "384x512", "--letterbox", "--no-shuffle") == 0
    np.testing.assert_array_equal(pixels(tmp_path / "car_set"), found)


def test_letterbox_needs_a_size(tmp_path, capsys):
    source = write_folder(tmp_path / "car", numbered(2))
    assert run(source, tmp_path / "d.zip", "--letterbox") == 2
    assert "--resolution 384x512" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["set.h5", "set.mat", "train-images-idx3-ubyte", "lmdb/data.mdb"])
def test_training_says_how_to_prepare_them(tmp_path, capsys, name):
    (tmp_path / "lmdb").mkdir()
    (tmp_path / name).write_bytes(b"")
    path = tmp_path / "lmdb" if "lmdb" in name else tmp_path / name
    assert cli.run(cli.train, ["tiny", str(path), "--dry-run"]) == 2
    assert f"stylegan-ray prepare_data {path} " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.h5", b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 20),
        ("set.mat", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"\xff" * 200),
        ("data.mdb", b"\x00" * 16 + b"\xde\xc0\xef\xbe" + b"\xff" * 9000),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 9, 28, 28))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files_are_named(tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    assert run(tmp_path / name, tmp_path / "d.zip") == 2
    error = capsys.readouterr().err
    assert str(tmp_path / name) in error and "Traceback" not in error and "data.path" not in error


def killing(step):
    """A python that ends in a crash instead of the reader, before or after it has told its contents."""
    program = (
        "import os, sys; from stylegan_ray.readers import child; "
        "child.{} = lambda *_: os.abort(); child.main(*sys.argv[4:5], sys.argv[5:])"
    )
    return f"#!/bin/sh\nexec {sys.executable} -c '{program.format(step)}' \"$@\"\n"


@pytest.mark.parametrize("step", ["open_reader", "serve"])
def test_the_death_of_the_child_is_a_data_error(tmp_path, monkeypatch, capfd, step):
    scipy.io.savemat(tmp_path / "a.mat", {"X": noise(32, 32, 3, 4), "y": np.ones((4, 1), np.uint8)})
    (tmp_path / "python").write_text(killing(step))
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert run(tmp_path / "a.mat", tmp_path / "d.zip") == 2
    error = capfd.readouterr().err
    assert f"{tmp_path}/a.mat" in error and "SIGABRT" in error and "Traceback" not in error


def test_a_truncated_lmdb_ends_the_child_and_not_the_command(tmp_path):
    """The map ends beyond the file, which is a SIGBUS in the process that reads there."""
    items = {f"16-{i:05d}".encode(): encoded(noise_picture(i, (64, 64))) for i in range(20)}
    source = write_lmdb(tmp_path / "lmdb", {**items, b"length": b"20"})
    os.truncate(source / "data.mdb", 60_000)
    command = [sys.executable, "-m", "stylegan_ray.cli", "prepare_data", source, tmp_path / "d.zip", "--workers", "0"]
    command[1:3] = ["-c", "import sys; from stylegan_ray.cli import main; main()"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and "lmdb/data.mdb" in done.stderr and "Traceback" not in done.stderr


def test_a_child_that_hangs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process, "REPLY_SEC", 0.5)
    (tmp_path / "a.mat").write_bytes(b"")
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert run(tmp_path / "a.mat", tmp_path / "d.zip") == 2
    assert "did not answer" in capsys.readouterr().err


def children():
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"stylegan_ray.readers.child" in words:
            found.append((path.parent.name, words))
    return found


def test_children_end_with_their_parent(tmp_path):
    """Also where it is killed."""
    scipy.io.savemat(tmp_path / "a.mat", {"X": noise(32, 32, 3, 4), "y": np.ones((4, 1), np.uint8)})
    program = (
        "import sys, time; from stylegan_ray.data.reader_process import ReaderProcess\n"
        "reader = ReaderProcess('mat', sys.argv[1:]); print(len(reader.read(0, '')), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.mat")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert int(parent.stdout.readline()) > 3072
        mine = lambda: [pid for pid, words in children() if str(tmp_path / "a.mat").encode() in words]  # noqa: E731
        assert len(mine()) == 1
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not mine():
            break
        subprocess.run(["sleep", "0.1"], check=True)
    assert not mine()


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(Exception, match=r"no_such_package.*stylegan-ray\[formats\]"):
        import_optional("no_such_package.io")


def a_set(kind, root):
    """Five images of 32 px in one of the formats, and the options to read them."""
    pictures = [noise_picture(i, (32, 32)) for i in range(5)]
    pixels_of_all, numbers = np.stack([chw(picture) for picture in pictures]), np.array([2, 0, 1, 0, 2])
    path = root / kind
    match kind:
        case "rosinality":
            items = {f"32-{i:05d}".encode(): encoded(picture) for i, picture in enumerate(pictures)}
            write_lmdb(path, {**items, b"length": b"5"})
        case "lsun":
            items = {bytes([97 + i]) * 40: encoded(picture, "WEBP") for i, picture in enumerate(pictures)}
            write_lmdb(path, items)
        case "hdf5":
            path = root / "set.h5"
            with h5py.File(path, "w") as file:
                file["imgs"], file["labels"] = pixels_of_all, numbers
        case "idx":
            path = root / "train-images-idx3-ubyte"
            write_idx(path, pixels_of_all[:, 0])
            write_idx(root / "train-labels-idx1-ubyte", numbers.astype(np.uint8))
        case "cifar":
            batch = python2_pickle({b"labels": numbers.tolist(), b"data": pixels_of_all.reshape(5, -1)})
            write_folder(path, {"data_batch_1": batch, "batches.meta": cifar10()["batches.meta"]})
        case "mat":
            path = root / "train_32x32.mat"
            scipy.io.savemat(path, {"X": pixels_of_all.transpose(2, 3, 1, 0), "y": numbers[:, None] + 1})
        case "celeba":
            lines = "\n".join(f"{i}.png {number - 1 or 1}" for i, number in enumerate(numbers))
            images = {f"{i}.png": picture for i, picture in enumerate(pictures)}
            write_folder(path, {**images, "list_attr_celeba.txt": f"5\nBald\n{lines}\n".encode()})
        case "heif":
            path.mkdir()
            heif = pytest.importorskip("pillow_heif")
            for i, picture in enumerate(pictures):
                heif.from_pillow(picture.resize((64, 64))).save(path / f"{i}.heic")
            return path, ["--extra-formats", "heif"]
    return path, []


@pytest.mark.parametrize("kind", ["rosinality", "lsun", "hdf5", "idx", "cifar", "mat", "celeba", "heif"])
def test_several_tasks_write_what_one_process_writes(ray_local, tmp_path, monkeypatch, kind):
    """Each task's process has a reader of its own; plans are so small that every task gets some."""
    monkeypatch.setattr(write, "PLAN_IMAGES", 1)
    source, options = a_set(kind, tmp_path)
    assert run(source, tmp_path / "one.zip", *options) == 0
    assert run(source, tmp_path / "two.zip", *options, workers=2) == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert len(pixels(tmp_path / "two.zip")) == 5
    assert (label_tree(tmp_path / "two.zip")[0] is None) == (kind in ("rosinality", "lsun", "heif"))


def test_heic_needs_its_key(tmp_path, capsys, caplog):
    source, options = a_set("heif", tmp_path)
    assert run(source, tmp_path / "d.zip") == 2
    assert "5 HEIC images (read them with --extra-formats heif)" in capsys.readouterr().err
    write_folder(source, numbered(1, size=(64, 64)))
    assert run(source, tmp_path / "d.zip") == 0 and "5 HEIC images" in caplog.text
    assert run(source, tmp_path / "e.zip", *options) == 0 and len(pixels(tmp_path / "e.zip")) == 6
    assert run(source, "--check", *options) == 0 and "HEIF 5, PNG 1" in capsys.readouterr().out


def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch, capsys):
    """It may be the data set of a stranger."""
    (tmp_path / "numpy.py").write_text("open('executed', 'w')")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 28, 28), dtype=np.uint8)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    assert run(tmp_path / "train-images-idx3-ubyte", tmp_path / "out.zip") == 0, capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_check_recommends_a_command_that_reads_the_data(tmp_path, capsys):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(noise(3, 28, 28)))
    assert run(tmp_path, "--check") == 0
    text = capsys.readouterr().out
    assert f"stylegan-ray prepare_data {tmp_path}" in text and " train " not in text
