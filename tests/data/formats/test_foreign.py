"""Data sets of other programs that are made to harm, read in this process."""

import gzip
import io
import itertools
import os
import tarfile
from types import SimpleNamespace

import h5py
import lmdb
import numpy as np
import pytest
import scipy.io
from support.data_sets import encoded, noise_picture
from support.foreign import idx, python2_pickle

from stylegan_ray.config import DataConfig
from stylegan_ray.data import DataError
from stylegan_ray.data.files import FileInfo, files_at
from stylegan_ray.data.formats.foreign import IDX
from stylegan_ray.data.open import open_index
from stylegan_ray.readers import child, cifar_reader, hdf5_reader, idx_reader, lmdb_reader, mat_reader
from stylegan_ray.readers.protocol import ReadError

SHARED = b")" + b"2\x86" * 20
"""A pickled tuple that holds a tuple twice, and so on; with 60 of them it would never end to be hashed or shown."""


@pytest.mark.parametrize(
    "pickled",
    [
        b"}" + SHARED + b"Ns",
        b"cnumpy\ndtype\n" + SHARED + b"K\0K\1\x87R",
        b"}U\1a](" + SHARED + b"es",
        b")q\0h\0\x86q\1h\1\x86",
        b")\x94h\0\x86",
        b"U\1aq\0)q\0h\0\x86",
        b"}\x8a\x20" + bytes(31) + b"\1Ns",
    ],
)
def test_cifar_pickles_of_values_that_are_used_again(pickled):
    with pytest.raises(ReadError, match=r"uses a value again|an integer of 249 bits"):
        cifar_reader.load_batch(b"\x80\x02" + pickled + b".", "data_batch_1")


def test_cifar_pickles_may_use_texts_again():
    assert cifar_reader.load_batch(b"\x80\x02}(U\1aq\0h\0U\1bh\0u.", "data_batch_1") == {b"a": b"a", b"b": b"a"}
    assert cifar_reader.load_batch(python2_pickle({b"labels": [1]}), "data_batch_1") == {b"labels": [1]}


@pytest.mark.parametrize(
    "pickled",
    [
        b"c_codecs\nencode\nX\1\0\0\0aX\3\0\0\0hex\x86R",
        b"c_codecs\nencode\nK\1X\6\0\0\0latin1\x86R",
        b"c__builtin__\nbytes\nK\xff\x85R",
        b"(X\1\0\0\0aq\0" + b"c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R" * 60 + b"l",
    ],
)
def test_cifar_pickles_make_no_other_bytes(pickled):
    with pytest.raises(ReadError, match=r"which CIFAR does not need; download CIFAR again|it nests 121 values"):
        cifar_reader.load_batch(b"\x80\x02" + pickled + b".", "data_batch_1")


def test_cifar_class_names_are_shown_in_bounded_time():
    assert cifar_reader._text([b"a"] * 100) == "[b'a', b'a', b'a', b'a', b'a', b'a', ...]"


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME])
def test_members_of_the_cifar_archive_that_are_passed_over(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(cifar_reader, "MAX_ARCHIVE_BYTES", 1 << 20)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, size in (("large", 2 << 20), ("data_batch_1", 10)):
            member = tarfile.TarInfo(name)
            member.size, member.type = size, kind if name == "large" else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(bytes(size)))
    with pytest.raises(ReadError, match="more than 1048576 bytes without its compression"):
        cifar_reader._members(str(path))


def pax_header(content):
    """An extended header of a tar file."""
    header = tarfile.TarInfo("P")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def sparse_header(keys):
    header = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    header.pax_headers = {f"GNU.sparse.{key}": value for key, value in keys.items()}
    header.size = 512
    return header.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pax_header(b"9" * 60_000), "a number of more than 255 digits"),
        (pax_header(b"9" * 70_000), "a header takes 70 kB, more than the limit"),
        (pax_header(b"2 " * 30_000 + b"=\n"), "an extended header is damaged at its byte 0"),
        (pax_header(b"6 a=b\n" * 100 + b"0 a=b\n"), "an extended header is damaged at its byte 600"),
        (tarfile.TarInfo("a").tobuf() * 1001, "more than 1000 files, and CIFAR's about ten"),
        (sparse_header({"major": "1", "minor": "0"}) + b"5\n" + b"9" * 510, "neither data_batch_1 nor train"),
        (sparse_header({"map": "x,y"}) + bytes(512), "neither data_batch_1 nor train"),
    ],
)
def test_archives_of_cifar_that_would_take_very_long(tmp_path, content, words):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(content + tarfile.TarInfo("a").tobuf() + bytes(1024)))
    with pytest.raises((ReadError, tarfile.ReadError), match=words):
        cifar_reader._members(str(path))


