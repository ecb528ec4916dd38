"""Opening data sets: what is found, what is refused and how, and what is cached."""

import errno
import os
import pickle
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from support.data_sets import chw, encoded, label_json, noise_picture, numbered, opened, write_folder, write_zip
from support.s3 import s3_server

from stylegan_ray.data import BadImage, DataError, scan
from stylegan_ray.storage import Storage


def test_folder_is_read_at_any_depth_in_the_order_of_names(tmp_path):
    files = {"b/2.png": noise_picture(2), "a.PNG": noise_picture(1), "b/1.jpg": encoded(noise_picture(3), "JPEG")}
    extra = {"notes.txt": b"no image", ".hidden.png": b"", "b/._2.png": b"x", "__MACOSX/2.png": b"x"}
    data = opened(write_folder(tmp_path / "d", {**files, **extra}))
    assert [data.name(i) for i in range(data.num_images)] == ["a.PNG", "b/1.jpg", "b/2.png"]
    np.testing.assert_array_equal(data.read(2), chw(files["b/2.png"]))
    assert (data.resolution, data.num_channels, data.label_size) == ((16, 16), 3, 0)
    assert data.labels(np.arange(3)).shape == (3, 0)


@pytest.mark.parametrize(("num", "starts"), [(scan.CHUNK, False), (scan.CHUNK + 1, True)])
def test_a_few_images_are_checked_without_threads(tmp_path, monkeypatch, num, starts):
    pools, make = [], scan.ThreadPoolExecutor
    monkeypatch.setattr(scan, "ThreadPoolExecutor", lambda **kwargs: pools.append(1) or make(**kwargs))
    assert opened(write_zip(tmp_path / "d.zip", numbered(num))).num_images == num
    assert bool(pools) == starts


def test_zip_and_folder_in_a_bucket_whose_address_carries_options(tmp_path):
    local = write_zip(tmp_path / "d.zip", numbered(3))
    with s3_server():
        bucket = Storage.at("s3://bucket")
        bucket.write("sets/d.zip", local.read_bytes())
        bucket.write("sets/images/001.png", encoded(noise_picture(1)))
        zipped = opened("s3://bucket/sets/d.zip?region=eu-west-1")
        folder = opened("s3://bucket/sets/images?region=eu-west-1")
        np.testing.assert_array_equal(zipped.read(1), chw(noise_picture(1)))
        np.testing.assert_array_equal(folder.read(0), chw(noise_picture(1)))


def test_labels_from_sub_folders(tmp_path):
    root = write_folder(
        tmp_path / "d", {f"{kind}/{i}.png": noise_picture(i) for kind in ("cat", "dog") for i in (0, 1)}
    )
    data = opened(root, cond=True)
    assert data.class_names == ("cat", "dog")
    np.testing.assert_array_equal(data.labels(np.array([0, 3])), [[1, 0], [0, 1]])
    assert opened(root).label_size == 0


def test_labels_from_json(tmp_path):
    soft = [["000.png", [0.25, 0.75, 1]], ["002.png", [0, 0, 0]], ["001.png", [1, 2, 3]]]
    data = opened(write_folder(tmp_path / "soft", {**numbered(3), "dataset.json": label_json(soft)}), cond=True)
    np.testing.assert_array_equal(data.labels(np.array([1, 0])), np.float32([[1, 2, 3], [0.25, 0.75, 1]]))
    hard = [["000.png", 4], ["001.png", 0], ["002.png", 2]]
    root = write_folder(tmp_path / "hard", {**numbered(3), "dataset.json": label_json(hard)})
    data = opened(root, cond=True)
    assert data.label_size == 5 and data.labels(np.arange(3)).argmax(1).tolist() == [4, 0, 2]
    limited = opened(root, cond=True, max_label_size=3)
    np.testing.assert_array_equal(limited.labels(np.arange(3)), [[0, 0, 0], [1, 0, 0], [0, 0, 1]])
    assert opened(root, cond=True, max_label_size=0).label_size == 0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([["000.png", 0]], "'001.png'"),
        ([["000.png", 0], ["001.png", 1], ["gone.png", 1]], "'gone.png'"),
        ([["000.png", 0], ["001.png", [1.0]]], "must hold"),
        ([["000.png", 0], ["001.png", -1]], "class -1 is negative"),
        ([["000.png", [0.5]], ["001.png", [float("nan")]]], "finite"),
        ({"000.png": 0}, "must hold"),
        (None, "holds no labels"),
    ],
)
def test_wrong_label_files(tmp_path, labels, words):
    root = write_folder(tmp_path / "d", {**numbered(2), "dataset.json": label_json(labels)})
    with pytest.raises(DataError, match=f"data.cond=True needs labels.*{words}.*--data.no-cond"):
        opened(root, cond=True)
    assert opened(root).num_images == 2  # labels are not read without data.cond


