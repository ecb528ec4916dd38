"""Data sets of other programs that are made to harm, read in this process."""

import io
import tarfile

import pytest
from support.foreign import python2_pickle

from stylegan_ray.readers import cifar_reader
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
        list(cifar_reader._members(str(path)))
