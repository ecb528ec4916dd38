"""Decoded pictures that are kept: the same bits, decoded once a node, bounded, and never in the way."""

import errno
import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pytest
from support.data_sets import encoded, noise_picture, numbered, opened, write_folder, write_zip

from stylegan_ray.data import BadImage, pixel_cache
from stylegan_ray.data.dataset import DecodedPictures
from stylegan_ray.data.formats import tfrecord_wire
from stylegan_ray.data.pixel_cache import KeptPictures, needed_bytes
from stylegan_ray.data.reals import RealsSource

PICTURE = 3 * 16 * 16
NUM = 10


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "ten", numbered(NUM))


@pytest.fixture
def decoded(monkeypatch):
    """The names of the pictures that this process decodes."""
    names, decode = [], DecodedPictures.decoded

    def noted(pictures, name, content, level):
        names.append(name)
        return decode(pictures, name, content, level)

    monkeypatch.setattr(DecodedPictures, "decoded", noted)
    return names


def keeping(data, gb=1.0):
    """The data set with pictures kept in the cache of the test."""
    result = pixel_cache.kept(data, gb)
    assert isinstance(result.pictures, KeptPictures)
    return result


def all_of(data, level=0):
    return np.stack([data.read(i, level) for i in range(data.num_images)])


def files_in(cache):
    return sorted((cache / "decoded").glob("*"))


def put_in_child(data, queue):
    queue.put(all_of(data))


@pytest.mark.parametrize("keys", [{}, {"subset": 6}, {"resolution": 8, "resize": "lanczos"}, {"channels": 1}])
@pytest.mark.parametrize("level", [0, 2])
def test_same_bits_and_each_picture_decoded_once(root, decoded, keys, level):
    plain = all_of(opened(root, **keys), level)
    decoded.clear()
    for data_pass in range(3):
        data = keeping(opened(root, **keys))  # as after a restart
        np.testing.assert_array_equal(all_of(data, level), plain)
        np.testing.assert_array_equal(all_of(data, level), plain)
        assert len(decoded) == len(set(decoded)) == len(plain), f"pass {data_pass}"


def test_micro_batches_are_the_same(tmp_path):
    data = opened(write_zip(tmp_path / "ten.zip", numbered(NUM)))
    plain = RealsSource(data, seed=1, mirror_augment=True)
    source = RealsSource(keeping(data), seed=1, mirror_augment=True)
    for start in range(0, 40, 8):
        positions = np.arange(start, start + 8)
        np.testing.assert_array_equal(source.micro_batch(positions)[0], plain.micro_batch(positions)[0])


def test_levels_are_kept_apart(root, decoded, cache):
    data = keeping(opened(root))
    for _ in range(2):
        for level in range(4):
            np.testing.assert_array_equal(data.read(3, level), opened(root).read(3, level))
    assert len(files_in(cache)) == 4 and len(decoded) == 4 + 2 * 4
    assert sum(path.stat().st_size for path in files_in(cache)) <= needed_bytes(data)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_what_one_has_decoded(root, method):
    data, context = keeping(opened(root)), multiprocessing.get_context(method)
    here, queue = all_of(data), context.Queue()  # opens the file before the fork
    shutil.rmtree(root)
    child = context.Process(target=put_in_child, args=(data, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), here)
    child.join()
    assert child.exitcode == 0
    np.testing.assert_array_equal(all_of(data), here)


def flipped(content):
    """One bit of picture 3 changed."""
    place = NUM * 4 + 3 * PICTURE + 100
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def exchanged(content):
    """Pictures 3 and 4 in each other's place, with their checksums."""
    crc, pixels = (np.frombuffer(part, np.uint8).reshape(NUM, -1).copy() for part in (content[:40], content[40:]))
    for part in (crc, pixels):
        part[[3, 4]] = part[[4, 3]]
    return crc.tobytes() + pixels.tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        exchanged,
        lambda content: content[: 40 + 3 * PICTURE + 7],
        lambda content: content[:13],
        lambda content: b"",
        lambda content: bytes(len(content)),
        lambda content: content[:40] + bytes(len(content) - 40),
        lambda content: np.random.default_rng(0).bytes(len(content) + 99),
    ],
    ids=["bit", "exchanged", "cut", "cut_in_table", "empty", "zeros", "torn", "foreign"],
)
def test_damaged_pictures_are_decoded_and_kept_again(root, decoded, cache, damage, caplog):
    plain = all_of(keeping(opened(root)))
    (path,) = files_in(cache)
    path.write_bytes(damage(path.read_bytes()))
    decoded.clear()
    for num in (1, 0):
        np.testing.assert_array_equal(all_of(keeping(opened(root))), plain)
        assert (len(decoded) >= num) if num else not decoded
        decoded.clear()
    assert not caplog.text