@pytest.mark.parametrize("pack", [write_folder, write_zip])
@pytest.mark.parametrize(
    ("images", "label_file", "names"),
    [
        (["0.png", "1.png"], "Dataset.JSON", ["0.png", "1.png"]),
        (["a/0.png", "b/1.png"], "dataset.JSON", ["a/0.png", "b/1.png"]),
        (["set/0.png", "set/1.png"], "set/dataset.json", ["set/0.png", "set/1.png"]),
        (["0.png", "1.png"], "dataset.json", ["./0.png", "./1.png"]),
        (["0.png", "1.png"], "dataset.json", ["/data/set/0.png", "/data/set/1.png"]),
        (["0.png", "1.png"], "dataset.json", ["0.PNG", "1.Png"]),
        (["images/0.png", "images/1.png"], "dataset.json", ["0.png", "1.png"]),
        (["a/0.png", "b/1.png"], "dataset.json", ["0.png", "1.png"]),
    ],
)
def test_names_that_agree_in_form_only(tmp_path, pack, images, label_file, names):
    files = {name: noise_picture(i) for i, name in enumerate(images)}
    pairs = zip(names, [1, 0], strict=True)
    data = opened(pack(tmp_path / "d.zip", {**files, label_file: label_json(list(pairs))}), cond=True)
    assert data.labels(np.arange(2)).argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize("name", ["a\u0308/0.png", "A/0.PNG", "top/a/0.png"])
def test_only_images_that_lack_a_label_are_named(tmp_path, name):
    """The others agree in form."""
    given = {"a\u0308/0.png": "\u00e4/0.png", "A/0.PNG": "a/0.png", "top/a/0.png": "a/0.png"}[name]
    images = {name: noise_picture(0), f"{name[0]}{name[1:].partition('/')[0]}/q.png": noise_picture(1)}
    root = write_folder(tmp_path / "d", {**images, "dataset.json": label_json([[given, 1]])})
    with pytest.raises(DataError, match=r"no label for '[^']*/q\.png'; its names"):
        opened(root, cond=True)


def test_names_that_are_ambiguous_are_shown(tmp_path):
    files = {"a/0.png": noise_picture(0), "b/0.png": noise_picture(1)}
    root = write_folder(tmp_path / "d", {**files, "dataset.json": label_json([["0.png", 1], ["1.png", 0]])})
    with pytest.raises(DataError, match=r"no label for 'a/0\.png', 'b/0\.png'; its names are such as '0\.png'"):
        opened(root, cond=True)


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        (["2", "10", "1"], [1, 2, 0], ("1", "2", "10")),
        (["10.0", "2.0", "2.5"], [2, 0, 1], ("2.0", "2.5", "10.0")),
        (["2", "10", "x"], [1, 0, 2], ("10", "2", "x")),
        ([1.0, 0.0, 2], [1, 0, 2], None),
        ([[2], [0], [1]], [2, 0, 1], None),
    ],
)
def test_classes_in_texts_floats_and_lists(tmp_path, labels, classes, names):
    pairs = [[f"00{i}.png", label] for i, label in enumerate(labels)]
    data = opened(write_folder(tmp_path / "d", {**numbered(3), "dataset.json": label_json(pairs)}), cond=True)
    assert data.labels(np.arange(3)).argmax(1).tolist() == classes and data.class_names == names
    assert data.label_size == 3


