"""Broken and malicious data sets: each is refused by name, or what is left out is counted and named."""

import io
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data_sets import encoded, label_json, noise_picture, numbered, opened, write_folder, write_zip
from support.spoiled import png_of_16_bits

from stylegan_ray.data import DataError, scan
from stylegan_ray.data.decode import open_image
from stylegan_ray.data.decode_cost import check_scans
from stylegan_ray.data.formats import tfrecord_wire
from stylegan_ray.data.packed_names import PackedNames
from stylegan_ray.untrusted import large_turn

# A case that is not bounded ends by these limits instead of harming the machine.
LIMITS = {resource.RLIMIT_AS: 3 << 30, resource.RLIMIT_CPU: 60}


OPENER = """
import io, json, os, resource, sys
import stylegan_ray.networks.shapes
from stylegan_ray.config import DataConfig
from stylegan_ray.data import DataError, open_dataset

def attempt(path, keys):
    sys.stderr = io.StringIO()
    try:
        data = open_dataset(DataConfig(path=path, **keys))
        text = f"opened {data.num_images} {[data.labels(range(1)).shape]}"
    except DataError as error:
        text = f"refused {error}"
    return text + sys.stderr.getvalue(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

for line in sys.stdin:
    path, keys, limits, os.environ["STYLEGAN_RAY_CACHE"] = json.loads(line)
    reading, writing = os.pipe()
    if not os.fork():
        for kind, value in limits:
            resource.setrlimit(kind, (value, value))
        os.write(writing, json.dumps(attempt(path, keys)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    print(json.dumps([os.wait()[1], text]), flush=True)
"""
"""A program that opens data sets, each in a process of its own, which has all modules loaded."""


@pytest.fixture(scope="module")
def opener():
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", OPENER], stdin=pipe, stdout=pipe, text=True, env=env) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def open_in_child(opener, cache):
    """Opens a data set in a process of bounded memory and time; returns what is found, or the message, and the log."""

    def open_it(path, **keys):
        opener.stdin.write(f"{json.dumps([str(path), keys, list(LIMITS.items()), str(cache)])}\n")
        opener.stdin.flush()
        status, text = json.loads(opener.stdout.readline())
        assert status == 0, f"ended with status {status}"
        found, peak_mb = json.loads(text)
        assert peak_mb < 1500
        return found

    return open_it