def test_file_of_another_data_set_is_not_believed(tmp_path, root, cache):
    all_of(keeping(opened(root)))
    (path,) = files_in(cache)
    others = {name: noise_picture(i + 50) for i, name in enumerate(numbered(NUM))}
    data = opened(write_folder(tmp_path / "others", others))
    keeping(data).read(0)
    (other,) = set(files_in(cache)) - {path}
    shutil.copy(path, other)
    np.testing.assert_array_equal(all_of(keeping(data)), all_of(data))


def test_other_libraries_decode_again(root, decoded, monkeypatch):
    all_of(keeping(opened(root)))
    decoded.clear()
    monkeypatch.setattr(pixel_cache.features, "version", lambda name: "another")
    all_of(keeping(opened(root)))
    assert len(decoded) == NUM


def test_files_changed_since_the_opening_are_not_kept(root, decoded, cache):
    data, before = keeping(opened(root)), (root / "003.png").read_bytes()
    (root / "003.png").write_bytes(encoded(noise_picture(99)))
    np.testing.assert_array_equal(data.read(3), np.asarray(noise_picture(99)).transpose(2, 0, 1))
    (root / "003.png").write_bytes(before)
    np.testing.assert_array_equal(data.read(3), np.asarray(noise_picture(3)).transpose(2, 0, 1))
    assert decoded == ["003.png"] * 2


@pytest.mark.parametrize("takes_half", [False, True])
def test_full_disk_warns_once(root, cache, monkeypatch, caplog, takes_half):
    data, pwrite, room = keeping(opened(root)), os.pwrite, 3 * (PICTURE + 4)

    def failing(descriptor, content, offset):
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room -= len(content)
        if room <= 0 and takes_half:
            return pwrite(descriptor, content[: len(content) // 2], offset)
        return pwrite(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    for _ in range(2):
        np.testing.assert_array_equal(all_of(data), all_of(opened(root)))
    (record,) = caplog.records
    said = record.getMessage()
    assert record.levelname == "WARNING" and str(cache / "decoded") in said and "cluster.keep_decoded_gb" in said
    assert os.strerror(errno.ENOSPC) in said
    monkeypatch.undo()
    np.testing.assert_array_equal(all_of(pixel_cache.kept(opened(root), 1)), all_of(opened(root)))


@pytest.mark.parametrize("call", ["open", "pread", "ftruncate"])
def test_storage_that_fails_warns_once(root, monkeypatch, caplog, call):
    data, plain, works = keeping(opened(root)), all_of(opened(root)), getattr(os, call)

    def failing(what, *more):
        if call != "open" or str(what).endswith(pixel_cache.ENDING):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return works(what, *more)

    monkeypatch.setattr(os, call, failing)
    for level in (0, 1, 0):
        all_of(data, level)
    np.testing.assert_array_equal(all_of(data), plain)
    assert len(caplog.records) == 1 and os.strerror(errno.EIO) in caplog.text


def test_folder_that_cannot_be_made_warns(root, cache, caplog):
    data = opened(root)
    cache.mkdir(exist_ok=True)
    (cache / "decoded").write_bytes(b"")
    assert pixel_cache.kept(data, 1) is data and "cluster.keep_decoded_gb" in caplog.text


def test_half_of_the_free_disk_is_left(root, monkeypatch, caplog):
    data, usage = opened(root), shutil.disk_usage(root)
    needed = needed_bytes(data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * needed - 1))
    assert pixel_cache.kept(data, 1) is data and "more than half" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * needed))
    all_of(keeping(data))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed + needed // 2))
    all_of(keeping(data))  # what is kept already asks for no more room