@pytest.mark.parametrize("labels", [[[1], [0], [1]], [[-1], [1], [2]], [[2.0], [0.0], [1.0]]])
def test_vectors_of_one_attribute_stay_vectors(tmp_path, labels):
    pairs = [[f"00{i}.png", label] for i, label in enumerate(labels)]
    data = opened(write_folder(tmp_path / "d", {**numbered(3), "dataset.json": label_json(pairs)}), cond=True)
    assert data.labels(np.arange(3)).tolist() == labels


@pytest.mark.parametrize("content", [b'[["000.png", 0]]', b'{"000.png": 0}'])
def test_label_files_of_another_form_show_theirs(tmp_path, content):
    root = write_folder(tmp_path / "d", {**numbered(1), "dataset.json": content})
    with pytest.raises(DataError, match=r'dataset\.json must hold {"labels": .*: it is .*000\.png'):
        opened(root, cond=True)


def test_cond_without_any_labels(tmp_path):
    with pytest.raises(DataError, match="sub-folder per class"):
        opened(write_folder(tmp_path / "d", numbered(2)), cond=True)


def test_missing_paths_name_what_is_near(tmp_path):
    write_folder(tmp_path / "images", numbered(1))
    with pytest.raises(DataError, match=r"data.path=.*does not exist.*'images'"):
        opened(tmp_path / "imges")
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "no" / "such.zip")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match=r"data.path=.*file.txt.*folder.*zip"):
        opened(tmp_path / "file.txt")


