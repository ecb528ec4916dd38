"""Parquet data sets."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_sets import chw, encoded, noise_picture, opened, write_folder

from stylegan_ray.data import DataError
from stylegan_ray.data.files import FileInfo
from stylegan_ray.data.formats import parquet, parquet_pages
from stylegan_ray.data.reals import RealsSource


def write_parquet(path, images, labels=None, names=None, group=4, plain=False):
    """Writes encoded images as Hugging Face data sets store them."""
    path.parent.mkdir(exist_ok=True)
    content = [encoded(image) for image in images]
    column = pa.array(content) if plain else pa.array([{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(content)])
    columns = {"id": pa.array(range(len(images))), "image": column}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns)
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("plain", [False, True])
def test_parquet_shards(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)  # groups are read again and again
    images = [noise_picture(i) for i in range(17)]
    write_parquet(tmp_path / "d" / "0.parquet", images[:10], [i % 2 for i in range(10)], ["a", "b"], plain=plain)
    write_parquet(tmp_path / "d" / "1.parquet", images[10:], [1] * 7, ["a", "b"], plain=plain)
    data = opened(tmp_path / "d", cond=True, shuffle="blocks")
    assert data.num_images == 17 and data.name(12) == "1.parquet#2" and data.block_rows == 4
    assert data.class_names == ("a", "b")
    for copy in (data, pickle.loads(pickle.dumps(data))):
        np.testing.assert_array_equal([copy.read(i) for i in range(17)], [chw(image) for image in images])
    assert data.labels(np.arange(17)).argmax(1).tolist() == [0, 1] * 5 + [1] * 7
    assert opened(f"file://{tmp_path}/d").fingerprint == opened(tmp_path / "d").fingerprint


def test_parquet_blocks_are_row_groups(tmp_path):
    data = opened(write_parquet(tmp_path / "d.parquet", [noise_picture(i) for i in range(40)]), shuffle="blocks")
    indices = RealsSource(data, 0, shuffle="blocks").indices(np.arange(40))
    assert sorted(indices) == list(range(40)) and data.block_rows == 4


def with_hole(path, size):
    """Puts a hole before the footer of a file."""
    content = path.read_bytes()
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    with open(path, "wb") as file:
        file.write(content[:begin])
        file.seek(size, os.SEEK_CUR)
        file.write(content[begin:])


@pytest.mark.parametrize("num_files", [1, 20])
@pytest.mark.parametrize(("hole", "filling"), [(0, 0), (1 << 19, 0), (0, 1 << 20)])
def test_rows_without_images_are_refused_before_they_are_read(tmp_path, monkeypatch, num_files, hole, filling):
    monkeypatch.setattr(parquet, "scan", lambda *_: pytest.fail("read"))
    num = 400_000 // num_files
    table = pa.table({"image": pa.nulls(num, pa.binary()), "other": [bytes(filling // num_files)] + [None] * (num - 1)})
    for number in range(num_files):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path, row_group_size=num, use_dictionary=False, compression={"image": "zstd"})
        if hole:
            with_hole(path, hole // num_files)
    with pytest.raises(DataError, match=rf"parquet claims {num} rows, {num} of them in row groups, in .* of images"):
        opened(tmp_path)


def test_a_parquet_file_of_holes_is_refused(tmp_path):
    path = write_parquet(tmp_path / "d.parquet", [noise_picture(i) for i in range(4)])
    with_hole(path, 2 << 20)
    with pytest.raises(DataError, match=r"d\.parquet: the file: 2\.\d+ MB, of which only .* are on the disk"):
        opened(path)


DELTA = {"use_dictionary": False, "data_page_version": "2.0"}


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_delta_encodings_are_read(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_LABEL_BYTES", 1000)
    images, texts = [noise_picture(i) for i in range(6)], ["a", None, "b", "a", "c", "b"]
    table = pa.table({"image": [{"bytes": encoded(image), "path": ""} for image in images], "label": texts})
    encodings = {"image.bytes": encoding, "label": encoding}
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=4, column_encoding=encodings, **DELTA)
    data = opened(tmp_path / "d.parquet", shuffle="blocks")
    np.testing.assert_array_equal([data.read(i) for i in range(6)], [chw(image) for image in images])
    with pytest.raises(DataError, match=r"the label of 'd\.parquet#1' is None"):
        opened(tmp_path / "d.parquet", shuffle="blocks", cond=True)
    table = table.set_column(1, "label", pa.array(["a" if text is None else text for text in texts]))
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=4, column_encoding=encodings, **DELTA)
    data = opened(tmp_path / "d.parquet", shuffle="blocks", cond=True)
    assert data.labels(np.arange(6)).argmax(1).tolist() == [0, 0, 1, 0, 2, 1]


@pytest.mark.parametrize("dtype", [pa.binary(), pa.large_binary(), pa.binary_view(), "dictionary"])
@pytest.mark.parametrize("is_struct", [False, True])
def test_bytes_in_any_layout_of_arrow_are_images(tmp_path, dtype, is_struct):
    content = [encoded(noise_picture(i)) for i in range(3)]
    column = pa.array(content).dictionary_encode() if dtype == "dictionary" else pa.array(content, dtype)
    column = pa.StructArray.from_arrays([column], ["bytes"]) if is_struct else column
    texts = [pa.array(["a", "b", "b"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())]
    for number, labels in enumerate([*texts, texts[0].dictionary_encode()]):
        pq.write_table(pa.table({"image": column, "label": labels}), tmp_path / f"{number}.parquet")
        data = opened(tmp_path / f"{number}.parquet", shuffle="blocks", cond=True)
        np.testing.assert_array_equal(data.read(2), chw(noise_picture(2)))
        assert data.labels(np.arange(3)).argmax(1).tolist() == [0, 1, 1]


@pytest.mark.parametrize("twice", ["image", "label"])
def test_columns_of_one_name_are_refused(tmp_path, twice):
    columns = {"image": pa.array([encoded(noise_picture(0))]), "label": pa.array([0])}
    table = pa.Table.from_arrays([*columns.values(), columns[twice]], [*columns, twice])
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match=rf"d\.parquet has 2 columns '{twice}'; write it again with one"):
        opened(tmp_path / "d.parquet", shuffle="blocks")


def test_parquet_by_full_shuffle_warns(tmp_path, caplog):
    opened(write_parquet(tmp_path / "d.parquet", [noise_picture(0)]))
    assert "data.shuffle=full" in caplog.text and "data.shuffle=blocks" in caplog.text


def test_parquet_refusals(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(DataError, match=r"data.path=.*not a whole Parquet file"):
        opened(tmp_path / "x.parquet")
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match="no column of encoded images, only a, b"):
        opened(tmp_path / "y.parquet")
    path = write_parquet(tmp_path / "z.parquet", [noise_picture(0)])
    with pytest.raises(DataError, match="column `label`"):
        opened(path, cond=True)
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": "a.png"}, {"bytes": b"", "path": ""}]}), tmp_path / "n.parquet"
    )
    with pytest.raises(DataError, match=r"2 of 2 .*is a path or empty"):
        opened(tmp_path / "n.parquet")
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100)
    (tmp_path / "w").mkdir()
    with pytest.raises(DataError, match=r"row group 0 of w.parquet takes"):
        opened(write_parquet(tmp_path / "w" / "w.parquet", [noise_picture(0)]))


def test_files_that_name_their_classes_differently_have_no_labels(tmp_path):
    images = [noise_picture(i) for i in range(2)]
    for name, classes in (("0", ["cat", "dog"]), ("1", ["dog", "cat"])):
        write_parquet(tmp_path / "d" / f"{name}.parquet", images, [0, 1], classes)
    assert opened(tmp_path / "d").num_images == 4
    with pytest.raises(DataError, match=r"'cat', 'dog' in '0\.parquet', but 'dog', 'cat' in '1\.parquet'"):
        opened(tmp_path / "d", cond=True)


def test_texts_that_look_alike_are_different_classes(tmp_path):
    texts = ["a\nb", "a\\nb", "x" * 300 + "1", "x" * 300 + "2"]
    data = opened(write_parquet(tmp_path / "d.parquet", [noise_picture(i) for i in range(4)], texts), cond=True)
    assert data.label_size == 4 and max(map(len, data.class_names)) < 210
    assert data.class_name(0) == data.class_name(1) == "a\\nb"


def claiming(path, old, new):
    """A Parquet file whose footer claims another size, in as many bytes (zigzag varint)."""
    width, parts = (2 * old).bit_length() // 7 + ((2 * old).bit_length() % 7 > 0), []
    for number in (2 * old, 2 * new):
        parts.append(bytes(number >> 7 * i & 127 | (i < width - 1) << 7 for i in range(width)))
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert parts[0] in content[footer:]
    path.write_bytes(content[:footer] + content[footer:].replace(*parts))
    return path


def test_sizes_are_those_of_the_pages_not_of_the_footer(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 1 << 20)
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"image": [bytes(3 << 20)]}), path, compression="zstd", use_dictionary=False)
    size = pq.ParquetFile(path).metadata.row_group(0).total_byte_size
    with pytest.raises(DataError, match=r"row group 0 of d\.parquet takes 3 MiB"):
        opened(claiming(path, size, 1000))


def test_footers_say_what_arrow_reads_in_them(tmp_path):
    numbers = {"none": 0, "snappy": 1, "gzip": 2, "brotli": 4, "zstd": 6, "lz4": 7}
    for name, number in numbers.items():
        images = pa.array([{"bytes": encoded(noise_picture(0)), "path": "x"}] * 3)
        table = pa.table({"image": images, "label": [0, 1, 2], "vector": [[1.5, 2.5], [], None]})
        pq.write_table(table, tmp_path / "d.parquet", compression=name, row_group_size=2)
        with open(tmp_path / "d.parquet", "rb") as file:
            footer = parquet_pages.read_footer(file, (tmp_path / "d.parquet").stat().st_size)
        stated = pq.ParquetFile(tmp_path / "d.parquet").metadata
        assert footer.num_rows == 3 and len(footer.groups) == stated.num_row_groups == 2
        for place, group in enumerate(footer.groups):
            theirs = stated.row_group(place)
            assert (group.num_rows, group.size) == (theirs.num_rows, theirs.total_byte_size)
            for own, column in zip(group.chunks, map(theirs.column, range(theirs.num_columns)), strict=True):
                offsets = (column.dictionary_page_offset, column.data_page_offset)
                assert own == (
                    column.path_in_schema, number, column.num_values, column.total_compressed_size,
                    min(offset for offset in offsets if offset is not None),
                ), name  # fmt: skip


def test_an_unknown_codec_is_refused_before_arrow_is_asked_for_its_name(tmp_path):
    """Arrow ends the process there (found by fuzzing)."""
    path = write_parquet(tmp_path / "d.parquet", [noise_picture(0)], plain=True)
    content, refused = bytearray(path.read_bytes()), 0
    for at in range(len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content) - 8):
        changed = bytearray(content)
        changed[at] = 34  # 17 in Thrift's compact protocol
        try:
            parquet_pages.read_footer(io.BytesIO(changed), len(changed))
        except ValueError as error:
            if "unknown codec 17" in str(error):
                path.write_bytes(changed)
                refused += 1
    assert refused == 2, "the codec of each column"
    with pytest.raises(DataError, match=r"d\.parquet: it is compressed by the unknown codec 17"):
        opened(path, shuffle="blocks")


def test_statistics_that_do_not_fit_end_no_process(tmp_path):
    """A file that fuzzing made: Arrow ends the process where it is asked for the column."""
    path = tmp_path / "d.parquet"
    path.write_bytes((Path(__file__).parents[2] / "fixtures/statistics_that_do_not_fit.parquet").read_bytes())
    with pytest.raises(DataError, match=r"d\.parquet: the page at byte [0-9]+ has a damaged header"):
        opened(path, shuffle="blocks")


def test_labels_are_few_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_LABEL_VALUES", 1000)
    path = write_parquet(tmp_path / "d.parquet", [noise_picture(0)], [[0] * 1500])
    with pytest.raises(DataError, match=r"labels of row group 0 of d\.parquet are 1500 numbers, and may be 1000"):
        opened(path)
    with pytest.raises(DataError, match=r"labels of row group 0 of d\.parquet are 1500 numbers, and may be 1000"):
        opened(claiming(path, 1500, 100))


def test_paths_and_labels_of_any_size_are_not_read(tmp_path, monkeypatch):
    picture, read, columns = encoded(noise_picture(0)), pq.ParquetFile.read_row_group, []
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *args, **keys: columns.append(keys["columns"]) or read(*args, **keys)
    )
    table = pa.table({"image": [{"bytes": picture, "path": "x" * 1000}], "label": [b"x" * 1000]})
    pq.write_table(table, tmp_path / "d.parquet")
    assert opened(tmp_path / "d.parquet").num_images == 1 and set(map(tuple, columns)) == {("image.bytes",)}
    with pytest.raises(DataError, match="not all Parquet files have a column `label` of numbers, texts or vectors"):
        opened(tmp_path / "d.parquet", cond=True)


def test_columns_that_may_be_labels_are_named(tmp_path):
    table = pa.table({"image": [encoded(noise_picture(0))], "fine_label": [3], "coarse_label": [1]})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"the columns of 'd\.parquet' are 'image', 'fine_label', 'coarse_label'"):
        opened(tmp_path / "d.parquet", cond=True)


def test_a_damaged_file_beside_a_thumbnail_is_named(tmp_path):
    root = write_folder(tmp_path / "d", {"thumbnail.png": noise_picture(0), "data/train-0.parquet": b"PAR1"})
    with pytest.raises(DataError, match=r"train-0\.parquet is not a whole Parquet file"):
        opened(root)


def test_other_columns_may_be_large(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100_000)
    mask = np.random.default_rng(0).bytes(60_000)
    table = pa.table({"image": [encoded(noise_picture(i)) for i in range(2)], "notes": [mask] * 2})
    pq.write_table(table, tmp_path / "d.parquet", compression="none", use_dictionary=False)
    assert opened(tmp_path / "d.parquet").num_images == 2


@pytest.mark.parametrize(("place", "words"), [(0, "overlaps another one"), (10**6, "and the file ends at")])
def test_column_chunks_that_overlap_or_leave_the_file(tmp_path, place, words):
    table = pa.table({"image": [encoded(noise_picture(i)) for i in range(40)]})
    path = tmp_path / "d.parquet"
    pq.write_table(table, path, row_group_size=20, use_dictionary=False, write_statistics=False, compression="none")
    columns = [pq.ParquetFile(path).metadata.row_group(i).column(0) for i in range(2)]
    with pytest.raises(DataError, match=rf"d\.parquet: its .*{words}"):
        opened(claiming(path, columns[1].data_page_offset, place or columns[0].data_page_offset + 8192))


def test_pages_are_few():
    pages = b"\x15\0\x15\0\x15\0\0" * 20_000
    info, chunk = FileInfo("d.parquet", len(pages), 0), parquet_pages.Chunk("label", 2, 1, len(pages), 0)
    with pytest.raises(DataError, match=r"d\.parquet has more than 10546 pages in 140 kB; write it again with larger"):
        parquet._check_chunk(io.BytesIO(pages), chunk, 0, info)
    few = chunk._replace(size=7 * 5000)
    group = parquet_pages.Group(1, 0, [few])
    parquet._check_pages(io.BytesIO(pages), parquet_pages.Footer(2, [group] * 2), "image", info)
    with pytest.raises(DataError, match="more than 10546 pages"):
        parquet._check_pages(io.BytesIO(pages), parquet_pages.Footer(3, [group] * 3), "image", info)


def test_many_columns_are_looked_at_once(tmp_path, monkeypatch):
    footers, read = [], parquet_pages.read_footer
    monkeypatch.setattr(parquet, "read_footer", lambda *args: footers.append(args) or read(*args))
    columns = {f"c{i}": [b"x"] for i in range(300)} | {"photograph": [encoded(noise_picture(0))]}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    assert opened(tmp_path / "d.parquet", shuffle="blocks").num_images == 1 and len(footers) == 2
