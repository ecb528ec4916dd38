"""TFRecord data sets: checks of framing and checksums, levels, labels, and conversion to other shapes."""

import pickle

import numpy as np
import pytest
from support.data_sets import label_file, opened

from stylegan_ray.data import BadImage, DataError
from stylegan_ray.data.formats import tfrecord, tfrecord_wire
from stylegan_ray.data.pyramid import downscale


def random_images(num, shape=(3, 16, 16)):
    return np.random.default_rng(0).integers(0, 256, (num, *shape), dtype=np.uint8)


def write_set(root, images, labels=None, name="set"):
    """Writes images [N,C,H,W] at all levels and returns the folder."""
    root.mkdir(exist_ok=True)
    for level in zip(*map(tfrecord_wire.image_levels, images), strict=True):
        file = root / tfrecord_wire.file_name(name, max(level[0].shape[1:]))
        file.write_bytes(tfrecord_wire.frame_records([tfrecord_wire.encode_example(image) for image in level]))
    if labels is not None:
        file, content = label_file(name, np.asarray(labels))
        (root / file).write_bytes(content)
    return root


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 32, 24), (3, 12, 16)])
def test_round_trip_at_every_level(tmp_path, shape):
    images = random_images(9, shape)
    data = pickle.loads(pickle.dumps(opened(write_set(tmp_path / "d", images))))
    assert data.shape() == shape and data.num_images == 9 and data.name(3).endswith("#3")
    for level in range(3):
        np.testing.assert_array_equal([data.read(i, level) for i in range(9)], downscale(images, level))


def test_training_below_the_full_size(tmp_path):
    images = random_images(4, (3, 32, 32))
    root = write_set(tmp_path / "d", images)
    data = opened(root, resolution=8)
    assert data.shape() == (3, 8, 8)
    np.testing.assert_array_equal(data.read(2), downscale(images[2], 2))
    np.testing.assert_array_equal(data.read(2, 1), downscale(images[2], 3))
    with pytest.raises(DataError, match=r"data.resolution=24x24, but"):
        opened(root, resolution=24)
    assert opened(root, resolution=24, resize="lanczos").read(0).shape == (3, 24, 24)
    gray = opened(root, channels=1)
    assert gray.read(0).shape == (1, 32, 32) and gray.read(0, 2).shape == (1, 8, 8)


def test_levels_without_a_file_are_downscaled_from_the_next_larger(tmp_path):
    images = random_images(4, (3, 32, 32))
    root = write_set(tmp_path / "d", images)
    for name in ("set-r02.tfrecords", "set-r03.tfrecords"):
        (root / name).unlink()
    data = opened(root)
    np.testing.assert_array_equal(data.read(1, 2), downscale(downscale(images[1], 1), 1))


def test_labels(tmp_path):
    labels = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    root = write_set(tmp_path / "d", random_images(5), labels)
    assert opened(root).label_size == 0
    np.testing.assert_array_equal(opened(root, cond=True).labels(np.arange(5)), labels[:5])
    np.testing.assert_array_equal(opened(root, cond=True, max_label_size=2).labels(np.array([4])), labels[4:5, :2])
    for content, words in [(labels[:3], "3 rows for 5"), (labels[None], "one row per image")]:
        (root / "set-rxx.labels").write_bytes(label_file("set", content)[1])
        with pytest.raises(DataError, match=words):
            opened(root, cond=True)
    (root / "set-rxx.labels").unlink()
    with pytest.raises(DataError, match=r"no \.labels file"):
        opened(root, cond=True)


def test_endings_in_capital_letters(tmp_path):
    images = random_images(3)
    root = write_set(tmp_path / "d", images, [[0, 1], [1, 0], [0, 1]])
    for file in list(root.iterdir()):
        file.rename(root / file.name.upper())
    data = opened(root, cond=True)
    np.testing.assert_array_equal([data.read(i) for i in range(3)], images)
    assert data.labels(np.arange(3)).argmax(1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("values", [[[2], [0], [1]], [2.0, 0.0, 1.0]])
def test_class_numbers_in_columns_and_floats(tmp_path, values):
    root = write_set(tmp_path / "d", random_images(3))
    np.save(root / "labels.npy", np.array(values))
    (root / "labels.npy").rename(root / "set-rxx.labels")
    data = opened(root, cond=True)
    assert data.label_size == 3 and data.labels(np.arange(3)).argmax(1).tolist() == [2, 0, 1]


@pytest.mark.parametrize("cut", [1, 5, 100, 800])
def test_truncated_files_are_named_with_the_offset(tmp_path, cut):
    root = write_set(tmp_path / "d", random_images(5))
    file = root / "set-r04.tfrecords"
    content = file.read_bytes()
    file.write_bytes(content[:-cut])
    last = len(content) // 5 * 4
    with pytest.raises(DataError, match=rf"set-r04.tfrecords is truncated: the record at byte {last} needs"):
        opened(root)
    file.write_bytes(content[: last + 7])
    with pytest.raises(DataError, match=rf"truncated: the record at byte {last} needs"):
        opened(root)


def test_whole_records_missing_at_the_end(tmp_path):
    root = write_set(tmp_path / "d", random_images(5))
    file = root / "set-r03.tfrecords"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 5 * 4])
    with pytest.raises(DataError, match=r"set-r03.tfrecords holds 4 images .* set-r04.tfrecords 5"):
        opened(root)


