"""Micro-batches of reals: a function of the data and the position, whatever the micro-batch and the process."""

import multiprocessing
import pickle

import numpy as np
import pytest
from support.data_sets import label_json, noise_picture, numbered, opened, write_folder, write_zip

from stylegan_ray.data import BadImage, DataError
from stylegan_ray.data.reals import RealsSource


@pytest.fixture
def ten(tmp_path):
    names = sorted(numbered(10))
    labels = label_json([[name, i % 3] for i, name in enumerate(names)])
    return write_zip(tmp_path / "ten.zip", {**numbered(10), "dataset.json": labels})


@pytest.fixture
def with_bad_one(tmp_path):
    """Ten images of which 003.png is truncated."""
    files = numbered(10)
    root = write_folder(tmp_path / "ten", files)
    content = (root / "003.png").read_bytes()
    (root / "003.png").write_bytes(content[: len(content) // 2])
    return root


def in_child(source, positions, queue):
    queue.put(source.micro_batch(positions))


def test_images_do_not_depend_on_the_micro_batch(ten):
    source = RealsSource(opened(ten, cond=True), seed=1, mirror_augment=True)
    images, labels = source.micro_batch(np.arange(24))
    for start in range(0, 24, 3):
        part = source.micro_batch(np.arange(start, start + 3))
        np.testing.assert_array_equal(part[0], images[start : start + 3])
        np.testing.assert_array_equal(part[1], labels[start : start + 3])


def test_labels_belong_to_their_images(ten):
    data = opened(ten, cond=True)
    source = RealsSource(data, seed=1)
    images, labels = source.micro_batch(np.arange(10))
    whole = {data.read(i).tobytes(): i % 3 for i in range(10)}
    assert [whole[image.tobytes()] for image in images] == labels.argmax(1).tolist()


def test_half_of_the_images_are_flipped(ten):
    data = opened(ten)
    plain, flipped = RealsSource(data, seed=1), RealsSource(data, seed=1, mirror_augment=True)
    positions = np.arange(200)
    before, after = plain.micro_batch(positions)[0], flipped.micro_batch(positions)[0]
    mirrored = flipped.mirrored(positions)
    assert 70 < mirrored.sum() < 130
    np.testing.assert_array_equal(after[mirrored], before[mirrored][:, :, :, ::-1])
    np.testing.assert_array_equal(after[~mirrored], before[~mirrored])


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_threads_share_the_images(ten, threads):
    one, several = (RealsSource(opened(ten, cond=True), 1, mirror_augment=True, threads=n) for n in (1, threads))
    for num in (0, 1, 7, 24):
        for expected, got in zip(one.micro_batch(np.arange(num)), several.micro_batch(np.arange(num)), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_of_several_errors_that_of_the_first_position_is_raised(tmp_path):
    folder = write_folder(tmp_path / "bad", numbered(10))
    data = opened(folder)
    for name in list(numbered(10))[4:]:
        (folder / name).write_bytes(b"no image")
    errors = []
    for threads in (1, 3):
        with pytest.raises(BadImage) as caught:
            RealsSource(data, seed=4, threads=threads).micro_batch(np.arange(10))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(ten, method):
    source = RealsSource(opened(ten, cond=True), seed=1, mirror_augment=True, threads=2)
    here = source.micro_batch(np.arange(5))  # opens the zip before the fork
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=in_child, args=(source, np.arange(5), queue))
    child.start()
    there = queue.get(timeout=60)
    child.join()
    np.testing.assert_array_equal(there[0], here[0])
    np.testing.assert_array_equal(there[1], here[1])


def test_pickles_small(tmp_path):
    data = opened(write_folder(tmp_path / "many", {f"{i:04d}.png": noise_picture(0, (8, 8)) for i in range(300)}))
    assert len(pickle.dumps(RealsSource(data, 0))) < 300 * 40 + 3000


def test_skip_uses_the_next_good_image_of_the_pass(tmp_path, with_bad_one):
    whole = opened(write_folder(tmp_path / "whole", numbered(10)))
    damaged = opened(with_bad_one, on_bad_image="skip")
    expected = RealsSource(whole, seed=4)
    got = RealsSource(damaged, seed=4, on_bad_image="skip").micro_batch(np.arange(30))[0]
    order = expected.indices(np.arange(30)).reshape(3, 10)
    for data_pass, images in enumerate(got.reshape(3, 10, *got.shape[1:])):
        for place, image in enumerate(images):
            bad = order[data_pass, place] == 3
            index = order[data_pass, (place + 1) % 10] if bad else order[data_pass, place]
            np.testing.assert_array_equal(image, whole.read(int(index)))


def test_error_names_position_file_and_reason(with_bad_one):
    source = RealsSource(opened(with_bad_one, on_bad_image="skip"), seed=4)
    position = source.indices(np.arange(10)).tolist().index(3)
    with pytest.raises(BadImage, match=rf"'003.png' \(sample position {position}\).*truncated.*skip") as caught:
        source.micro_batch(np.array([position]))
    again = pickle.loads(pickle.dumps(caught.value))  # Ray carries errors between processes
    assert str(again) == str(caught.value)


def test_a_data_set_of_bad_images_is_an_error(tmp_path):
    source = RealsSource(opened(write_folder(tmp_path / "few", numbered(3))), seed=0, on_bad_image="skip")
    for name in numbered(3):
        (tmp_path / "few" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"data.path=.*no image.*--check"):
        source.micro_batch(np.array([0]))


def test_levels(tmp_path):
    data = opened(write_folder(tmp_path / "few", numbered(4)))
    source = RealsSource(data, seed=0)
    small = source.micro_batch(np.arange(4), level=2)[0]
    full = source.micro_batch(np.arange(4))[0].astype(float)
    assert small.shape == (4, 3, 4, 4)
    np.testing.assert_array_equal(small, np.rint(full.reshape(4, 3, 4, 4, 4, 4).mean((3, 5))))