def test_empty_sets(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data.path=.* holds no images"):
        opened(tmp_path / "empty")
    with pytest.raises(DataError, match=r"data.path=.* holds no images"):
        opened(write_zip(tmp_path / "empty.zip", {}))


def test_unreadable_images_are_named_and_counted(tmp_path):
    bad = {f"x{i}.png": b"no image" for i in range(4)} | {"w.png": encoded(noise_picture(0))[:200], "v.png": b""}
    root = write_folder(tmp_path / "d", {**numbered(3), **bad})
    with pytest.raises(DataError) as caught:
        opened(root)
    text = str(caught.value)
    assert "6 of 9 images" in text and "--data.on_bad_image skip" in text
    assert "'v.png'" in text and "'w.png'" in text and "truncated" in text
    data = opened(root, on_bad_image="skip")
    assert data.num_images == 9 and data.is_good.tolist() == [True] * 3 + [False] * 6
    with pytest.raises(BadImage, match=r"x0\.png"):
        data.read(5)
    with pytest.raises(DataError, match="6 of 6"):
        opened(write_folder(tmp_path / "all", bad), on_bad_image="skip")


def test_sizes_that_differ(tmp_path):
    sizes = [(16, 16), (16, 16), (40, 24)]
    root = write_folder(tmp_path / "d", {f"{i}.png": noise_picture(i, size) for i, size in enumerate(sizes)})
    with pytest.raises(
        DataError, match=r"2 sizes .*16x16: '0.png' and 1 more; 40x24: '2.png'.*--data.resolution 16 --data"
    ):
        opened(root)
    with pytest.raises(DataError, match=r"data.resolution=16x16, but .* 40x24 .*'2.png'; try .*--data.crop center"):
        opened(root, resolution=16)
    with pytest.raises(DataError, match=r"data.resolution=32x32.*--data.resize lanczos"):
        opened(root, resolution=32, crop="center")
    data = opened(root, resolution=16, crop="center", resize="lanczos")
    assert data.read(2).shape == (3, 16, 16)
    cut = opened(root, resolution=16, crop="center")
    np.testing.assert_array_equal(cut.read(2), chw(noise_picture(2, (40, 24)))[:, 12:28, 4:20])


@pytest.mark.parametrize(
    ("size", "fits"),
    [((16, 16), 1), ((12, 16), 1), ((64, 48), 1), ((96, 160), 1), ((100, 100), 0), ((46, 46), 0), ((4, 4), 0)],
)
def test_resolutions_that_the_networks_can_have(tmp_path, size, fits):
    root = write_folder(tmp_path / "d", numbered(2, size=size))
    if fits:
        assert opened(root).resolution == size
    else:
        with pytest.raises(DataError, match=r"data.path=.*--data.resolution"):
            opened(root)


def test_non_square_target(tmp_path):
    root = write_folder(tmp_path / "d", numbered(2, size=(30, 40)))
    data = opened(root, resolution=(16, 24), crop="center", resize="box")
    expected = noise_picture(0, (30, 40)).crop((0, 1, 40, 28)).resize((24, 16), Image.Resampling.BOX)
    np.testing.assert_array_equal(data.read(0), chw(expected))


def test_square_crop_without_a_resolution(tmp_path):
    sizes = [(16, 20), (24, 16), (16, 16)]
    root = write_folder(tmp_path / "d", {f"{i}.png": noise_picture(i, size) for i, size in enumerate(sizes)})
    data = opened(root, crop="center")
    np.testing.assert_array_equal(data.read(0), chw(noise_picture(0, (16, 20)))[:, :, 2:18])


def test_gray_and_color(tmp_path):
    root = write_folder(tmp_path / "d", {"c.png": noise_picture(0), "g.png": noise_picture(1, mode="L")})
    with pytest.raises(DataError, match=r"1 color and 1 gray .*'c.png' and 'g.png'.*--data.channels 3"):
        opened(root)
    color, gray = opened(root, channels=3), opened(root, channels=1)
    np.testing.assert_array_equal(color.read(1), np.repeat(chw(noise_picture(1, mode="L")), 3, axis=0))
    np.testing.assert_array_equal(gray.read(0), chw(noise_picture(0).convert("L")))
    assert opened(write_folder(tmp_path / "g", numbered(2, mode="L"))).num_channels == 1


def test_transparent_images(tmp_path):
    picture = noise_picture(0, mode="RGBA")
    root = write_folder(tmp_path / "d", {"a.png": picture, "b.png": noise_picture(1)})
    with pytest.raises(DataError, match=r"1 images.*'a.png'.*--data.alpha white"):
        opened(root)
    pixels = np.asarray(picture).astype(float)
    share = pixels[:, :, 3:] / 255
    for policy, expected in [
        ("white", pixels[:, :, :3] * share + 255 * (1 - share)),
        ("black", pixels[:, :, :3] * share),
        ("drop", pixels[:, :, :3]),
    ]:
        got = opened(root, alpha=policy).read(0).transpose(1, 2, 0)
        assert np.abs(got - expected).max() <= 1, policy
    picture.putalpha(255)
    opaque = opened(write_folder(tmp_path / "opaque", {"a.png": picture}))
    np.testing.assert_array_equal(opaque.read(0), chw(picture)[:3])


def test_gray_of_16_bits_bilevel_and_palette_images(tmp_path):
    gray = noise_picture(0, mode="L")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 256 + 7)
    bilevel, palette = gray.convert("1"), noise_picture(0).convert("P")
    root = write_folder(tmp_path / "gray", {"16bit.png": deep, "1bit.png": bilevel})
    data = opened(root)
    np.testing.assert_array_equal(data.read(0)[0], np.asarray(gray))
    np.testing.assert_array_equal(data.read(1)[0], np.asarray(bilevel) * 255)
    data = opened(write_folder(tmp_path / "palette", {"p.png": palette}))
    np.testing.assert_array_equal(data.read(0), chw(palette.convert("RGB")))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo = noise_picture(0, (16, 32))
    data = opened(
        write_folder(tmp_path / "d", {"p.jpg": encoded(photo, "JPEG", exif=exif, quality=100, subsampling=0)})
    )
    assert data.resolution == (32, 16)
    turned = np.rot90(np.asarray(photo), -1).transpose(2, 0, 1)
    assert np.abs(data.read(0).astype(int) - turned).mean() < 3