def damage(file, offset):
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def test_damaged_length(tmp_path):
    root = write_set(tmp_path / "d", random_images(5))
    file = root / "set-r04.tfrecords"
    second = file.stat().st_size // 5
    damage(file, second)
    with pytest.raises(DataError, match=rf"set-r04.tfrecords is damaged at byte {second}"):
        opened(root)


@pytest.mark.parametrize("where", [20, 500])
def test_damaged_payload(tmp_path, where):
    root = write_set(tmp_path / "d", random_images(5))
    file = root / "set-r04.tfrecords"
    second = file.stat().st_size // 5
    damage(file, second + where)
    with pytest.raises(DataError, match=r"1 of 5 images .*'set-r04.tfrecords#1' .*CRC"):
        opened(root)
    data = opened(root, on_bad_image="skip")
    assert data.is_good.tolist() == [True, False, True, True, True]


def test_payloads_of_huge_sets_are_checked_when_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "CHECK_BYTES", 0)
    images = random_images(5)
    root = write_set(tmp_path / "d", images)
    damage(root / "set-r04.tfrecords", (root / "set-r04.tfrecords").stat().st_size // 5 + 500)
    data = opened(root)
    np.testing.assert_array_equal(data.read(0), images[0])
    with pytest.raises(BadImage, match=r"set-r04.tfrecords#1.*CRC"):
        data.read(1)


def test_records_larger_than_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "PIECE_BYTES", 1000)
    images = random_images(7, (3, 32, 32))
    data = opened(write_set(tmp_path / "d", images))
    np.testing.assert_array_equal([data.read(i) for i in range(7)], images)


def test_shapes_that_differ(tmp_path):
    root = write_set(tmp_path / "d", random_images(2))
    payloads = [tfrecord_wire.encode_example(random_images(1, shape)[0]) for shape in [(3, 16, 16), (3, 8, 8)]]
    (root / "set-r04.tfrecords").write_bytes(tfrecord_wire.frame_records(payloads))
    with pytest.raises(DataError, match=r"is of shape \(3, 8, 8\), not \(3, 16, 16\)"):
        opened(root)


def test_a_second_opening_reads_no_record(tmp_path):
    root, calls = write_set(tmp_path / "d", random_images(5), np.eye(5)), []
    first = opened(root, progress=lambda *call: calls.append(call))
    assert calls[-1][2].startswith("checking TFRecords")
    calls.clear()
    assert opened(root, progress=lambda *call: calls.append(call)).fingerprint == first.fingerprint
    assert not calls


def write_shards(root, images, names):
    """Writes images in several files of one resolution."""
    root.mkdir(exist_ok=True)
    for name, part in zip(names, np.array_split(images, len(names)), strict=True):
        records = [tfrecord_wire.encode_example(image) for image in part]
        (root / name).write_bytes(tfrecord_wire.frame_records(records))
    return root


@pytest.mark.parametrize("check_bytes", [1 << 35, 0])
def test_shards_of_one_resolution_are_joined_by_number(tmp_path, monkeypatch, check_bytes):
    monkeypatch.setattr(tfrecord, "CHECK_BYTES", check_bytes)
    images, names = random_images(7), [f"train-{i:05d}-of-00003.tfrecords" for i in range(3)]
    root = write_shards(tmp_path / "d", images, names)
    (root / "x.labels").write_bytes(label_file("x", np.eye(7))[1])
    data = opened(root, cond=True)
    assert data.num_images == 7 and data.name(3) == f"{names[1]}#0"
    np.testing.assert_array_equal([data.read(i) for i in range(7)], images)
    np.testing.assert_array_equal(data.labels(np.arange(7)).argmax(1), np.arange(7))


