"""Zip data sets."""

import io
import struct
import zipfile

import numpy as np
import pytest
from support.data_sets import chw, encoded, label_json, noise_picture, numbered, opened, write_folder, write_zip

from stylegan_ray.data import DataError
from stylegan_ray.data.formats import zip as zip_format


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_and_a_folder_are_read_alike(tmp_path, compression):
    from_zip = opened(write_zip(tmp_path / "d.zip", numbered(5), compression))
    from_folder = opened(write_folder(tmp_path / "d", numbered(5)))
    for i in range(5):
        np.testing.assert_array_equal(from_zip.read(i), from_folder.read(i))


def test_damaged_zip(tmp_path):
    path = write_zip(tmp_path / "d.zip", numbered(3))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a whole zip"):
        opened(path)
    damaged = bytearray(whole)
    damaged[300] ^= 255  # inside the first image
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"1 of 3 images .*'000.png'.*CRC"):
        opened(path)


def test_a_zip_of_another_compression_is_refused(tmp_path):
    path = write_zip(tmp_path / "d.zip", numbered(1), zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match=r"'000.png' .*without compression"):
        opened(path)


def test_extra_fields_of_a_local_header_are_skipped(tmp_path):
    """The local header of an entry may be longer than the one in the directory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("0.png")
        info.extra = struct.pack("<HH", 0x9999, 200) + bytes(200)
        archive.writestr(info, encoded(noise_picture(5)))
    (tmp_path / "d.zip").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(opened(tmp_path / "d.zip").read(0), chw(noise_picture(5)))


def without_utf8_flag(path):
    """Clears the bit of a zip's entries that says that names are in UTF-8, as macOS writes them."""
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\3\4", 7), (b"PK\1\2", 9)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + place] &= ~8
    path.write_bytes(content)
    return path


def test_names_in_utf8_need_no_flag(tmp_path):
    files = {f"{name}/{i}.png": noise_picture(i) for name in ("café", "hund") for i in range(2)}
    data = opened(without_utf8_flag(write_zip(tmp_path / "d.zip", files)), cond=True)
    assert data.class_names == ("café", "hund") and data.name(1) == "café/1.png"
    np.testing.assert_array_equal(data.read(1), chw(files["café/1.png"]))
    files = {
        "é0.png": noise_picture(0),
        "é1.png": noise_picture(1),
        "dataset.json": label_json([["é0.png", 0], ["é1.png", 1]]),
    }
    data = opened(without_utf8_flag(write_zip(tmp_path / "e.zip", files)), cond=True)
    assert data.labels(np.arange(2)).argmax(1).tolist() == [0, 1]


def test_names_in_code_page_437_remain(tmp_path):
    path = write_zip(tmp_path / "d.zip", {"caf__.png": noise_picture(0)})
    path.write_bytes(path.read_bytes().replace(b"caf__", b"caf\x82!"))
    assert opened(path).name(0) == "café!.png"


def test_a_folder_of_zips_suggests_a_zip(tmp_path):
    write_folder(tmp_path / "d", {"ffhq.zip": b"", "notes.txt": b""})
    with pytest.raises(DataError, match=r"holds no images.*'ffhq.zip'"):
        opened(tmp_path / "d")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    picture = encoded(noise_picture(0))
    for number, (first, second) in enumerate([("a.png", "a.png"), ("x/a.png", "x\\a.png"), ("dataset.json",) * 2]):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("b.png", first, second):
                archive.writestr(name, picture if name.endswith("png") else label_json([["b.png", 0]]))
        with pytest.raises(DataError) as error:
            opened(path)
        assert f"one file twice, as {first!r} and as {second!r}" in str(error.value)


def test_of_what_is_no_image_only_the_beginning_is_inflated(tmp_path, monkeypatch):
    sizes, whole = [], zip_format.inflate
    monkeypatch.setattr(zip_format, "inflate", lambda *args: sizes.append(len(args[0])) or whole(*args))
    files = {"a.png": noise_picture(0), "b.png": bytes(1 << 20)}
    data = opened(write_zip(tmp_path / "d.zip", files, zipfile.ZIP_DEFLATED), on_bad_image="skip")
    assert len(sizes) == 1 and "is not an image of a format that is read" in data.bad[1]


@pytest.mark.parametrize(("stored", "named"), [("./", ""), ("", "./"), ("./", "./")])
def test_names_may_begin_with_a_dot(tmp_path, stored, named):
    labels = label_json([[f"{named}{i}.png", i] for i in range(2)])
    files = {f"{stored}{i}.png": noise_picture(i) for i in range(2)} | {f"{stored}dataset.json": labels}
    data = opened(write_zip(tmp_path / "d.zip", files), cond=True)
    assert data.name(1) == "1.png" and data.labels(np.arange(2)).argmax(1).tolist() == [0, 1]
    with pytest.raises(DataError, match=r"one file twice, as '(\./)?0\.png' and as '(\./)?0\.png'"):
        opened(write_zip(tmp_path / "e.zip", files | {"./0.png": noise_picture(0), "0.png": noise_picture(0)}))


@pytest.mark.parametrize(
    ("signature", "place", "value"),
    [(b"PK\5\6", 16, 0xFFFFFFF0), (b"PK\1\2", 42, 0x7FFFFFFF), (b"PK\1\2", 20, 0xFFFFFFFE)],
    ids=["directory", "offset", "size"],
)
def test_entries_outside_of_the_file(tmp_path, signature, place, value):
    path = write_zip(tmp_path / "d.zip", numbered(2))
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.find(signature) + place, value)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.zip: '000\.png' is said to be at byte .* and the file ends at byte"):
        opened(path)


def test_names_of_entries_that_differ_from_the_directory(tmp_path):
    path = write_zip(tmp_path / "d.zip", numbered(2))
    path.write_bytes(path.read_bytes().replace(b"000.png", b"zzz.png", 1))
    with pytest.raises(DataError, match=r"'000\.png' has the name zzz\.png in its own header"):
        opened(path)
    assert opened(path, on_bad_image="skip").num_images == 2


@pytest.mark.parametrize("count", [1, 3, 65535])
def test_the_end_counts_the_files(tmp_path, count):
    path = write_zip(tmp_path / "d.zip", numbered(2))
    content = bytearray(path.read_bytes())
    end = content.rfind(b"PK\5\6")
    content[end + 8 : end + 12] = struct.pack("<HH", count, count)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"its end counts {count} files, and its directory holds 2"):
        opened(path)


def test_an_entry_that_hides_the_next_ones(tmp_path):
    path = write_zip(tmp_path / "d.zip", numbered(2))
    content = bytearray(path.read_bytes())
    first = content.find(b"PK\1\2")
    content[first + 32 : first + 34] = struct.pack("<H", 60000)  # the length of its comment
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a whole zip file: its end counts 2 files, and its directory holds 1"):
        opened(path)


def test_two_spellings_of_one_path_are_refused(tmp_path):
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(["a/0.png", "a//0.png"]):
            archive.writestr(name, encoded(noise_picture(number)))
    with pytest.raises(DataError, match="holds one file twice"):
        opened(path)
