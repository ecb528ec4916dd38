"""data.balance: every class equally often, by position."""

import numpy as np
import pytest
from support.data_sets import noise_picture, opened, write_folder

from stylegan_ray.config import ConfigError, DataConfig, load_config
from stylegan_ray.data import DataError
from stylegan_ray.data.reals import RealsSource, label_source_of
from stylegan_ray.rng import Place, SeededDraws

SIZES = {"cat": 3, "dog": 7, "owl": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pictures = {f"{kind}/{i}.png": noise_picture(i) for kind, number in SIZES.items() for i in range(number)}
    return write_folder(tmp_path_factory.mktemp("balance") / "d", pictures)


def test_every_round_shows_each_class_once_and_every_image_of_a_class_before_one_comes_again(folder):
    source = RealsSource(opened(folder, cond=True, balance=True), seed=5, balance=True)
    indices = source.indices(np.arange(3 * 21))
    classes = source.dataset.classes[indices].reshape(21, 3)
    assert (np.sort(classes, axis=1) == np.arange(3)).all()
    assert len({tuple(row) for row in classes.tolist()}) > 1, "in another order each time"
    for number, size in enumerate(SIZES.values()):
        of_class = indices[source.dataset.classes[indices] == number].reshape(-1, size)
        assert (np.sort(of_class, axis=1) == of_class.min() + np.arange(size)).all()


def test_a_position_alone_decides(folder):
    source = RealsSource(opened(folder, cond=True, balance=True), seed=5, balance=True)
    whole = source.indices(np.arange(30))
    assert [int(source.indices(np.array([i]))[0]) for i in range(30)] == whole.tolist()
    assert (whole != RealsSource(source.dataset, seed=6, balance=True).indices(np.arange(30))).any()


def test_labels_of_fakes_are_drawn_from_classes_equally(folder):
    dataset = opened(folder, cond=True, balance=True)
    for balance, expected in ((True, [1 / 3, 1 / 3, 1 / 3]), (False, [3 / 11, 7 / 11, 1 / 11])):
        source = label_source_of(DataConfig(cond=True, balance=balance), dataset)
        labels = SeededDraws(0, 0, source).fake_labels("G_main", Place(0, 0, 0), 3000, 3).numpy()
        np.testing.assert_allclose(labels.mean(axis=0), expected, atol=0.05)


def test_classes_stay_equally_often_where_images_are_bad(tmp_path):
    """A bad image is replaced by one of its class, and a class of bad images alone is left out, of labels too."""
    pictures = {f"{kind}/{i}.png": noise_picture(i) for kind in ("cat", "dog", "owl") for i in range(4)}
    pictures |= {f"cat/{i}.png": b"not an image" for i in range(3)} | {f"owl/{i}.png": b"" for i in range(4)}
    data = opened(write_folder(tmp_path / "d", pictures), cond=True, balance=True, on_bad_image="skip")
    source = RealsSource(data, seed=5, balance=True, on_bad_image="skip")
    for labels in (
        source.micro_batch(np.arange(400))[1],
        SeededDraws(0, 0, label_source_of(DataConfig(cond=True, balance=True), data))
        .fake_labels("G_main", Place(0, 0, 0), 400, 3)
        .numpy(),
    ):
        np.testing.assert_allclose(labels.mean(axis=0), [0.5, 0.5, 0], atol=0.06)
    assert data.describe_labels().startswith("2 classes (images): dog 4, cat 1")
    for entry in [entry for entry in data.bad if data.names[entry].startswith("cat")]:
        del data.bad[entry]  # as if they were found bad only when they are read
    del data.__dict__["images_by_class"]
    assert source.micro_batch(np.arange(60))[1].sum(axis=0).tolist() == [30, 30, 0]


def test_what_has_no_classes_is_refused(folder):
    for keys in ({}, {"data.cond": True, "data.shuffle": "blocks"}):
        with pytest.raises(ConfigError, match=r"data\.balance=true needs"):
            load_config("tiny", {"data.balance": True, **keys})
    dataset = opened(folder, cond=True)
    dataset.label_values = np.random.default_rng(0).random((11, 3)).astype(np.float32)
    with pytest.raises(DataError, match=r"not one class each.*data\.balance=true"):
        _ = dataset.images_by_class


def test_classes_are_listed_and_unused_labels_are_named(folder):
    assert opened(folder, cond=True).describe_labels() == "3 classes (images): dog 7, cat 3, owl 1"
    assert opened(folder).describe_labels() == "labels of size 3 are ignored; --data.cond trains on them"