def test_a_damaged_record_of_a_shard_is_that_image_alone(tmp_path):
    root = write_shards(tmp_path / "d", random_images(6), ["a-0-of-2.tfrecords", "a-1-of-2.tfrecords"])
    content = bytearray((root / "a-1-of-2.tfrecords").read_bytes())
    content[-10] ^= 1
    (root / "a-1-of-2.tfrecords").write_bytes(content)
    data = opened(root, on_bad_image="skip")
    assert list(data.bad) == [5]


def test_files_of_one_resolution_that_are_no_shards_are_refused_by_name(tmp_path):
    for names in (["a.tfrecords", "b.tfrecords"], ["a-0-of-2.tfrecords", "b-1-of-2.tfrecords"]):
        root = write_shards(tmp_path / names[1], random_images(4), names)
        with pytest.raises(DataError, match=rf"'{names[0]}', '{names[1]}' hold images of one size"):
            opened(root)


def test_several_label_files_are_named_and_not_used(tmp_path):
    root = write_set(tmp_path / "d", random_images(4), np.eye(4))
    (root / "other.labels").write_bytes(label_file("x", np.eye(4))[1])
    assert opened(root).num_images == 4
    with pytest.raises(DataError, match=r"several \.labels files, 'other\.labels', 'set-rxx\.labels'"):
        opened(root, cond=True)


def test_levels_of_two_data_sets_are_refused_by_name(tmp_path):
    root = write_shards(tmp_path / "d", random_images(4, (3, 32, 32)), ["cats-r05.tfrecords"])
    write_shards(root, random_images(4), ["dogs-r04.tfrecords"])
    with pytest.raises(DataError, match=r"'cats-r05\.tfrecords', 'dogs-r04\.tfrecords' are of different .*one name: N"):
        opened(root, resolution=16)


@pytest.mark.parametrize(
    "names",
    [("set_32", "set_16"), ("a-256-r05", "a-256-r04"), ("32", "16"), ("a-32x32", "a-16x16"), ("a-r5-0-of-1", "a-r4")],
)
def test_levels_have_names_of_many_kinds(tmp_path, names):
    images = random_images(4, (3, 32, 32))
    root = write_shards(tmp_path / "d", images, [f"{names[0]}.tfrecords"])
    write_shards(root, downscale(images, 1), [f"{names[1]}.tfrecords"])
    np.testing.assert_array_equal(opened(root, resolution=16).read(1), downscale(images[1], 1))


def test_labels_of_another_data_set_are_named_and_not_used(tmp_path):
    root = write_set(tmp_path / "d", random_images(4), np.eye(4), name="cats-256")
    assert opened(root, cond=True).label_size == 4
    (root / "cats-256-rxx.labels").rename(root / "dogs-rxx.labels")
    assert opened(root).num_images == 4
    with pytest.raises(DataError, match=r"'dogs-rxx\.labels' is named after another .*name it 'cats-256-rxx\.labels'"):
        opened(root, cond=True)
    (root / "dogs-rxx.labels").rename(root / "labels.labels")
    assert opened(root, cond=True).label_size == 4


def test_too_few_class_numbers_with_gaps_are_refused_before_they_are_renumbered(tmp_path):
    root = write_set(tmp_path / "d", random_images(6))
    with open(root / "x.labels", "wb") as file:
        np.save(file, np.array([5, 100_000, 5]))
    with pytest.raises(DataError, match="3 rows for 6 images"):
        opened(root, cond=True, renumber_classes=True)


@pytest.mark.parametrize("there", [[1], [0, 2]])
def test_labels_are_not_those_of_missing_parts(tmp_path, caplog, there):
    images, labels = random_images(6), [0, 0, 1, 1, 2, 2]
    (tmp_path / "d").mkdir()
    for part in there:
        records = [tfrecord_wire.encode_example(image) for image in images[2 * part : 2 * part + 2]]
        name = f"set-r04-{part:05d}-of-00003.tfrecords"
        (tmp_path / "d" / name).write_bytes(tfrecord_wire.frame_records(records))
    file, content = label_file("set", np.asarray(labels))
    (tmp_path / "d" / file).write_bytes(content)
    assert opened(tmp_path / "d").num_images == 2 * len(there)
    assert f"{3 - len(there)} of 3 parts are missing" in caplog.text
    with pytest.raises(DataError, match=r"parts are missing: 'set-r04-0000\d-of-00003\.tfrecords'.*of other images"):
        opened(tmp_path / "d", cond=True)