def huge_png(side):
    """A small file whose header claims an image of side x side."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [12_000, 30_000])
def test_decompression_bombs_are_refused(tmp_path, side):
    root = write_folder(tmp_path / "d", {**numbered(2), "bomb.png": huge_png(side)})
    with pytest.raises(DataError, match=r"1 of 3 .*'bomb.png'.*(pixels|decompression bomb)"):
        opened(root)


def test_a_second_opening_reads_no_image(tmp_path):
    root = write_folder(tmp_path / "d", numbered(5))
    calls = []
    first = opened(root, progress=lambda *call: calls.append(call))
    assert calls[-1] == (5, 5, "checking images")
    calls.clear()
    assert opened(root, progress=lambda *call: calls.append(call)).fingerprint == first.fingerprint
    assert not calls
    assert opened(root, resolution=8, resize="box").read(0).shape == (3, 8, 8)


@pytest.mark.parametrize("change", ["add", "remove", "rewrite", "label"])
def test_changed_data_is_read_again(tmp_path, change):
    root = write_folder(tmp_path / "d", numbered(3))
    before = opened(root)
    if change == "remove":
        (root / "001.png").unlink()
    else:
        new = {"add": {"9.png": noise_picture(9)}, "rewrite": {"001.png": noise_picture(9)}}
        labels = {"dataset.json": label_json([[f"00{i}.png", i] for i in range(3)])}
        write_folder(root, new.get(change, labels))
    after = opened(root)
    assert after.fingerprint != before.fingerprint
    assert after.num_images == {"add": 4, "remove": 2}.get(change, 3)


def test_fingerprint_depends_on_content_and_decoding_not_on_path_or_time(tmp_path):
    first = opened(write_folder(tmp_path / "a", numbered(4)))
    assert opened(write_folder(tmp_path / "b", numbered(4))).fingerprint == first.fingerprint
    for keys in [{"resolution": 8, "resize": "box"}, {"channels": 1}, {"subset": 3}]:
        assert opened(tmp_path / "a", **keys).fingerprint != first.fingerprint


def test_an_index_that_cannot_be_read_or_cached_is_built_again(tmp_path, cache):
    root = write_folder(tmp_path / "d", numbered(2))
    opened(root)
    (kept,) = (cache / "prepared").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    assert opened(root).num_images == 2
    kept.unlink()
    (cache / "prepared").rmdir()
    (cache / "prepared").write_text("in the way")
    assert opened(root).num_images == 2


def test_the_old_index_of_changed_data_is_deleted(tmp_path, cache):
    root = write_folder(tmp_path / "d", numbered(2))
    opened(root)
    write_folder(root, {"9.png": noise_picture(9)})
    opened(root)
    assert len(list((cache / "prepared").glob("*.npz"))) == 1


def test_only_headers_of_very_large_sets_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "DECODE_UP_TO", 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(noise_picture(0, (16, 32)), "JPEG", exif=exif)
    root = write_folder(
        tmp_path / "d",
        {**numbered(3, size=(32, 16)), "t.jpg": turned, "u.tif": encoded(noise_picture(0, (32, 16)), "TIFF")},
    )
    content = (root / "001.png").read_bytes()
    (root / "001.png").write_bytes(content[:400])
    data = opened(root)
    assert data.resolution == (32, 16) and data.num_images == 5
    with pytest.raises(BadImage, match="truncated"):
        data.read(1)


def test_subset_depends_on_the_seed(tmp_path):
    root = write_folder(tmp_path / "d", numbered(20))
    some = [opened(root, seed=seed, subset=7).rows.tolist() for seed in (0, 0, 1, 2**40)]
    assert some[0] == some[1] != some[2] and all(len(rows) == 7 and rows == sorted(rows) for rows in some)
    assert opened(root, subset=50).num_images == 20


def test_file_that_vanished_is_an_io_error(tmp_path):
    data = opened(write_folder(tmp_path / "d", numbered(2)))
    (tmp_path / "d" / "001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"001.png"):
        data.read(1)


def test_links_are_followed_once(tmp_path):
    root = write_folder(tmp_path / "d", numbered(2))
    (root / "again").symlink_to(root)
    (tmp_path / "other").symlink_to(root)
    assert opened(tmp_path / "other").num_images == 2


def test_names_that_are_not_ascii(tmp_path):
    names = ["ä.png", "日本/1.png", "a b'c.png"]
    data = opened(write_folder(tmp_path / "d", {name: noise_picture(0) for name in names}))
    assert [data.name(i) for i in range(3)] == sorted(names)
    data = opened(write_zip(tmp_path / "d.zip", {name: noise_picture(0) for name in names}))
    assert data.read(0).shape == (3, 16, 16) and [data.name(i) for i in range(3)] == sorted(names)


def test_reading_needs_no_torch(tmp_path):
    """Decoding processes start faster without it."""
    data = opened(write_folder(tmp_path / "d", numbered(1)))
    (tmp_path / "pickled").write_bytes(pickle.dumps(data))
    code = (
        "import pickle, sys; pickle.load(open(sys.argv[1], 'rb')).read(0); print({'torch', 'ray'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pickled")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_labels_that_do_not_go_together_are_named_with_their_images(tmp_path):
    root = write_folder(tmp_path / "d", numbered(2))
    for first, second, words in (
        ("x", 1, "the label of '001.png' is 1, that of '000.png' 'x'"),
        (3, [1, 2], "the label of '001.png' is [1, 2], that of '000.png' 3"),
        (None, None, "the label of '000.png' is None, neither a class number nor a vector"),
    ):
        (root / "dataset.json").write_bytes(label_json([["000.png", first], ["001.png", second]]))
        with pytest.raises(DataError, match=re.escape(words)):
            opened(root, cond=True)


@pytest.mark.parametrize("pack", [write_folder, write_zip])
def test_one_label_file_holds_labels_of_splits_that_are_not_used(tmp_path, pack):
    labels = [["train/0/a.png", 0], ["train/1/b.png", 1], ["test/0/c.png", 1]]
    files = {name: noise_picture(i) for i, (name, _) in enumerate(labels)}
    path = pack(tmp_path / "d.zip", {**files, "dataset.json": label_json(labels)})
    assert opened(path, cond=True).labels(np.arange(2)).argmax(1).tolist() == [0, 1]
    path = pack(tmp_path / "e.zip", {**files, "dataset.json": label_json([*labels, ["train/1/z.png", 1]])})
    with pytest.raises(DataError, match=r"names 'train/1/z\.png', which"):
        opened(path, cond=True)


@pytest.mark.parametrize("pack", [write_folder, write_zip])
def test_each_split_may_have_its_own_label_file(tmp_path, pack):
    names = {"train/a.png": 1, "train/b.png": 0, "test/c.png": 0}
    files: dict = {name: noise_picture(i) for i, name in enumerate(names)}
    for split in ("train", "test"):
        labels = [[name.partition("/")[2], label] for name, label in names.items() if name.startswith(split)]
        files[f"{split}/dataset.json"] = label_json(labels)
    assert opened(pack(tmp_path / "d.zip", files), cond=True).labels(np.arange(2)).argmax(1).tolist() == [1, 0]


def test_labels_that_are_cut_off_or_have_gaps_are_told(tmp_path):
    root = write_folder(
        tmp_path / "d", numbered(3) | {"dataset.json": label_json([[f"00{i}.png", i * 4] for i in range(3)])}
    )
    assert (
        opened(root, cond=True)
        .describe_labels()
        .endswith("; labels of size 9, of which 6 classes have no images (--data.renumber_classes leaves them out)")
    )
    cut = opened(root, cond=True, max_label_size=2)
    assert cut.describe_labels() == "of labels of size 9 data.max_label_size=2 keeps 2"
    with pytest.raises(DataError, match=r"not one class each.*data\.max_label_size=2 keeps 2"):
        cut.check_classes()
    assert "max_label_size=0 keeps 0" in opened(root, cond=True, max_label_size=0).describe_labels()
    many = write_folder(
        tmp_path / "e", numbered(2) | {"dataset.json": label_json([["000.png", 1], ["001.png", 10**6]])}
    )
    assert "--data.renumber_classes trains on them" in opened(many).describe_labels()


def test_files_that_may_not_be_read_are_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "denied", str(path))

    root = write_folder(tmp_path / "d", {"x/0.png": noise_picture(0)})
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match=r"data\.path=.*/none does not exist$"):
        opened(tmp_path / "none")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"data\.path={root}: .*/d/ cannot be read: Permission denied"):
        opened(root)


def test_names_in_messages_are_printable(tmp_path):
    for ending in (".tar", ".parquet", ".tfrecords"):
        root = write_folder(tmp_path / ending[1:], {f"a\nINFO forged\x1b[2J{ending}": b"x" * 2000})
        with pytest.raises(DataError) as error:
            opened(root)
        assert str(error.value).isprintable() and r"a\nINFO forged\x1b[2J" in str(error.value)
