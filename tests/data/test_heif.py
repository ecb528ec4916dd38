"""HEIC images: named where they are not read, read with data.extra_formats=heif."""

import sys

import numpy as np
import pytest
from PIL import Image
from support.data_sets import chw, encoded, noise_picture, numbered, opened, write_folder, write_zip

from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.data import DataError
from stylegan_ray.options import train_options

pillow_heif = pytest.importorskip("pillow_heif")
KEYS = {"extra_formats": ("heif",)}


@pytest.fixture
def one(tmp_path):
    """A HEIC file without loss, as pillow-heif writes it."""
    path = tmp_path / "made.heic"
    pillow_heif.from_pillow(noise_picture(7, (64, 64))).save(path, quality=-1, chroma=444, matrix_coefficients=0)
    return path.read_bytes()


def test_beside_other_images_they_are_counted_and_named(tmp_path, one, caplog):
    images = numbered(2, size=(64, 64))
    root = write_folder(tmp_path / "d", {**images, "a.HEIC": one, "b.heif": one})
    for path in (root, write_zip(tmp_path / "d.zip", {**images, "a.HEIC": one, "b.heif": one})):
        caplog.clear()
        assert opened(path).num_images == 2
        assert "2 HEIC images (read them with --data.extra_formats heif): 'a.HEIC', 'b.heif'" in caplog.text
        caplog.clear()
        data = opened(path, **KEYS)
        assert data.num_images == 4 and "HEIC" not in caplog.text
        np.testing.assert_allclose(data.read(2).astype(int), chw(noise_picture(7, (64, 64))).astype(int), atol=2)


def test_the_content_decides_and_not_the_name(tmp_path, one):
    root = write_folder(tmp_path / "d", {"a.png": one, "b.heic": encoded(noise_picture(1, (64, 64)))})
    with pytest.raises(DataError, match=r"'a.png' is a HEIC image, .*data.extra_formats=heif"):
        opened(root)
    data = opened(root, **KEYS)
    np.testing.assert_array_equal(data.read(1), chw(noise_picture(1, (64, 64))))


def test_without_the_key_nothing_is_decoded_though_the_package_is_loaded(tmp_path, one):
    root = write_folder(tmp_path / "d", {"a.png": one, "b.png": noise_picture(1, (64, 64))})
    assert opened(root, **KEYS).num_images == 2
    with pytest.raises(DataError, match="is a HEIC image"):
        opened(root)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "d", numbered(2))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"data.extra_formats=heif needs .*stylegan-ray\[heif\]"):
        opened(root, **KEYS)
    assert opened(root).num_images == 2


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match=r"data\.extra_formats"):
        load_config("tiny", {"data.extra_formats": ["exr"]})


def test_the_key_on_the_command_line_and_on_resume():
    cfg = train_options(["tiny", "openmoji", "--data.extra_formats", "heif"], "train").cfg
    assert cfg.data.extra_formats == ("heif",)
    assert cfg.digest() == load_config("tiny", {"data.path": "openmoji"}).digest(), "the data's fingerprint decides"


def test_damage_is_a_bad_image(tmp_path, one):
    root = write_folder(tmp_path / "d", {"a.heic": one, "b.heic": one[: len(one) // 2], "c.heic": one[:40]})
    data = opened(root, on_bad_image="skip", **KEYS)
    assert sorted(data.bad) == [1, 2]


def test_images_are_upright(tmp_path):
    """libheif turns them itself, and the EXIF orientation does not do so again."""
    picture, exif = noise_picture(3, (64, 96)), Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(picture).save(tmp_path / "x.heic", quality=-1, exif=exif.tobytes())
    root = write_folder(tmp_path / "d", {"a.heic": (tmp_path / "x.heic").read_bytes()})
    width, height = pillow_heif.open_heif(tmp_path / "x.heic").size
    assert opened(root, **KEYS).resolution == (height, width)


def test_large_ones_are_refused_before_they_are_decoded(tmp_path, one):
    root = write_folder(tmp_path / "d", {"a.heic": one, "b.png": noise_picture(1, (64, 64))})
    pillow_heif.from_pillow(noise_picture(3, (640, 640))).save(root / "c.heic", quality=1)
    with pytest.raises(DataError, match=r"'c.heic' is 640x640 pixels, more than data.max_image_mb=1"):
        opened(root, max_image_mb=1, **KEYS)