def test_least_recently_used_files_make_room(tmp_path, cache, decoded):
    sets = []
    for i in range(3):
        pictures = {name: noise_picture(100 * i + j) for j, name in enumerate(numbered(NUM))}
        sets.append(opened(write_folder(tmp_path / f"{i}", pictures)))
    gb = 2.5 * NUM * (PICTURE + 4) / 1e9
    first, second, third = (keeping(data, gb) for data in sets)
    all_of(first)
    (path,) = files_in(cache)
    plain = all_of(second)
    for file in files_in(cache):
        os.utime(file, (1, 1))
    all_of(keeping(sets[0], gb))  # used again
    all_of(third)
    assert path in files_in(cache) and len(files_in(cache)) == 2
    assert sum(512 * file.stat().st_blocks for file in files_in(cache)) <= gb * 1e9 + 2 * 4096
    decoded.clear()
    np.testing.assert_array_equal(all_of(second), plain)  # removed while it is open
    assert not decoded
    np.testing.assert_array_equal(all_of(keeping(sets[1], gb)), plain)
    assert len(decoded) == NUM and len(files_in(cache)) == 2


def test_what_cannot_be_kept_is_the_data_set_itself(tmp_path, root, monkeypatch):
    data = opened(root)
    needed = needed_bytes(data)
    assert NUM * PICTURE * 1.3 < needed < NUM * PICTURE * 1.4
    assert pixel_cache.kept(data, 0) is data and pixel_cache.kept(data, (needed - 1) / 1e9) is data
    keeping(data, (needed + 1) / 1e9)
    (tmp_path / "records").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (NUM, 3, 16, 16), dtype=np.uint8)
    content = tfrecord_wire.framed([tfrecord_wire.encode_example(picture) for picture in pixels])
    (tmp_path / "records" / tfrecord_wire.file_name("set", 16)).write_bytes(content)
    records = opened(tmp_path / "records")
    assert pixel_cache.kept(records, 1) is records
    monkeypatch.setattr(pixel_cache, "DECODE_UP_TO", NUM - 1)
    assert pixel_cache.kept(data, 1) is data
    subset = opened(root, subset=2)  # its pictures are not told apart by more than their headers either
    assert pixel_cache.kept(subset, 1) is subset
    monkeypatch.undo()
    monkeypatch.delattr(os, "pread")
    assert pixel_cache.kept(data, 1) is data


def test_bad_pictures_are_never_kept(root, tmp_path, decoded):
    content = (root / "003.png").read_bytes()
    data = keeping(opened(root, on_bad_image="skip"))
    (root / "003.png").write_bytes(content[: len(content) // 2])
    for _ in range(2):
        with pytest.raises(BadImage, match=r"003\.png"):
            data.read(3)
    damaged = opened(root, on_bad_image="skip")
    plain = RealsSource(damaged, seed=4, on_bad_image="skip").micro_batch(np.arange(30))[0]
    for _ in range(2):
        source = RealsSource(keeping(damaged), seed=4, on_bad_image="skip")
        np.testing.assert_array_equal(source.micro_batch(np.arange(30))[0], plain)
    (root / "003.png").write_bytes(content)
    np.testing.assert_array_equal(data.read(3), np.asarray(noise_picture(3)).transpose(2, 0, 1))


def test_pickles_small(tmp_path):
    data = opened(write_folder(tmp_path / "many", {f"{i:04d}.png": noise_picture(0, (8, 8)) for i in range(300)}))
    source = RealsSource(keeping(data), 0)
    source.micro_batch(np.arange(300))
    assert len(pickle.dumps(source)) < len(pickle.dumps(RealsSource(data, 0))) + 1000
    again = pickle.loads(pickle.dumps(source)).micro_batch(np.arange(9))[0]
    np.testing.assert_array_equal(again, np.stack([data.read(0)] * 9))


def test_relative_cache_folder_stays_where_it_was(root, tmp_path, monkeypatch, decoded):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLEGAN_RAY_CACHE", "here")
    data = keeping(opened(root))
    monkeypatch.chdir("/")
    all_of(pickle.loads(pickle.dumps(data)))
    assert len(list((tmp_path / "here" / "decoded").iterdir())) == 1
