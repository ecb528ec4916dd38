"""Tar data sets."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from support.data_sets import chw, encoded, label_json, noise_picture, numbered, opened, write_folder, write_zip

from stylegan_ray.data import DataError
from stylegan_ray.data.formats import tar


def write_tar(path, files, mode="w"):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else encoded(content)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(first, num):
    """WebDataset samples: an image, its class and another file each."""
    files = {}
    for i in range(first, first + num):
        files |= {f"s{i:03d}.png": noise_picture(i), f"s{i:03d}.cls": str(i % 4).encode(), f"s{i:03d}.txt": b"words"}
    return files


def test_tar_shards(tmp_path):
    write_tar(tmp_path / "d" / "b.tar", samples(5, 5))
    write_tar(tmp_path / "d" / "a.tar", samples(0, 5))
    data = opened(tmp_path / "d", cond=True)
    assert data.num_images == 10 and data.name(7) == "b.tar/s007.png"
    for copy in (data, pickle.loads(pickle.dumps(data))):
        np.testing.assert_array_equal([copy.read(i) for i in range(10)], [chw(noise_picture(i)) for i in range(10)])
    assert data.labels(np.arange(10)).argmax(1).tolist() == [i % 4 for i in range(10)]
    assert opened(f"file://{tmp_path}/d").fingerprint == opened(tmp_path / "d").fingerprint


def test_one_tar_with_folders_as_classes(tmp_path):
    files = {"./dog/1.jpg": encoded(noise_picture(1), "JPEG"), "./cat/1.jpg": encoded(noise_picture(0), "JPEG")}
    data = opened(write_tar(tmp_path / "d.tar", files), cond=True)
    assert data.class_names == ("cat", "dog") and data.name(0) == "dog/1.jpg"
    np.testing.assert_array_equal(data.labels(np.arange(2)), [[0, 1], [1, 0]])


def test_endings_have_no_case(tmp_path):
    files = {"1.png": encoded(noise_picture(0)), "1.PNG": encoded(noise_picture(1)), "1.cls": b"0"}
    with pytest.raises(DataError, match=r"holds '1\.PNG' twice"):
        opened(write_tar(tmp_path / "d.tar", files))


def test_tar_labels_missing(tmp_path):
    files = samples(0, 3)
    del files["s001.cls"]
    path = write_tar(tmp_path / "d.tar", files)
    with pytest.raises(DataError, match=r"no \.cls file for 's001.png'"):
        opened(path, cond=True)
    path = write_tar(tmp_path / "e.tar", numbered(2))
    with pytest.raises(DataError, match=r"hold no \.cls files"):
        opened(path, cond=True)


@pytest.mark.parametrize(
    ("folder", "named"), [("", "Dataset.json"), ("set/", "set/dataset.json"), ("set/", "dataset.json")]
)
def test_labels_in_a_label_file(tmp_path, caplog, folder, named):
    names = [f"0000{i % 2}/{i}.png" for i in range(4)]
    relative = "" if named.startswith("set/") else folder
    content = json.dumps(
        {
            "labels": [[relative + name, i // 2] for i, name in enumerate(names)],
            "class_names": ["a", "b"],
            "attribution": "by A",
        }
    ).encode()
    files = {folder + name: noise_picture(i) for i, name in enumerate(names)}
    data = opened(write_tar(tmp_path / "d.tar", {**files, named: content}), cond=True)
    assert data.labels(np.arange(4)).argmax(1).tolist() == [0, 0, 1, 1]
    assert data.class_names == ("a", "b") and data.attribution == "by A"
    opened(write_tar(tmp_path / "e.tar", {**files, named: content, "0.cls": b"1"}))
    assert f"labels are read from .cls files, not from {named!r}" in caplog.text


def test_label_files_of_shards(tmp_path):
    first, second = ({f"{kind}/{i}.png": noise_picture(i) for i in range(2)} for kind in "ab")
    labels = [label_json([[name, i] for i, name in enumerate(files)]) for files in (first, second)]
    both = label_json([[name, i] for i, name in enumerate([*first, *second])])
    for number, (one, two) in enumerate([(labels[0], labels[1]), (both, None), (None, both)]):
        for name, files, content in (("0.tar", first, one), ("1.tar", second, two)):
            label_file = {"dataset.json": content} if content else {}
            write_tar(tmp_path / str(number) / name, {**files, **label_file})
        data = opened(tmp_path / str(number), cond=True)
        assert data.labels(np.arange(4)).argmax(1).tolist() == ([0, 1, 2, 3] if number else [0, 1, 0, 1])
    with pytest.raises(DataError, match=r"has no label for 'b/0\.png'"):
        opened(write_tar(tmp_path / "e" / "0.tar", {**first, **second, "dataset.json": labels[0]}), cond=True)


def test_label_files_are_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "label_limit", lambda num: num)
    with pytest.raises(DataError, match=r"d\.tar: 'dataset\.json' takes more than 1 B, the limit"):
        opened(write_tar(tmp_path / "d.tar", {"0.png": noise_picture(0), "dataset.json": b"{}"}))


def test_damaged_tars(tmp_path):
    path = write_tar(tmp_path / "d.tar", samples(0, 3))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"1 of 1 images|cannot be read as an uncompressed tar"):
        opened(path)
    with pytest.raises(DataError, match="uncompressed tar"):
        opened(write_tar(tmp_path / "z.tar", samples(0, 3), "w:gz"))


def test_a_folder_of_images_may_hold_other_files(tmp_path):
    root = write_folder(tmp_path / "d", numbered(3))
    write_tar(root / "backup.tar", samples(0, 3))
    assert opened(root).name(0) == "000.png"


def test_only_decimal_digits_are_class_numbers(tmp_path):
    texts = ["1_1", "1_2", "2_1", "\uff11"]
    files = {f"{i}.png": noise_picture(i) for i in range(4)} | {f"{i}.cls": t.encode() for i, t in enumerate(texts)}
    data = opened(write_tar(tmp_path / "d.tar", files), cond=True)
    assert data.class_names == tuple(texts) and data.label_size == 4
    files["1.cls"] = b"7"
    with pytest.raises(DataError, match="hold class numbers, but others text, such as '1_1'"):
        opened(write_tar(tmp_path / "e.tar", files), cond=True)


def test_headers_and_names_are_of_bounded_size(tmp_path):
    path, picture = tmp_path / "d.tar", encoded(noise_picture(0))
    long = tarfile.TarInfo("L")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    path.write_bytes(long.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"d\.tar cannot be read .*: a header takes 3\.221 GB, more than the limit"):
        opened(path)
    with tarfile.open(path, "w", pax_headers={f"k{i}": "v" for i in range(1000)}) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=r"d\.tar cannot be read .*: its global header has more than 100 keys"):
        opened(path)
    for name in ("a/" * 1000 + "x.png", "x" * 5000 + ".png"):
        with pytest.raises(DataError, match=r"d\.tar: the name '[ax].* may be of 4096 and 256"):
            opened(write_tar(path, {name: picture}))
        with pytest.raises(DataError, match=r"d\.zip: the name '[ax].* may be of 4096 and 256"):
            opened(write_zip(tmp_path / "d.zip", {name: picture}))


def damaged_header(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda content, at: damaged_header(content, at),
        lambda content, at: content[: at + 300],
        lambda content, at: content[:at] + bytes(512) + content[at + 512 :],
        lambda content, at: content + content,
    ],
    ids=["bit", "cut", "zeroed", "joined"],
)
def test_damaged_and_joined_files_are_named(tmp_path, change):
    """tarfile ends at a header that it cannot read, as if the file ended there."""
    path = write_tar(tmp_path / "d.tar", numbered(4))
    content = path.read_bytes()
    path.write_bytes(change(content, content.index(b"002.png")))
    with pytest.raises(DataError, match=r"d\.tar cannot be read.*at byte [0-9]+ is neither a member nor the end"):
        opened(path)


def test_extended_headers(tmp_path):
    """Numbers of members are no numbers of headers; a header of digits would take tarfile many seconds."""
    with tarfile.open(tmp_path / "d.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {"é.png": encoded(noise_picture(0)), "b.txt": b"01" * 1000}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 0.5
            archive.addfile(info, io.BytesIO(content))
    assert opened(tmp_path / "d.tar").name(0) == "é.png"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 65_024
    (tmp_path / "e.tar").write_bytes(header.tobuf() + b"1" * header.size + (tmp_path / "d.tar").read_bytes())
    with pytest.raises(DataError, match="a number of more than 255 digits"):
        opened(tmp_path / "e.tar")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content, end: content[:end], "ends at byte [0-9]+ without the blocks of zeros that end a tar file"),
        (lambda content, end: content[: end + 100], "without the blocks of zeros"),
        (lambda content, end: content + bytes(2 << 20) + content, "is neither a member nor the end"),
        (lambda content, end: content + bytes(65 << 20), "more than 67.11 MB of zeros follow"),
        (lambda content, end: content[: end + 512], None),
        (lambda content, end: content + bytes(2 << 20), None),
    ],
    ids=["cut", "cut in the end", "joined", "zeros", "one block", "padded"],
)
def test_nothing_behind_the_last_member_is_lost_silently(tmp_path, change, words):
    path = write_tar(tmp_path / "d.tar", numbered(2))
    content = path.read_bytes()
    path.write_bytes(change(content, len(content.rstrip(b"\0")) // 512 * 512 + 512))
    if words is None:
        assert opened(path).num_images == 2
    else:
        with pytest.raises(DataError, match=rf"d\.tar cannot be read.*{words}.*; copy it again"):
            opened(path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"size": "999999999999999"}, "'a.png' has a size of 999999999999999 B, which cannot be"),
        ({"GNU.sparse.size": "z"}, "cannot be read as an uncompressed tar file: ValueError: invalid literal .*; copy"),
        ({"GNU.sparse.map": "x,y"}, "holds no images, but 1 sparse files"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, "holds no images, but 1 sparse files"),
    ],
)
def test_extended_headers_that_cannot_be(tmp_path, keys, words):
    path, content = tmp_path / "d.tar", encoded(noise_picture(0))
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size, info.pax_headers = len(content), keys
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=rf"d\.tar .*{words}"):
        opened(path)


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"\xff" * 12])
def test_sizes_that_cannot_be(tmp_path, size):
    path = write_tar(tmp_path / "d.tar", numbered(1))
    header = bytearray(path.read_bytes())
    header[124:136] = size
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * ord(" "))
    path.write_bytes(header)
    with pytest.raises(DataError, match=r"d\.tar cannot be read as an uncompressed tar file: .*; copy it again"):
        opened(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"), (b" \n", "is empty"), (b"1\n2", r"holds '1\\n2'"), (bytes(4), r"holds '\\x00\\x00"),
        (b"nan", "holds 'nan'"), (b"9" * 5000, "is of more than 4096 B"), (b"\xff", r"holds '\\udcff'"),
        ("1".encode("utf-16"), "holds"),
    ],
)  # fmt: skip
def test_labels_that_name_no_class(tmp_path, content, words):
    path = write_tar(tmp_path / "d.tar", {"a.png": noise_picture(0), "a.cls": content})
    assert opened(path).num_images == 1
    with pytest.raises(DataError, match=rf"the \.cls file of 'a\.png' in 'd\.tar' {words}.*; write the number"):
        opened(path, cond=True)


def test_folders_named_by_dots(tmp_path, caplog):
    names = ["./a.png", "././b/c.png", "x/./d.png", "../e.png"]
    files = {name: noise_picture(i) for i, name in enumerate(names)}
    for path in (write_tar(tmp_path / "d.tar", files), write_zip(tmp_path / "d.zip", files)):
        caplog.clear()
        data = opened(path)
        assert [data.name(i) for i in range(data.num_images)] == ["a.png", "b/c.png"]
        assert "2 in folders named . or .. (write the archive again with plain paths)" in caplog.text


@pytest.mark.parametrize(("texts", "labels"), [
    (["[0, 1]", "[1, 0]", "[0, 1]"], [[0, 1], [1, 0], [0, 1]]),
    (["2.0", "0.0", "1"], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    (["[0.5]", "[0.25]", "[1]"], [[0.5], [0.25], [1]]),
    (["[old]", "new", "new"], [[1, 0], [0, 1], [0, 1]]),
])  # fmt: skip
def test_texts_of_classes_are_numbers_vectors_or_names(tmp_path, texts, labels):
    files = {f"{i}.png": noise_picture(i) for i in range(3)} | {f"{i}.cls": texts[i].encode() for i in range(3)}
    data = opened(write_tar(tmp_path / "d.tar", files), cond=True)
    np.testing.assert_array_equal(data.labels(np.arange(3)), labels)


def test_a_label_file_is_not_for_images_of_the_same_names_in_other_shards(tmp_path):
    images = {f"{i}.png": noise_picture(i) for i in range(2)}
    write_tar(tmp_path / "d" / "0.tar", images | {"dataset.json": label_json([["0.png", 0], ["1.png", 1]])})
    write_tar(tmp_path / "d" / "1.tar", images)
    with pytest.raises(DataError, match=r"some of the tar files hold no dataset\.json"):
        opened(tmp_path / "d", cond=True)


def test_labels_and_images_in_two_forms_of_unicode(tmp_path):
    files = {"\u00e9.png": noise_picture(0), "e\u0301.cls": b"1", "b.png": noise_picture(1), "b.cls": b"0"}
    data = opened(write_tar(tmp_path / "d.tar", files), cond=True)
    assert data.labels(np.arange(2)).argmax(1).tolist() == [1, 0]


def test_two_spellings_of_one_path_are_refused(tmp_path):
    files = {"a/0.png": noise_picture(0), "a//0.png": noise_picture(1)}
    with pytest.raises(DataError, match="twice"):
        opened(write_tar(tmp_path / "d.tar", files))


def test_a_negative_size_is_damage_of_the_archive(tmp_path):
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "d.tar").write_bytes(bytes(header) + bytes(10240))
    with pytest.raises(
        DataError, match=r"d\.tar cannot be read as an uncompressed tar file: 'a\.png' has a size of -1 B"
    ):
        opened(tmp_path / "d.tar")