def write_bomb(path, files, name, unit, times):
    """A zip with files, and one entry more of a deflated unit that is repeated; it takes no time to write."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(unit) + compressor.flush(zlib.Z_FULL_FLUSH)  # can be repeated: nothing refers to it
    content, crc, size = block * times + b"\3\0", 0, len(unit) * times
    for _ in range(times):
        crc = zlib.crc32(unit, crc)
    write_zip(path, {**files, name: content})
    raw = bytearray(path.read_bytes())
    for place in (raw.rfind(b"PK\3\4" + raw[4:8], 0, raw.rfind(content)), raw.rfind(b"PK\1\2") + 2):
        struct.pack_into("<H", raw, place + 8, zipfile.ZIP_DEFLATED)
        struct.pack_into("<III", raw, place + 14, crc, len(content), size)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("kind", ["JPEG2000", "ICO", "TGA", "PCX", "EPS", "IM", "SGI"])
def test_only_usual_image_formats_are_decoded(tmp_path, kind):
    root = write_folder(tmp_path / "d", {**numbered(1), "x.png": encoded(noise_picture(0, (16, 16)), kind)})
    with pytest.raises(DataError, match=r"1 of 2 .*'x.png' is not an image of a format that is read"):
        opened(root)


def test_special_files_are_left_out_and_named(tmp_path, caplog):
    root = write_folder(tmp_path / "d", numbered(2))
    write_folder(tmp_path / "other", {"far.png": noise_picture(5)})
    (root / "loop.png").symlink_to("loop.png")
    (root / "kmsg.png").symlink_to("/proc/kmsg")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "all").symlink_to("/")
    (root / "far.png").symlink_to(tmp_path / "other" / "far.png")
    (root / "near.png").symlink_to("000.png")
    os.mkfifo(root / "pipe.png")
    with open(root / "giant.png", "wb") as file:
        file.truncate(4 << 30)
    assert opened(root).num_images == 3
    for words in ("4 links out of the folder", "--data.follow_links", "'loop.png'", "'pipe.png'", "'giant.png'"):
        assert words in caplog.text
    assert opened(root, follow_links=True).num_images == 4  # but not the link to a folder that holds this one
    os.mkfifo(tmp_path / "d.zip")
    with pytest.raises(DataError, match=r"d\.zip.*not a regular file"):
        opened(tmp_path / "d.zip")


def test_folders_nested_ever_deeper(tmp_path):
    root = write_folder(tmp_path / "d", numbered(1))
    here = os.getcwd()
    try:
        os.chdir(root)
        for _ in range(1100):
            os.mkdir("deep")
            os.chdir("deep")
    finally:
        os.chdir(here)
    try:
        assert opened(root).num_images == 1
    finally:
        subprocess.run(["rm", "-r", root / "deep"], check=True)  # pytest's own removal recurses too deep


def test_a_deflated_entry_of_gigabytes(tmp_path, open_in_child):
    path = write_bomb(tmp_path / "d.zip", {"a.png": noise_picture(0)}, "x.png", b"BM".ljust(1 << 20, b"\0"), 700)
    assert "'x.png'" in (text := open_in_child(path)) and "refused" in text and "data.max_image_mb" in text


def test_a_deflated_label_file_of_gigabytes(tmp_path, open_in_child):
    path = write_bomb(tmp_path / "d.zip", numbered(2), "dataset.json", b"[" * (1 << 20), 700)
    assert "refused" in (text := open_in_child(path)) and "'dataset.json' takes more than" in text


def test_a_bomb_of_our_own_is_a_whole_zip(tmp_path):
    with zipfile.ZipFile(write_bomb(tmp_path / "d.zip", numbered(2), "x", b"ab" * 9, 5)) as archive:
        assert archive.testzip() is None and archive.read("x") == b"ab" * 45 and len(archive.namelist()) == 3


def test_overlapping_entries(tmp_path):
    content = bytearray(write_zip(tmp_path / "d.zip", numbered(2)).read_bytes())
    first, second = (content.find(b"PK\x01\x02"), content.rfind(b"PK\x01\x02"))
    content[second + 42 : second + 46] = content[first + 42 : first + 46]  # the offset of the first entry
    (tmp_path / "d.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"'000.png' and '001.png' overlap"):
        opened(tmp_path / "d.zip")


def test_a_zip_that_needs_a_later_version(tmp_path):
    content = bytearray(write_zip(tmp_path / "d.zip", numbered(1)).read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 6 : at + 8] = struct.pack("<H", 90)
    (tmp_path / "d.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.zip.*zip file version 9\.0"):
        opened(tmp_path / "d.zip")


@pytest.mark.parametrize("payload", [b"", b"\x0a", b"\xff\xff", b"\x0a\x01\x0a", b"\x0a\x02\x0a\x00"])
def test_records_that_hold_no_example(tmp_path, payload):
    root = write_folder(tmp_path / "d", {"set-r04.tfrecords": tfrecord_wire.frame_records([payload])})
    with pytest.raises(DataError, match=r"set-r04.tfrecords .*is not an example"):
        opened(root)


def example(shape, data=b""):
    def field(number, content):
        size, head = len(content), b""
        while size >= 0x80:
            head, size = head + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([number << 3 | 2]) + head + bytes([size]) + content

    features = [(b"shape", field(3, field(1, shape))), (b"data", field(1, field(1, data)))]
    return field(1, b"".join(field(1, field(1, key) + field(2, value)) for key, value in features))


@pytest.mark.parametrize(
    "shape",
    [
        b"\xff" * (1 << 20) + b"\1", b"\xff" * 10 + b"\1", b"\xff" * 9 + b"\1", b"\1" * (1 << 22), b"", b"\1\1",
        b"\0\1\1", b"\1\1\1\1", b"\1\x80\x80\x08\1",
    ],
)  # fmt: skip
def test_shapes_that_cannot_be(tmp_path, shape):
    root = write_folder(tmp_path / "d", {"set-r04.tfrecords": tfrecord_wire.frame_records([example(shape)])})
    with pytest.raises(DataError, match=r"set-r04\.tfrecords"):
        opened(root)


@pytest.mark.parametrize(
    "content", [b"[" * 10_000, b'{"labels":' + b"[" * 10_000 + b"]" * 10_000 + b"}", b"\xff", b"1"]
)
def test_label_files_that_are_none(tmp_path, content):
    root = write_folder(tmp_path / "d", {**numbered(2), "dataset.json": content})
    assert opened(root).num_images == 2
    with pytest.raises(DataError, match=r"dataset\.json"):
        opened(root, cond=True)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([2**31, 0], "2147483649 classes .*--data.renumber_classes"),
        ([0.5, 0], "class 0.5 of '000.png' is not a whole number; write whole numbers"),
        ([2**100, 0], "class 1267.* of '000.png'"),
        ([2_000_000_000, 0], "2000000001 classes .*--data.renumber_classes"),
        ([20200101, 20200131], "2 of these 20200132 classes .*--data.renumber_classes"),
        ([True, 0], "True"),
        ([["1"], ["2"]], "'1'"),
        ([[1.0], [1.0, 2.0]], "'001.png'"),
        ([[1e39], [0]], "finite.*'000.png'"),
        ([None, 0], "None"),
        ([[], []], r"\[\]"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, words):
    pairs = [[f"{i:03d}.png", label] for i, label in enumerate(labels)]
    root = write_folder(tmp_path / "d", {**numbered(2), "dataset.json": label_json(pairs)})
    with pytest.raises(DataError, match=f"data.cond=True needs labels.*{words}"):
        opened(root, cond=True)
    assert opened(root).num_images == 2


@pytest.mark.parametrize(
    ("class_names", "words"),
    [(["a", "a"], "hold 'a' twice; give each class"), (["a"], "are 1, and there is a class 1"), (["a", "b", "c"], "")],
)
def test_names_of_classes_are_those_of_all_classes(tmp_path, class_names, words):
    tree = {"labels": [["000.png", 0], ["001.png", 1]], "class_names": class_names}
    root = write_folder(tmp_path / "d", {**numbered(2), "dataset.json": json.dumps(tree).encode()})
    if words:
        with pytest.raises(DataError, match=f"the class names of dataset.json {words}"):
            opened(root, cond=True)
    else:
        assert opened(root, cond=True).class_names == ("a", "b", "c")


def test_conflicting_labels(tmp_path):
    pairs = [["000.png", 0], ["001.png", 1], ["000.png", 1]]
    root = write_folder(tmp_path / "d", {**numbered(2), "dataset.json": label_json(pairs)})
    with pytest.raises(DataError, match=r"'000.png' is given twice, as 0 and as 1"):
        opened(root, cond=True)


def test_classes_with_gaps_are_renumbered(tmp_path):
    pairs = [["000.png", 20200131], ["001.png", 20200101]]
    root = write_folder(tmp_path / "d", {**numbered(2), "dataset.json": label_json(pairs)})
    data = opened(root, cond=True, renumber_classes=True)
    assert data.labels(np.arange(2)).tolist() == [[0, 1], [1, 0]] and data.class_names == ("20200101", "20200131")


@pytest.mark.parametrize("ids", [(2**31, 7), (2**40, 1), (2**64 - 1, 2**63)])
def test_large_ids_are_renumbered(tmp_path, ids):
    rows = [{"image": {"bytes": encoded(noise_picture(i)), "path": ""}} for i in range(2)]
    table = pa.Table.from_pylist(rows).append_column("label", pa.array(ids, pa.uint64()))
    pq.write_table(table, tmp_path / "d.parquet")
    pairs = [[f"{i:03d}.png", number] for i, number in enumerate(ids)]
    root = write_folder(tmp_path / "d", {**numbered(2), "dataset.json": label_json(pairs)})
    for path in (root, tmp_path / "d.parquet"):
        data = opened(path, cond=True, renumber_classes=True, shuffle="blocks")
        assert data.labels(np.arange(2)).tolist() == [[0, 1], [1, 0]]
        assert data.class_names == (str(ids[1]), str(ids[0]))


@pytest.mark.parametrize("values", [[-1, 0], [2.5, 0], [2.0, np.nan]])
def test_label_arrays_are_checked_before_any_cast(tmp_path, values):
    images = [np.random.default_rng(i).integers(0, 256, (3, 16, 16), dtype=np.uint8) for i in range(2)]
    records = tfrecord_wire.frame_records([tfrecord_wire.encode_example(image) for image in images])
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    root = write_folder(tmp_path / "d", {"s-r04.tfrecords": records, "s-rxx.labels": buffer.getvalue()})
    with pytest.raises(DataError, match=r"s-rxx\.labels.*must hold class numbers"):
        opened(root, cond=True)
    rows = [
        {"image": {"bytes": encoded(noise_picture(i)), "path": ""}, "label": value} for i, value in enumerate(values)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="`label` must hold class numbers"):
        opened(tmp_path / "d.parquet", cond=True)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1 << 40, 2), "it holds 0 bytes"),
        ((True, True), r"of shape \(True, True\), not of plain numbers"),
        ((0, 10**30), "not of plain numbers"),
        ((0, 1 << 62, 4), "array is too big"),
    ],
)
def test_label_arrays_that_cannot_be(tmp_path, shape, words):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    image = np.zeros((3, 16, 16), dtype=np.uint8)
    records = tfrecord_wire.frame_records([tfrecord_wire.encode_example(image)])
    root = write_folder(tmp_path / "d", {"s-r04.tfrecords": records, "s-rxx.labels": header.getvalue()})
    assert opened(root).num_images == 1
    with pytest.raises(DataError, match=rf"'s-rxx\.labels' is not a \.npy array: .*{words}.*; write it with numpy"):
        opened(root, cond=True)


def test_dictionary_pages_used_many_times(tmp_path, open_in_child):
    large = bytes(50 << 20)
    table = pa.table({"image": pa.DictionaryArray.from_arrays(pa.array([0] * 40), pa.array([large]))})
    pq.write_table(table, tmp_path / "d.parquet", compression="zstd", use_dictionary=True, store_schema=False,
                   dictionary_pagesize_limit=1 << 30)  # fmt: skip
    del table, large
    assert (tmp_path / "d.parquet").stat().st_size < 1 << 16
    assert "40 of 40" in open_in_child(tmp_path / "d.parquet", shuffle="blocks")


@pytest.mark.parametrize("column", ["image", "label"])
def test_delta_encodings_of_one_value_many_times(tmp_path, open_in_child, column):
    """In a page each value is the one before and nothing more, so that a few bytes state 4 MB."""
    picture = encoded(noise_picture(0))
    many = {"image": [picture] * 300, "label": ["a"] * 300}
    large = pa.array([many[column][0] + (b"x" if column == "image" else "x") * (4 << 20)])
    table = pa.table({name: pa.chunked_array([large] * 300) if name == column else many[name] for name in many})
    pq.write_table(table, tmp_path / "d.parquet", use_dictionary=False, column_encoding={column: "DELTA_BYTE_ARRAY"},
                   data_page_size=1 << 30, write_statistics=False, write_batch_size=1)  # fmt: skip
    assert (tmp_path / "d.parquet").stat().st_size < 6 << 20
    words = {"image": "row group 0 of d.parquet takes", "label": "labels of a Parquet file take"}[column]
    assert words in open_in_child(tmp_path / "d.parquet", shuffle="blocks")


def test_a_page_that_inflates_far_more_than_images_do(tmp_path):
    large = encoded(noise_picture(0)) + bytes(80 << 20)
    pq.write_table(pa.table({"image": pa.array([large], pa.binary())}), tmp_path / "d.parquet", compression="zstd",
                   use_dictionary=False, write_statistics=False)  # fmt: skip
    assert (tmp_path / "d.parquet").stat().st_size < 1 << 16
    with pytest.raises(DataError, match=r"takes 80 MiB .* row groups below 64 MiB"):
        opened(tmp_path / "d.parquet", shuffle="blocks")


def test_more_numbers_than_labels_need(tmp_path):
    numbers = b"[" + b"1," * 200_000 + b"1]"
    files = numbered(4) | {"dataset.json": b'{"a": ' + numbers + b', "labels": null}'}
    with pytest.raises(DataError, match="far more lists or numbers than the 4 images"):
        opened(write_folder(tmp_path / "d", files), cond=True)


def test_sparse_members_of_a_tar(tmp_path, open_in_child):
    with open(tmp_path / "a.cls", "wb") as file:
        file.truncate(3 << 30)
    (tmp_path / "a.png").write_bytes(encoded(noise_picture(0)))
    subprocess.run(["tar", "-C", tmp_path, "-S", "-cf", tmp_path / "d.tar", "a.png", "a.cls"], check=True)
    text = open_in_child(tmp_path / "d.tar", cond=True)
    assert "refused" in text and "'a.cls'" in text and "sparse" in text


def jpeg_of_many_scans(number):
    content = encoded(noise_picture(0, (64, 64)), "JPEG", progressive=True)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x3f\x3f\x10" + b"\x00\x00"
    return content[:-2] + scan * number + content[-2:]


def test_scans_of_a_progressive_jpeg(tmp_path, open_in_child):
    good = encoded(noise_picture(0, (64, 64)), "JPEG", progressive=True)
    root = write_folder(tmp_path / "d", {"a.jpg": good, "x.jpg": jpeg_of_many_scans(20_000)})
    text = open_in_child(root)
    assert "1 of 2 images" in text and "more than 100 scans" in text


@pytest.mark.parametrize("hidden", [b"\xff\x01", b"\xff\xd8", b"\xff\x01\xff\xff"])
def test_scans_behind_markers_without_a_length(hidden):
    content = jpeg_of_many_scans(101)
    start = content.index(b"\xff\xda\x00\x08\x01\x01\x00\x3f\x3f")
    with pytest.raises(ValueError, match="more than 100 scans"):
        check_scans(content[:start] + hidden + content[start:])


def gray_png(side, bits=16):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    stream, row = zlib.compressobj(9), bytes(1 + side * bits // 8)
    data = b"".join([*(stream.compress(row) for _ in range(side)), stream.flush()])
    header = struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_large_images_are_decoded_one_at_a_time(tmp_path, open_in_child):
    content = gray_png(9_000)
    assert len(content) < 300_000
    root = write_folder(tmp_path / "d", {"a.png": content, "b.png": content})
    text = open_in_child(root, resolution=16, resize="box")
    assert "opened 2" in text
    assert "data.max_image_mb=32" in open_in_child(root, max_image_mb=32)


def tiff(tags, data, tiles=False):
    """A little-endian TIFF of one block of bytes with tags (number, value)."""
    block = [(324 if tiles else 273, None), (325 if tiles else 279, len(data))]
    tags = sorted([*tags, *block], key=itemgetter(0))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    start = len(head) + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, start if value is None else value) for tag, value in tags]
    return head + b"".join(entries) + bytes(4) + data


SEVERAL = "several entries of tag 322"


@pytest.mark.parametrize(
    ("sides", "words"),
    [((8192,), "a tile of 67108864 pixels.*data.max_image_mb=128"), ((8192, 16), SEVERAL), ((16, 8192), SEVERAL)],
)
def test_a_tile_larger_than_its_image(tmp_path, sides, words):
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(tag, side) for tag in (322, 323) for side in sides]
    root = write_folder(tmp_path / "d", {"a.tif": tiff(tags, zlib.compress(bytes(256)), tiles=True)})
    with pytest.raises(DataError, match=f"'a.tif' is a TIFF with {words}"):
        opened(root, max_image_mb=128)


def bmp_of_runs(width, height):
    """A run-length encoded BMP of one pixel in each line."""
    runs, start = b"\1\1\0\0" * height + b"\0\1", 54 + 4 * 256
    head = struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return head + bytes(4 * 256) + runs


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bmp_of_runs(1 << 27, 1), "134217728 values, more than the 3145728 that are read of BMP in this encoding"),
        (b"P3 1024 1025 255 ", "PPM in this encoding"),
        (b"P2 16 16 255 " + b"#\n" * 101, "PNM of more than 100 comments"),
    ],
)
def test_images_that_are_slow_to_decode(tmp_path, content, words):
    root = write_folder(tmp_path / "d", {"a.bmp": content})
    with pytest.raises(DataError, match=f"'a.bmp' is .*{words}.*save.* as PNG"):
        opened(root)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def png_chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


JPEG, PNG = (encoded(noise_picture(0, (16, 16)), kind) for kind in ("JPEG", "PNG"))
GIF = encoded(Image.new("P", (16, 16), 3), "GIF")
IDAT = PNG.index(b"IDAT") - 4


@pytest.mark.parametrize(
    ("start", "part", "end", "words"),
    [
        (b"P6 ", b" ", b"16 16 255\n" + bytes(768), "small parts"),
        (b"P6 #", b"-", b"\n16 16 255\n" + bytes(768), "small parts"),
        (PNG[:33], png_chunk(b"aaAa"), PNG[33:], "small parts"),
        (PNG[:IDAT], png_chunk(b"IDAT"), PNG[IDAT:], "small parts"),
        (PNG[:-12], png_chunk(b"aaAa"), PNG[-12:], "small parts"),
        (PNG[:33], png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)), PNG[33:], "color profiles"),
        (JPEG[:2], segment(0xFE, b""), JPEG[2:], "small parts"),
        (JPEG[:2] + b"\xff\xe0\0\2", b"\0", JPEG[2:], "small parts"),
        (JPEG[:2], segment(0xE1, b"Exif\0\0x"), JPEG[2:], "EXIF segments"),
        (JPEG[:2], segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5000), JPEG[2:], "Photoshop"),
        (GIF[:19] + b"\x21\xfe", b"\1x", b"\0" + GIF[19:], "small parts"),
    ],
)  # fmt: skip
def test_files_of_far_too_many_parts(tmp_path, open_in_child, start, part, end, words):
    number = 1_000_000 if "parts" in words else 2000
    write_zip(tmp_path / "d.zip", {"a.png": start + part * number + end}, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "d.zip").stat().st_size < 300_000
    text = open_in_child(tmp_path / "d.zip")
    assert "refused" in text and words in text and "very long to read; save it again" in text
    write_zip(tmp_path / "d.zip", {"a.png": start + part * 3 + end})
    assert "opened 1" in open_in_child(tmp_path / "d.zip")


def jpeg_of_empty_scans(side, components, number):
    """A progressive JPEG of zeros: the means of blocks, then scans that refine nothing."""
    blocks = (side // 8) ** 2
    sizes = b"".join(bytes([i, 0x11, 0]) for i in range(components))
    parts = [
        segment(0xDB, b"\0" + bytes([1] * 64)), segment(0xC2, struct.pack(">BHHB", 8, side, side, components) + sizes),
        segment(0xC4, bytes([0, 1, *[0] * 15, 0])), segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0])),
        segment(0xDA, bytes([components, *(j for i in range(components) for j in (i, 0)), 0, 0, 0])),
        bytes(blocks * components // 8 + 1),
    ]  # fmt: skip
    for i in range(number):
        head = segment(0xDA, bytes([1, i % components, 0, 1, 63, 0x10 if i >= components else 1]))
        parts += [head, bytes(blocks // 8192 * 2 + 4)]
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def test_scans_of_a_large_jpeg(tmp_path, open_in_child):
    root = write_folder(tmp_path / "d", {"a.jpg": jpeg_of_empty_scans(11584, 1, 50)})
    text = open_in_child(root)
    assert "a JPEG of more than 29 scans of 134189056 pixels, which takes very long" in text
    for side, number in ((11584, 12), (1024, 98)):
        root = write_folder(tmp_path / str(side), {"a.jpg": jpeg_of_empty_scans(side, 1, number)})
        assert "opened 1" in open_in_child(root, resolution=16, resize="box", crop="center")


@pytest.mark.parametrize(("kind", "most"), [("P5", 15), ("P5", 254), ("P5", 4095), ("P6", 254), ("P6", 1023)])
def test_binary_pnm_of_any_largest_value_is_read_as_pillow_does(kind, most):
    rng, channels = np.random.default_rng(0), 3 if kind == "P6" else 1
    values = rng.integers(0, most + 1, (16, 8, channels)).astype(">u2" if most > 255 else "u1")
    values[0, 0] = most + 1  # more than there may be
    content = b"%s 8 16 %d\n" % (kind.encode(), most) + values.tobytes()
    expected, found = Image.open(io.BytesIO(content)), open_image(content)
    assert found.mode == expected.mode
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    with pytest.raises(ValueError, match="cut off before its last pixel"):
        open_image(content[:-1])


def test_slow_encodings_of_usual_size_are_read(tmp_path):
    pictures = {"a.bmp": bmp_of_runs(16, 16), "b.ppm": b"P2 16 16 255 #\n" + b"7 " * 256}
    pictures["c.ppm"] = b"P5 16 16 15 " + bytes(256)
    assert opened(write_folder(tmp_path / "d", pictures), channels=1).num_images == 3


def gray(values, dtype):
    return Image.fromarray(np.asarray(values).astype(dtype))


@pytest.mark.parametrize(
    ("top", "dtype", "divided"),
    [(255, np.int32, 1), (255, np.uint16, 1), (4095, np.uint16, 16), (4095, np.int32, 16), (255, np.float32, 1),
     (65535, np.uint16, 256), (65535, np.float32, 256)],
)  # fmt: skip
def test_deep_images_are_read_by_the_range_of_all(tmp_path, caplog, top, dtype, divided):
    dark, bright = np.full((16, 16), top // 8), np.full((16, 16), top)
    root = write_folder(
        tmp_path / "d", {f"{i}.tif": encoded(gray(values, dtype), "TIFF") for i, values in enumerate((dark, bright))}
    )
    data = opened(root)
    assert [int(data.read(i).max()) for i in (0, 1)] == [top // 8 // divided, 255] and data.num_channels == 1
    assert bool(caplog.text) == (divided != 256 or dtype == np.float32)


def test_floats_a_little_above_one_are_refused(tmp_path):
    pixels = gray(np.full((16, 16), 1.02), np.float32)
    with pytest.raises(DataError, match=r"holds floats up to 1\.02, neither from 0 to 1"):
        opened(write_folder(tmp_path / "d", {"a.tif": encoded(pixels, "TIFF")}))


def test_floats_of_zero_to_one(tmp_path, caplog):
    data = opened(write_folder(tmp_path / "d", {"a.tif": encoded(gray(np.full((16, 16), 0.5), np.float32), "TIFF")}))
    assert data.read(0).max() == 128 and "taken as 0 to 1" in caplog.text


@pytest.mark.parametrize("turned", [1, 6])
def test_white_is_zero_of_any_depth(tmp_path, turned):
    values = np.linspace(0, 65535, 256).astype("<u2").reshape(16, 16)
    pictures = {}
    for name, pixels, white_is_zero in (("a", values, 0), ("b", values >> 8, 0), ("c", ~values, 1)):
        bits, data = (8, pixels.astype(np.uint8)) if name == "b" else (16, pixels)
        tags = [(256, 16), (257, 16), (258, bits), (259, 1), (262, white_is_zero), (274, turned), (277, 1)]
        pictures[f"{name}.tif"] = tiff(tags, data.tobytes())
    data = opened(write_folder(tmp_path / "d", pictures))
    np.testing.assert_array_equal(data.read(0), data.read(2))
    np.testing.assert_allclose(data.read(0).astype(int), data.read(1), atol=1)


def test_floats_of_white_is_zero(tmp_path):
    tags = [(256, 16), (257, 16), (258, 32), (259, 1), (262, 0), (277, 1), (339, 3)]
    root = write_folder(tmp_path / "d", {"a.tif": tiff(tags, bytes(1024))})
    with pytest.raises(DataError, match="a TIFF of floats in which 0 is white"):
        opened(root)


def test_stated_bits_win(tmp_path):
    root = write_folder(tmp_path / "d", {"a.png": encoded(gray(np.full((16, 16), 4000), np.uint16))})
    assert opened(root).read(0).max() == 250 and opened(root, bits=16).read(0).max() == 15
    assert opened(root).fingerprint != opened(root, bits=16).fingerprint


def deep_file(kind, top):
    """A file of values up to a number: of 16-bit gray or color, or of floats."""
    values = np.linspace(0, top, 256).reshape(16, 16)
    if kind == "color":
        return png_of_16_bits(np.repeat(values[..., None], 3, axis=2).astype(np.uint16))
    return encoded(gray(values, kind), "PNG" if kind is np.uint16 else "TIFF")


@pytest.mark.parametrize(
    ("kind", "tops", "dark", "way_out"),
    [(np.uint16, [4095, 65535, 4095], "'0.tif', '2.tif'", "--data.bits 12"),
     (np.int32, [15, 4095], "'0.tif'", "--data.bits 8"),
     ("color", [4095, 65535], "'0.tif'", "8 bits per channel"), (np.float32, [0.01], "'0.tif'", "scale"),
     (np.float32, [200, 60000], "'0.tif'", "scale"), (np.float32, [0.04, 1], "'0.tif'", "scale"),
     (np.uint16, [16383, 65535], "", ""), (np.uint16, [0, 65535], "", ""), (np.uint16, [100, 100], "", ""),
     (np.float32, [0, 255], "", ""), (np.float32, [0.1, 1], "", "")],
)  # fmt: skip
def test_images_that_become_nearly_black_are_named(tmp_path, caplog, kind, tops, dark, way_out):
    opened(write_folder(tmp_path / "d", {f"{i}.tif": deep_file(kind, top) for i, top in enumerate(tops)}))
    (said,) = [text for text in caplog.messages if "nearly black" in text] or [""]
    assert f"e.g. {dark}, have no value above" in said and way_out in said if dark else not said


@pytest.mark.parametrize("tops", [(1, 255), (0.01, 200), (255, 1, 65535)])
def test_floats_of_several_ranges_are_refused(tmp_path, tops):
    files = {f"{i}.tif": deep_file(np.float32, top) for i, top in enumerate(tops)}
    with pytest.raises(DataError, match=r"the floats of '[01].tif' are from 0 to 1, and those of .* one range"):
        opened(write_folder(tmp_path / "d", files))


@pytest.mark.parametrize("value", [-1, 70_000, np.nan, np.inf])
def test_values_that_are_no_intensities(tmp_path, value):
    root = write_folder(tmp_path / "d", {"a.tif": encoded(gray(np.full((16, 16), value), np.float32), "TIFF")})
    with pytest.raises(DataError, match=r"'a.tif' holds values"):
        opened(root)


@pytest.mark.parametrize(("code", "sample_format", "low", "high"), [("I", 1, 70_000, 3e9), ("i", 2, -9, -5)])
def test_values_that_are_no_intensities_are_named(tmp_path, code, sample_format, low, high):
    tags = [(256, 16), (257, 16), (258, 32), (259, 1), (262, 1), (277, 1), (339, sample_format)]
    data = struct.pack(f"<256{code}", *[int(low)] * 100, *[int(high)] * 156)
    with pytest.raises(DataError, match=f"'a.tif' holds values from {low:g} to {re.escape(f'{high:g}')}, "):
        opened(write_folder(tmp_path / "d", {"a.tif": tiff(tags, data)}))


def test_names_are_escaped_in_messages(tmp_path, caplog):
    names = ["x\x1b[2J\n.png", "y‮.png"]
    root = write_folder(tmp_path / "d", {**numbered(1), **dict.fromkeys(names, b"bad")})
    with open(os.fsencode(root) + b"/z\xff.png", "wb") as file:
        file.write(b"bad")
    with pytest.raises(DataError) as caught:
        opened(root)
    assert str(caught.value).isprintable() and "x\\x1b[2J\\n.png" in str(caught.value)
    classes = {"labels": [["a.png", 0], ["b.png", 1]], "class_names": ["\x1b[31mred\n", "\ud800"]}
    pictures = {"a.png": noise_picture(0), "b.png": noise_picture(1)}
    root = write_folder(tmp_path / "e", {**pictures, "dataset.json": json.dumps(classes).encode()})
    assert opened(root, cond=True).describe_labels().isprintable()
    with tarfile.open(tmp_path / "e.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a\nb\x1b"))
    with pytest.raises(DataError) as caught:
        opened(tmp_path / "e.tar")
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_large_files_are_held_one_at_a_time(monkeypatch):
    monkeypatch.setattr(scan, "num_cores", lambda: 2)
    held, most, content = [], [0], encoded(noise_picture(0))

    def read(entry, at_least):
        if entry in (0, 64):
            large_turn.take()
            held.append(entry)
            most[0] = max(most[0], len(held))
            time.sleep(0.2)
            held.remove(entry)
        return content

    scan.scan(read, PackedNames.pack(f"{i}.png" for i in range(128)))
    assert most == [1]