def test_archives_of_cifar_may_have_extended_headers(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size, member.mtime, member.pax_headers = 3, 0.5, {"comment": "a=b\nc"}
        archive.addfile(member, io.BytesIO(b"abc"))
    found = cifar_reader._members(str(tmp_path / "cifar-10-python.tar.gz"))
    assert found == [("cifar-10-batches-py/data_batch_1", b"abc")]


def test_label_files_of_idx_that_are_pipes_or_lie_elsewhere(tmp_path, caplog):
    folder, images, labels = tmp_path / "d", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    (folder / "own").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(idx(np.zeros(3, dtype=np.uint8)))
    (folder / "own" / labels).write_bytes(idx(np.zeros(3, dtype=np.uint8)))

    def parts(**keys):
        return IDX().parts(files_at(str(folder), **keys), [FileInfo(images, 0, 0)])

    os.mkfifo(folder / labels)
    assert parts() == [images] and "no regular file 'train-labels-idx1-ubyte'" in caplog.text
    (folder / labels).unlink()
    (folder / labels).symlink_to(tmp_path / "secret")
    assert parts() == [images] and parts(follow_links=True) == [images, labels]
    (folder / labels).unlink()
    (folder / labels).symlink_to(f"own/{labels}")
    assert parts() == [images, labels]


def test_the_reading_process_does_not_wait_for_a_pipe(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    replies = []
    for name in ("signal.signal", "os.dup2", "limit_memory"):
        monkeypatch.setattr(f"stylegan_ray.readers.child.{name}", lambda *_: None)
    monkeypatch.setattr(child, "open_reader", lambda *_: pytest.fail("would wait"))
    monkeypatch.setattr(child, "reply", lambda _, kind, content: replies.append((kind, content)))
    child.main("idx", [str(tmp_path / "pipe")])
    assert replies[0][0] == child.BAD_FILE and b"pipe is not a regular file" in replies[0][1]


def test_images_that_cost_a_name_and_hardly_a_byte(tmp_path):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("imgs", (10**9, 3, 0, 0), np.uint8)
    with pytest.raises(ReadError, match="images are of 0x0 pixels"):
        hdf5_reader.open_reader([str(tmp_path / "d.h5")])
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for shape, words in (((110_000, 1, 1), "of 1x1 pixels"), ((110_000, 4, 4), "110000 images in [0-9]{4} bytes")):
        path.write_bytes(gzip.compress(idx(np.zeros(shape, np.uint8))))
        with pytest.raises(ReadError, match=words):
            idx_reader.open_reader([str(path)])


def with_hole(path, size):
    """Makes a file longer without writing to it."""
    with open(path, "r+b") as file:
        file.truncate(size)
    return str(path)


@pytest.mark.parametrize("kind", ["idx", "mat", "hdf5", "cifar"])
def test_files_of_holes_are_refused_before_they_are_read(tmp_path, monkeypatch, kind):
    replies = []
    for name in ("signal.signal", "os.dup2", "limit_memory"):
        monkeypatch.setattr(f"stylegan_ray.readers.child.{name}", lambda *_: None)
    monkeypatch.setattr(child, "open_reader", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(child, "reply", lambda _, kind, content: replies.append(content.decode()))
    (tmp_path / "d").write_bytes(b"x" * 5000)
    child.main(kind, [with_hole(tmp_path / "d", 2 << 20)])
    assert "2.097 MB, of which only 8.192 kB are on the disk; it may be damaged" in replies[0]


def test_holes_hold_no_images(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(np.zeros((0, 4, 4), np.uint8)).replace(bytes(4), (60_000).to_bytes(4, "big"), 1))
    with pytest.raises(ReadError, match="holds 60000 images in 4096 bytes"):
        idx_reader.open_reader([with_hole(path, 16 + 16 * 60_000)])
    with h5py.File(tmp_path / "d.h5", "w") as file:
        space = h5py.h5s.create_simple((60_000, 3, 4, 4))
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, b"imgs", h5py.h5t.NATIVE_UINT8, space, early)
    with pytest.raises(ReadError, match=r"holds 60000 images in \d{4,5} bytes"):
        hdf5_reader.open_reader([str(tmp_path / "d.h5")])


def test_an_lmdb_may_have_holes(tmp_path, monkeypatch):
    """Where its map is written to, its file has the size of the map from the beginning."""
    with lmdb.open(str(tmp_path / "d"), map_size=1 << 34, writemap=True) as environment:
        with environment.begin(write=True) as transaction:
            for number in range(20):
                transaction.put(b"%05d" % number, encoded(noise_picture(number)))
    assert (tmp_path / "d" / "data.mdb").stat().st_size == 1 << 34
    assert len(open_index(DataConfig(path=str(tmp_path / "d")), prepares=True)[1].names) == 20
    monkeypatch.setattr(lmdb_reader, "LMDBReader", lambda _, most: most)
    most = lmdb_reader.open_reader([str(tmp_path / "d" / "data.mdb")])
    assert 20 < most < 20_000, "else one without end would be read for long"


def test_keys_without_end():
    cursor = SimpleNamespace(iternext=lambda **_: itertools.repeat(b"key"))
    transaction = SimpleNamespace(get=lambda key: None, cursor=lambda: cursor)
    with pytest.raises(ReadError, match="lead to each other"):
        lmdb_reader.LMDBReader(transaction, most=100)


def test_an_empty_lmdb_names_the_file_of_its_data(tmp_path):
    lmdb.open(str(tmp_path / "d")).close()
    with pytest.raises(DataError, match=r"holds no images: there are none in 'data\.mdb'"):
        open_index(DataConfig(path=str(tmp_path / "d")), prepares=True)


def test_lmdbs_of_more_images_than_their_length_say_so():
    keys = [b"16-00000", b"16-00001", b"16-00002", b"length"]
    contents = lmdb_reader.numbered_contents(keys, b"2")
    assert len(contents.names) == 2 and "1 of 3 images are left out: the key `length` says 2" in contents.notes[0]
    assert not lmdb_reader.numbered_contents(keys, b"3").notes


def test_missing_batches_of_cifar_are_named():
    names = [f"data_batch_{number}" for number in (1, 2, 4)]
    assert cifar_reader.missing_batches(names)[0].startswith("data_batch_3, data_batch_5 of CIFAR-10 are missing")
    assert not cifar_reader.missing_batches([f"data_batch_{number}" for number in range(1, 6)])
    assert not cifar_reader.missing_batches(["train"])
    batch = {b"data": SimpleNamespace(value=np.zeros((1, 3072), np.uint8)), b"labels": [0]}
    assert "data_batch_1" in cifar_reader.CIFARReader([("data_batch_2", batch)], {}).contents.notes[0]


@pytest.mark.parametrize("chunks", [None, (2, 3, 8, 8)])
def test_hdf5_files_that_do_not_hold_their_images(tmp_path, chunks):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("imgs", (100, 3, 8, 8), np.uint8, chunks=chunks)
        if chunks:
            file["imgs"][:50] = 7
    with pytest.raises(ReadError, match=r"`imgs` of shape \(100, 3, 8, 8\) is not stored as a whole"):
        hdf5_reader.open_reader([str(tmp_path / "d.h5")])


@pytest.mark.parametrize("keys", [{}, {"chunks": (3, 2, 8, 8)}, {"chunks": (3, 3, 8, 8), "compression": "gzip"}])
def test_hdf5_files_that_hold_their_images(tmp_path, keys):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("imgs", data=np.zeros((10, 3, 8, 8), np.uint8), **keys)
        file["labels"] = np.zeros(10, np.uint8)
    assert len(hdf5_reader.open_reader([str(tmp_path / "d.h5")]).contents.names) == 10


@pytest.mark.parametrize(
    ("imgs", "words"),
    [
        ("group", "its `imgs` is a group, not an array; store an array there"),
        (np.dtype("u1"), "its `imgs` is a datatype, not an array; store an array there"),
        (h5py.SoftLink("/x"), "its `imgs` is a link to '/x', which is not followed; store the array itself"),
        (
            h5py.ExternalLink("/etc/passwd", "/x"),
            "a link to '/x' in another file, '/etc/passwd', which is not followed; store the array itself",
        ),
        (h5py.Empty("u1"), "its `imgs` is empty, without a shape; store an array there"),
        (np.zeros((2, 8, 8, 3), np.int16), r"its `imgs` is int16 of shape \(2, 8, 8, 3\); it must be uint8"),
    ],
)
def test_hdf5_files_say_what_is_stored_as_images(tmp_path, imgs, words):
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"] = np.zeros((2, 8, 8, 3), np.uint8)
        if isinstance(imgs, str):
            file.create_group("imgs")
        else:
            file["imgs"] = imgs
    with pytest.raises(ReadError, match=words):
        hdf5_reader.open_reader([str(tmp_path / "d.h5")])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8, 3, 2)), r"its X is float64 of shape \(8, 8, 3, 2\); as in SVHN's"),
        (np.zeros((8, 8, 4, 2), np.uint8), r"its X is uint8 of shape \(8, 8, 4, 2\); .* with C 1 or 3"),
        (None, "its X is missing or no array"),
    ],
)
def test_mat_files_say_what_is_stored_as_images(tmp_path, images, words):
    scipy.io.savemat(tmp_path / "d.mat", {"y": np.ones((2, 1))} | ({} if images is None else {"X": images}))
    with pytest.raises(ReadError, match=words):
        mat_reader.open_reader([str(tmp_path / "d.mat")])


def test_idx_files_without_images(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 28, 28), np.uint8)))
    with pytest.raises(ReadError, match=r"shape \(0, 28, 28\), and 1 to 8589934592 bytes are read; copy it again"):
        idx_reader.open_reader([str(tmp_path / "train-images-idx3-ubyte")])


@pytest.mark.parametrize(("name", "kind"), [("d.h5", "hdf5"), ("d.mat", "mat"), ("train-images-idx3-ubyte.gz", "idx")])
def test_errors_of_libraries_have_a_way_out(tmp_path, monkeypatch, name, kind):
    (tmp_path / name).write_bytes(b"hello" * 100)
    replies = []
    for part in ("signal.signal", "os.dup2", "limit_memory"):
        monkeypatch.setattr(f"stylegan_ray.readers.child.{part}", lambda *_: None)
    monkeypatch.setattr(child, "reply", lambda _, kind, content: replies.append(content.decode()))
    child.main(kind, [str(tmp_path / name)])
    assert replies[0].startswith(f"it cannot be read as {kind}: ") and "copy or download it again" in replies[0]
