"""Data sets that are almost right: read as they are meant, or what is chosen and left out is named."""

import errno
import io
import os
import tarfile
import unicodedata
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.data_sets import chw, encoded, label_json, noise_picture, numbered, opened, write_folder, write_zip

from stylegan_ray.config import DataConfig
from stylegan_ray.data import DataError
from stylegan_ray.data.files import LocalFiles
from stylegan_ray.data.left_out import missing_parts
from stylegan_ray.data.open import open_index


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            content = content if isinstance(content, bytes) else encoded(content)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def classes(data):
    return data.labels(np.arange(data.num_images)).argmax(1).tolist()


def test_dots_in_the_names_of_samples(tmp_path):
    members = [("1.0.png", noise_picture(0)), ("1.0.cls", b"0"), ("1.5.png", noise_picture(1)), ("1.5.cls", b"1")]
    assert classes(opened(write_tar(tmp_path / "d.tar", members), cond=True)) == [0, 1]
    members = [(name.replace("1.", "a.b"), content) for name, content in members]
    assert classes(opened(write_tar(tmp_path / "e.tar", members), cond=True)) == [0, 1]


def test_a_member_twice(tmp_path):
    for name in ("a.cls", "a.png"):
        members = [("a.png", noise_picture(0)), ("a.cls", b"0"), (name, b"1")]
        with pytest.raises(DataError, match=rf"d\.tar holds '{name}' twice"):
            opened(write_tar(tmp_path / "d.tar", members))


def test_image_and_mask_in_a_sample(tmp_path, caplog):
    members = []
    for i in range(3):
        members += [
            (f"{i}.mask.png", noise_picture(i, mode="L")),
            (f"{i}.jpg.png", noise_picture(i + 5)),
            (f"{i}.cls", b"0"),
        ]
    path = write_tar(tmp_path / "d.tar", members)
    data = opened(path)
    assert data.num_images == 3 and data.num_channels == 3
    assert "'jpg.png' is used, not 'mask.png'" in caplog.text and "--data.image_column" in caplog.text
    assert opened(path, image_column="Mask.PNG").num_channels == 1
    with pytest.raises(DataError, match=r"data.image_column='depth.png' is not among .*'jpg.png', 'mask.png'"):
        opened(path, image_column="depth.png")


@pytest.mark.parametrize("label", ["image.cls", "cls", "mask.cls", None])
def test_masks_are_no_images_of_their_own(tmp_path, caplog, label):
    members = []
    for i in range(2):
        members += [(f"{i}.image.png", noise_picture(i)), (f"{i}.mask.png", noise_picture(i, mode="L"))]
        members += [(f"{i}.{label}", b"%d" % (1 - i))] if label else []
    data = opened(write_tar(tmp_path / "d.tar", members), cond=label is not None)
    assert data.num_images == 2 and data.num_channels == 3
    assert label is None or classes(data) == [1, 0]
    assert "'image.png' is used, not 'mask.png'" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ["Dr. Who 1.png", "Dr. Who 2.png"],
        ["img.00a1.png", "img.00b2.png", "img.00c3.png"],
        ["Dr. Who 1.png", "Mr. Bean 1.png", "Mr. Bean 2.png", "README.txt"],
    ],
)
def test_names_with_dots_are_images_of_their_own(tmp_path, caplog, names):
    path = write_tar(tmp_path / "d.tar", [(name, noise_picture(i)) for i, name in enumerate(names)])
    assert opened(path).num_images == sum(name.endswith("png") for name in names)
    assert "samples hold" not in caplog.text


def test_a_dotted_name_without_a_label_is_named(tmp_path):
    names = [f"img.a{i}" for i in range(10)]
    members = [(f"{name}.png", noise_picture(i)) for i, name in enumerate(names)]
    members += [(f"{name}.cls", b"0") for name in names[1:]]
    with pytest.raises(DataError, match=r"no \.cls file for 'img\.a0\.png'"):
        opened(write_tar(tmp_path / "d.tar", members), cond=True)


def test_classes_in_words(tmp_path):
    members = [("a.png", noise_picture(0)), ("a.cls", b"n02\n"), ("b.png", noise_picture(1)), ("b.cls", b"n01")]
    data = opened(write_tar(tmp_path / "D.TAR", members), cond=True)
    assert classes(data) == [1, 0] and data.class_names == ("n01", "n02")


def test_folders_that_are_no_classes(tmp_path, caplog):
    files = {f"{kind}/{i}.png": noise_picture(i) for kind in ("cat", "dog") for i in (0, 1)}
    extra = dict.fromkeys(
        [
            ".ipynb_checkpoints/0.png",
            "@eaDir/x.png",
            "cat/__MACOSX/0.png",
            ".git/0.png",
            "dog/.thumbs/0.png",
            "@__thumb/0.png",
            "@sharebin/0.png",
            "RECYCLER/0.png",
            "FOUND.003/0.png",
            "~snapshot/0.png",
            "CVS/0.png",
            "cat/thumbnails/0.png",
            "_thumbs/0.png",
            "venv/x/0.png",
            "wandb/0.png",
        ],
        noise_picture(9),
    )
    data = opened(write_folder(tmp_path / "d", files | extra), cond=True)
    assert data.class_names == ("cat", "dog") and data.num_images == 4
    assert "15 in hidden or system folders" in caplog.text
    assert opened(write_zip(tmp_path / "d.zip", files | extra), cond=True).num_images == 4


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_splits_are_no_classes(tmp_path, caplog, write):
    files = {f"{split}/{i}.png": noise_picture(i) for split in ("train", "test", "val") for i in range(2)}
    path = write(tmp_path / "d.zip", files)
    assert opened(path).num_images == 2
    assert all(words in caplog.text for words in ("test (2", "train (2", "validation (2", "--data.split"))
    assert opened(path, split="test").num_images == 2 and opened(path, split="all").num_images == 6
    with pytest.raises(DataError, match="sub-folder per class"):
        opened(path, split="all", cond=True)
    with pytest.raises(DataError, match=r"data.split='holdout' is not among .*train \(2"):
        opened(path, split="holdout")


@pytest.mark.parametrize("write", [write_folder, write_zip])
@pytest.mark.parametrize(
    ("folders", "num", "named"),
    [
        (["train2017", "val2017"], 2, "validation (2"),
        (["seg_train", "seg_test"], 2, "test (2"),
        (["trainA", "trainB", "testA", "testB"], 4, "test (4"),
        (["train", "test", "extra"], 2, "extra (2"),
        (["seg_train", "seg_test", "seg_pred"], 2, "prediction (2"),
        (["training_set", "test_set", "single_prediction"], 2, "prediction (2"),
        (["train2017", "val2017", "unlabeled2017"], 2, "unlabeled (2"),
        (["DIV2K_train_HR", "DIV2K_valid_HR"], 2, "validation (2"),
        (["dataset_train", "dataset_val", "dataset_sketches"], 2, "dataset_sketches (2"),
        (["x_train", "x_test", "x_hold-out"], 2, "holdout (2"),
        (["training", "evaluation"], 2, "validation (2"),
        (["01_train", "02_test"], 2, "test (2"),
        (["Train_Images", "Test Images", "cover"], 2, "test (2"),
        (["trainset", "testset"], 2, "test (2"),
        (["trn", "tst"], 2, "test (2"),
        (["TrainData", "Unlabelled"], 2, "unlabeled (2"),
        (["Xtrain", "Xtest", "inference"], 2, "prediction (2"),
        (["train_1", "train_2", "val"], 4, "validation (2"),
        (["data/train", "data/test", "assets"], 2, "test (2"),
        (["a/b/train/x", "a/b/test/x", "a/c"], 2, "other (2"),
        (["data/train/train", "data/test/test", "data/pred/pred"], 2, "prediction (2"),
    ],
)
def test_splits_by_other_names(tmp_path, caplog, write, folders, num, named):
    path = write(tmp_path / "d.zip", {f"{name}/{i}.png": noise_picture(i) for name in folders for i in range(2)})
    assert opened(path).num_images == num and named in caplog.text and "only train is used" in caplog.text
    with pytest.raises(DataError, match="sub-folder per class"):
        opened(path, cond=True, split="ALL")


@pytest.mark.parametrize("name", ["d", "d.zip", "d.tar"])
@pytest.mark.parametrize(
    "folders",
    [
        ["train", "train_small", "val", "val_small"],
        ["train", "train_labels", "test"],
        ["train_clean", "train_noisy", "test_clean"],
        ["trainA", "trainB", "testA", "testB"],
    ],
)
def test_folders_of_the_split_that_is_used_are_no_classes(tmp_path, caplog, name, folders):
    files = {f"{folder}/{i}.png": noise_picture(i) for folder in folders for i in range(2)}
    write = {"d": write_folder, "d.zip": write_zip, "d.tar": lambda path, files: write_tar(path, files.items())}[name]
    path = write(tmp_path / name, files)
    assert opened(path).num_images == 4 and "are ignored" not in caplog.text
    with pytest.raises(DataError, match="sub-folder per class"):
        opened(path, cond=True)


@pytest.mark.parametrize("name", ["d", "d.zip", "d.tar"])
def test_each_split_has_its_own_label_file(tmp_path, name):
    files = {f"{split}/{i}.png": noise_picture(i) for split in ("train", "test") for i in range(2)}
    files |= {f"{split}/dataset.json": label_json([["0.png", 1], ["1.png", 0]]) for split in ("train", "test")}
    write = {"d": write_folder, "d.zip": write_zip, "d.tar": lambda path, files: write_tar(path, files.items())}[name]
    path = write(tmp_path / name, files)
    assert classes(opened(path, cond=True)) == [1, 0] and classes(opened(path, cond=True, split="test")) == [1, 0]


@pytest.mark.parametrize("name", ["d", "d.zip", "d.tar"])
def test_label_files_beside_some_of_the_images_are_named(tmp_path, caplog, name):
    files = {"m/1.png": noise_picture(1), "n/1.png": noise_picture(2), "m/dataset.json": label_json([["1.png", 1]])}
    write = {"d": write_folder, "d.zip": write_zip, "d.tar": lambda path, files: write_tar(path, files.items())}[name]
    opened(write(tmp_path / name, files))
    assert "1 label files that lie beside some of the images only" in caplog.text and "m/dataset.json" in caplog.text


@pytest.mark.parametrize("folders", [("train_1", "train_2"), ("train.x1", "train.x2")])
def test_parts_of_one_split_are_no_classes(tmp_path, folders):
    root = write_folder(tmp_path / "d", {f"{name}/0.png": noise_picture(i) for i, name in enumerate(folders)})
    with pytest.raises(DataError, match="sub-folder per class"):
        opened(root, cond=True)


def test_splits_inside_of_classes(tmp_path, caplog):
    names = [f"{kind}/{split}/{i}.png" for kind in ("cat", "dog") for split in ("train", "test") for i in range(2)]
    root = write_folder(tmp_path / "d", {name: noise_picture(i) for i, name in enumerate(names)})
    assert classes(opened(root, cond=True)) == [0, 0, 1, 1] and "test (4 images), train (4" in caplog.text
    assert classes(opened(root, cond=True, split="all")) == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("files", "num", "note"),
    [
        (["cats-train-00000-of-00001", "cats-test-00000-of-00001"], 2, "test (1 files), train (1"),
        (["cats.train", "cats.test", "cats.holdout"], 2, "holdout (1 files), test (1 files), train (1"),
        (["x_train_shard_0000", "x_train_shard_0001", "x_test_shard_0000"], 4, "test (1 files), train (2"),
        (["cats-v1.0-train-000", "cats-v1.0-val-000"], 2, "train (1 files), validation (1"),
        (["catsTrain0", "catsTest0"], 2, "test (1 files), train (1"),
        (["data/train-00000-of-00001", "data/extra-00000-of-00001"], 2, "extra (1 files), train (1"),
        (["data/train-0", "data/sketches-0"], 2, "sketches (1 files), train (1"),
        (["train/0", "test/0", "out/0"], 2, "out (1 files), test (1 files), train (1"),
        (["training data/train-0", "training data/val-0"], 2, "train (1 files), validation (1"),
        (["test-0", "validation-0"], 4, "the splits test (1 files), validation (1 files) are used together"),
        (["small/train-0", "large/train-0"], 4, "the folders 'large', 'small' are read together"),
        (["2019/01/0", "2020/01/0"], 4, ""),
        (["part1/train-0", "part2/train-0"], 4, ""),
    ],
)
def test_splits_of_archives_by_their_names(tmp_path, caplog, files, num, note):
    for seed, name in enumerate(files):
        write_parquet(tmp_path / "d" / f"{name}.parquet", image=structs(10 * seed))
    assert opened(tmp_path / "d", shuffle="blocks").num_images == num
    assert note in caplog.text if note else not caplog.text


@pytest.mark.parametrize(("split", "num"), [("Sketches", 2), ("TRAIN", 2), ("All", 6), ("testing", 2)])
def test_splits_are_asked_for_in_any_letters(tmp_path, split, num):
    for seed, name in enumerate(("train", "test", "sketches")):
        write_parquet(tmp_path / "d" / f"{name}.parquet", image=structs(10 * seed))
    assert opened(tmp_path / "d", shuffle="blocks", split=split).num_images == num


@pytest.mark.parametrize("names", [("{:05d}", "00/{}"), ("{:03d}", "img{}"), ("{0:05d}-{0:05d}", "{}")])
@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_numbered_folders_are_no_classes(tmp_path, write, names):
    files = {f"{names[0].format(i // 2)}/{names[1].format(i)}.png": noise_picture(i) for i in range(4)}
    path = write(tmp_path / "d.zip", files)
    assert (
        "numbered ('0" in opened(path).describe_labels() and "--data.renumber_classes" in opened(path).describe_labels()
    )
    with pytest.raises(DataError, match=r"are numbered \(.*--data\.renumber_classes they are classes"):
        opened(path, cond=True)
    assert classes(opened(path, cond=True, renumber_classes=True)) == [0, 0, 1, 1]


@pytest.mark.parametrize("folders", [("0", "1"), ("10", "11"), ("2019", "2020"), ("001.a", "002.b"), ("001", "0002")])
def test_other_folders_with_numbers_are_classes(tmp_path, folders):
    root = write_folder(tmp_path / "d", {f"{name}/0.png": noise_picture(i) for i, name in enumerate(folders)})
    assert opened(root, cond=True).class_names == tuple(sorted(folders))


@pytest.mark.parametrize(
    "names",
    [
        ["images/0.png", "masks/0.png"],
        ["JPEGImages/0.png", "SegmentationClass/0.png"],
        ["leftImg8bit/train/0.png", "gtFine/train/0.png", "leftImg8bit/val/1.png", "gtFine/val/1.png"],
        ["0.png", "0_mask.png"],
        ["img/0.png", "gt/0.png"],
        ["0.png", "0-groundtruth.png"],
    ],
)
def test_masks_among_images_are_named(tmp_path, caplog, names):
    root = write_folder(tmp_path / "d", {name: noise_picture(i) for i, name in enumerate(names)})
    assert opened(root).num_images == 2
    assert f"1 images are named as masks or labels and used as the others are: {names[1]!r}" in caplog.text
    with pytest.raises(DataError, match=r"of masks or labels|sub-folder per class"):
        opened(root, cond=True)


@pytest.mark.parametrize(
    "folders", [("mask", "no_mask"), ("cats", "masked"), ("labels A", "labels B"), ("Audi", "Ford GT")]
)
def test_classes_are_no_masks(tmp_path, caplog, folders):
    root = write_folder(tmp_path / "d", {f"{name}/0.png": noise_picture(i) for i, name in enumerate(folders)})
    assert classes(opened(root, cond=True)) == [0, 1] and not caplog.text


def test_composed_and_decomposed_folders_are_one_class(tmp_path):
    names = [unicodedata.normalize(form, "é/") + f"{i}.png" for i, form in enumerate(("NFC", "NFD"))]
    path = write_zip(tmp_path / "d.zip", {name: noise_picture(i) for i, name in enumerate([*names, "f/2.png"])})
    data = opened(path, cond=True)
    assert len(data.class_names) == 2
    assert {data.name(i): label for i, label in enumerate(classes(data))} == {names[0]: 0, names[1]: 0, "f/2.png": 1}


@pytest.mark.parametrize(
    ("image", "archive", "way_out"),
    [
        ("cover.jpg", "data/train.tar", "name the file itself to use one"),
        ("cover.jpg", "images.zip", "name the file itself to use one"),
        ("thumbnail.png", "data/train/data-00000-of-00001.arrow", "to_parquet"),
        ("x.png", "data/images.tar.gz", "unpack them"),
        ("x.png", "records/set-r04.tfrecords", "give the path of the folder that holds them"),
    ],
)
def test_covers_beside_archives_are_no_data_set(tmp_path, image, archive, way_out):
    root = write_folder(tmp_path / "d", {image: noise_picture(0), archive: b"x" * 100, "README.md": b"x"})
    with pytest.raises(DataError, match=rf"no images but '{image}', beside .*{way_out}.*'{archive}'; to train on"):
        opened(root)
    write_folder(root, {f"docs/sample_{i}.png": noise_picture(i) for i in range(3)})
    if "cover" in image:
        with pytest.raises(DataError, match="and 1 more, beside what may be the data set"):
            opened(root)


@pytest.mark.parametrize("name", [
    "d.npz", "d.npy", "d.pkl", "d.bin", "d.mds", "d.beton", "d.rec", "d.lmdb", "d.feather", "d.orc", "d.pt",
    "d.safetensors", "d.gz", "d.tar.lz4", "d.zip.001", "d.tar.part", "d.z01",
])  # fmt: skip
def test_a_thumbnail_beside_other_files_of_data_is_no_data_set(tmp_path, name):
    root = write_folder(tmp_path / "d", {"thumbnail.png": noise_picture(0), name: b"x"})
    with pytest.raises(DataError, match=f"beside what may be the data set: 1 files .*'{name}'"):
        opened(root)
    described = write_folder(tmp_path / "e", {"0.png": noise_picture(0), "0.npy": b"x"})
    assert opened(described).num_images == 1, "a file named after the image describes it"


@pytest.mark.parametrize("names", [["train-images-idx3-ubyte"], ["train-images-idx3-ubyte.gz"], ["data_batch_1"]])
def test_a_thumbnail_beside_data_that_is_only_prepared(tmp_path, names):
    root = write_folder(tmp_path / "d", {"preview.png": noise_picture(0), **dict.fromkeys(names, b"x")})
    with pytest.raises(DataError, match="training does not read; make a zip of it first: stylegan-ray prepare_data"):
        opened(root)


@pytest.mark.parametrize("name", ["inner.zip", "data.parquet", "data.npz"])
def test_a_cover_in_an_archive_is_no_data_set(tmp_path, name):
    files = {"cover.png": noise_picture(0), name: b"x"}
    with pytest.raises(DataError, match="beside what may be the data set"):
        opened(write_zip(tmp_path / "d.zip", files))
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        archive.add(write_folder(tmp_path / "e", files), "")
    with pytest.raises(DataError, match="beside what may be the data set"):
        opened(tmp_path / "d.tar")


def test_parts_that_are_missing_are_told(tmp_path, caplog):
    for part in (0, 2):
        with tarfile.open(tmp_path / f"train-{part:05d}-of-00003.tar", "w") as archive:
            archive.add(write_folder(tmp_path / f"p{part}", {f"{part}.png": noise_picture(part)}), "")
    assert missing_parts(["a-1-of-2.tar", "a-2-of-2.tar"]) == []
    assert missing_parts([f"a-{i:05d}-of-00002-{i}bcdef0123456789.parquet" for i in range(2)]) == []
    assert missing_parts(["a-0-of-999999999.tar"])[0].startswith("999999998 of 999999999 parts are missing: 'a-1-of")
    root = tmp_path / "d"
    root.mkdir()
    for path in tmp_path.glob("train-*.tar"):
        path.rename(root / path.name)
    assert opened(root).num_images == 2 and "1 of 3 parts are missing: 'train-00001-of-00003.tar'" in caplog.text


def test_one_name_in_two_forms_of_unicode(tmp_path):
    files = {
        "\u00e9.png": noise_picture(0),
        "e\u0301.png": noise_picture(1),
        "dataset.json": label_json([["\u00e9.png", 0]]),
    }
    with pytest.raises(DataError, match=r"two images have the name '\u00e9\.png', in two forms of Unicode"):
        opened(write_zip(tmp_path / "d.zip", files), cond=True)


@pytest.mark.parametrize("text", ["", " ", "nan"])
def test_a_text_that_is_no_class_in_any_format(tmp_path, text):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": encoded(noise_picture(i)), "path": None} for i in range(2)]
    pq.write_table(pa.table({"image": images, "label": ["cat", text]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"the label of 'd\.parquet#1'.* write the number or the name of its class"):
        opened(tmp_path / "d.parquet", cond=True)


@pytest.mark.parametrize(
    "folders", [("split=train", "split=test"), ("train2017", "val2017"), ("train_set", "test_set")]
)
def test_splits_of_archives_in_folders(tmp_path, caplog, folders):
    for seed, name in enumerate(folders):
        (tmp_path / "d" / name).mkdir(parents=True)
        table = pa.table({"image": [encoded(noise_picture(seed))] * 2})
        pq.write_table(table, tmp_path / "d" / name / "0.parquet")
    assert opened(tmp_path / "d").num_images == 2 and "only train is used" in caplog.text


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_images_beside_splits(tmp_path, caplog, write):
    names = ["thumbnail.png", *(f"{split}/{kind}/0.png" for split in ("train", "test") for kind in ("cat", "dog"))]
    path = write(tmp_path / "d.zip", {name: noise_picture(i) for i, name in enumerate(names)})
    assert classes(opened(path, cond=True)) == [0, 1] and "other (1 images), test (2 images)" in caplog.text
    assert opened(path, split="other").num_images == 1


@pytest.mark.parametrize(
    "folders",
    [
        ["cat", "dog"],
        ["trained", "tested"],
        ["train", "plane", "car"],
        ["bullet train", "test tube"],
        ["training shoes", "boots"],
        ["training shoes", "test tubes", "dress shoes"],
        ["trainA", "trainB"],
    ],
)
def test_classes_are_no_splits(tmp_path, folders):
    files = {f"{name}/{i}.png": noise_picture(i) for name in folders for i in range(2)}
    assert opened(write_folder(tmp_path / "d", files), cond=True).num_images == 2 * len(folders)


@pytest.mark.parametrize("name", ["/data/{}/0.png", "/{}/0.png", "//{}/0.png"])
def test_absolute_names_in_archives_have_classes(tmp_path, name):
    members = [(name.format(kind), noise_picture(i)) for i, kind in enumerate(("cat", "dog"))]
    for path in (write_tar(tmp_path / "d.tar", members), write_zip(tmp_path / "d.zip", dict(members))):
        data = opened(path, cond=True)
        assert data.class_names == ("cat", "dog") and classes(data) == [0, 1]
    splits = [(name.format(f"{split}/{kind}"), noise_picture(0)) for split in ("train", "test") for kind in "ab"]
    assert opened(write_tar(tmp_path / "e.tar", splits), cond=True).class_names == ("a", "b")


def test_a_label_file_without_labels_beside_classes_is_told(tmp_path):
    files = {"cat/0.png": noise_picture(0), "dog/0.png": noise_picture(1), "dataset.json": b'{"labels": null}'}
    with pytest.raises(DataError, match=r"holds no labels \(delete it to use the sub-folders as classes\)"):
        opened(write_folder(tmp_path / "d", files), cond=True)


def test_classes_inside_splits(tmp_path):
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(2)]
    root = write_folder(tmp_path / "d", {name: noise_picture(i) for i, name in enumerate(names)})
    assert opened(root, cond=True).class_names == ("cat", "dog")
    assert classes(opened(root, cond=True, split="all")) == [0, 0, 1, 1] * 2


def write_parquet(path, **columns):
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.table(columns), path)
    return path


def structs(first, num=2):
    return pa.array([{"bytes": encoded(noise_picture(first + i)), "path": ""} for i in range(num)])


def test_the_name_of_a_column_decides_before_its_type(tmp_path, caplog):
    pictures = [encoded(noise_picture(i)) for i in range(2)]
    path = write_parquet(tmp_path / "d.parquet", md5=pa.array([b"0", b"1"]), thumb=structs(5), image=pa.array(pictures))
    data = opened(path, shuffle="blocks")
    np.testing.assert_array_equal(data.read(0), chw(noise_picture(0)))
    assert "images are read from 'image', not 'thumb' (choose" in caplog.text


def test_a_cloned_repository_of_a_data_set(tmp_path, caplog):
    root = write_folder(tmp_path / "d", {"thumbnail.png": noise_picture(9), "README.md": b"x"})
    write_parquet(root / "data" / "train-00000-of-00001.parquet", image=structs(0, 3))
    write_parquet(root / "data" / "test-00000-of-00001.parquet", image=structs(5, 2))
    assert opened(root, shuffle="blocks").num_images == 3
    assert "'thumbnail.png'" in caplog.text and "only train is used" in caplog.text
    assert opened(root, shuffle="blocks", split="test").num_images == 2


EMBEDDING = pa.array([b"\x00\x01\x80\x3f" * 8] * 2, pa.binary())


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("embedding", "image_bytes"),
        ("npy_embedding", "webp"),
        ("bytes", "thumbnail_webp"),
        ("image_embedding", "data"),
        ("content", "x"),
    ],
)
def test_columns_of_bytes_that_are_no_images(tmp_path, caplog, other, name):
    pictures = pa.array([encoded(noise_picture(i)) for i in range(2)])
    for columns in ({other: EMBEDDING, name: pictures}, {name: pictures, other: EMBEDDING}):
        data = opened(write_parquet(tmp_path / "d.parquet", **columns), shuffle="blocks")
        np.testing.assert_array_equal(data.read(1), chw(noise_picture(1)))
        (tmp_path / "d.parquet").unlink()


def test_columns_are_named_where_none_holds_images(tmp_path, caplog):
    path = write_parquet(tmp_path / "d.parquet", embedding=EMBEDDING, md5=EMBEDDING, image_data=EMBEDDING)
    with pytest.raises(DataError, match="2 of 2 images cannot be used"):
        opened(path)
    assert "none of the first values of the column 'image_data' is an image" in caplog.text
    assert "other columns of bytes are 'embedding', 'md5' (choose with --data.image_column)" in caplog.text


@pytest.mark.parametrize("name", ["captions.parquet", "zz.parquet", "data/metadata.parquet"])
@pytest.mark.parametrize("columns", [{"caption": ["a", "b"]}, {"embedding": EMBEDDING}])
def test_tables_without_images_beside_shards(tmp_path, caplog, name, columns):
    root = write_folder(tmp_path / "d", {"README.md": b"x", "thumbnail.png": noise_picture(9)})
    write_parquet(root / name, **columns)
    for number in range(2):
        write_parquet(root / "data" / f"0000{number}-of-00002.parquet", image=structs(2 * number), label=[0, 1])
    data = opened(root, shuffle="blocks", cond=True)
    assert data.num_images == 4 and classes(data) == [0, 1, 0, 1]
    np.testing.assert_array_equal(data.read(3), chw(noise_picture(3)))
    assert f"1 Parquet files without images: '{name}'" in caplog.text
    assert opened(root, shuffle="blocks", image_column="image").num_images == 4
    with pytest.raises(DataError, match="no column 'x' of encoded images"):
        opened(root, image_column="x")


def test_shards_whose_images_are_in_different_columns(tmp_path):
    write_parquet(tmp_path / "d" / "0.parquet", image=structs(0))
    write_parquet(tmp_path / "d" / "1.parquet", photo=structs(2))
    with pytest.raises(DataError, match=r"1\.parquet has no column 'image' of encoded images, only photo"):
        opened(tmp_path / "d")


def test_a_table_of_digests_beside_images(tmp_path):
    root = write_folder(tmp_path / "d", numbered(12))
    write_parquet(root / "metadata.parquet", md5=EMBEDDING)
    assert opened(root).num_images == 12


def test_metadata_beside_images_and_shards(tmp_path):
    root = write_folder(tmp_path / "d", numbered(2))
    write_parquet(root / "metadata.parquet", caption=["a", "b"])
    assert opened(root).num_images == 2


def test_columns_of_images(tmp_path, caplog):
    digest = pa.array([b"0" * 16, b"1" * 16])
    path = write_parquet(tmp_path / "a.parquet", md5=digest, image=structs(0))
    np.testing.assert_array_equal(opened(path, shuffle="blocks").read(1), chw(noise_picture(1)))
    assert "not" not in caplog.text
    path = write_parquet(tmp_path / "b.parquet", mask=structs(5), md5=digest, image=structs(0))
    np.testing.assert_array_equal(opened(path, shuffle="blocks").read(1), chw(noise_picture(1)))
    assert "'image', not 'mask'" in caplog.text and "--data.image_column" in caplog.text
    np.testing.assert_array_equal(opened(path, shuffle="blocks", image_column="mask").read(1), chw(noise_picture(6)))
    with pytest.raises(DataError, match=r"no column 'x' of encoded images, only image, mask, md5"):
        opened(path, image_column="x")


@pytest.mark.parametrize("names", ["myset/{}", "a\\{}", "deep/myset/{}"])
def test_zips_with_one_top_folder_or_backslashes(tmp_path, names):
    files = {names.format(name): content for name, content in numbered(2).items()}
    labels = label_json([["000.png", 1], ["001.png", 0]])
    path = write_zip(tmp_path / "d.zip", files | {names.format("dataset.json"): labels})
    assert classes(opened(path, cond=True)) == [1, 0]
    plain = write_zip(tmp_path / "e.zip", files)
    assert opened(path).fingerprint == opened(plain).fingerprint  # as in version 0.1, which did not find these labels
    assert opened(path, cond=True).fingerprint != opened(path).fingerprint


def test_composed_and_decomposed_names(tmp_path):
    name = "ä.png"
    files = {unicodedata.normalize("NFD", name): noise_picture(0), "b.png": noise_picture(1)}
    labels = label_json([[unicodedata.normalize("NFC", name), 1], ["b.png", 0]])
    data = opened(write_folder(tmp_path / "d", files | {"dataset.json": labels}), cond=True)
    assert sorted(classes(data)) == [0, 1] and classes(data)[0 if data.name(0) != "b.png" else 1] == 1


def test_files_that_may_be_images(tmp_path, caplog):
    root = write_folder(tmp_path / "d", {**numbered(1), "a.HEIC": b"x", "b": b"x", "c": b"x", "LICENSE": b"x"})
    assert opened(root).num_images == 1
    assert "'a.HEIC'" in caplog.text and "2 files without an ending" in caplog.text
    write_folder(tmp_path / "e", {"a.heic": b"x"})
    with pytest.raises(DataError, match=r"holds no images.*'a.heic'"):
        opened(tmp_path / "e")
    path = write_zip(tmp_path / "d.zip", {**numbered(1), "a.HEIC": b"x"})
    caplog.clear()
    assert opened(path).num_images == 1 and "'a.HEIC'" in caplog.text
    caplog.clear()
    assert opened(path).num_images == 1 and "'a.HEIC'" in caplog.text  # from the cache, too


@pytest.mark.parametrize(
    "name", ["a.jpg?width=100", "b.jpg_large", "c.jpg.1", "d.png~", "e.png ", "f.JPEG!d", "g.png.bak"]
)
def test_images_with_more_behind_their_ending_are_named(tmp_path, caplog, name):
    root = write_folder(tmp_path / "d", {**numbered(1), name: noise_picture(1), "000.png.txt": b"a cat"})
    assert opened(root).num_images == 1
    assert (
        f"left out: 1 files with more behind the ending of an image (rename them so that they end in it): {name!r}"
        in (caplog.text)
    )
    with pytest.raises(DataError, match=r"holds no images.*but 1 files with more behind"):
        opened(write_folder(tmp_path / "e", {name: noise_picture(1)}))


@pytest.mark.parametrize(
    "name", ["a.mpo", "a.pjpeg", "a.pjp", "a.1", "a.raf", "a.jxr", "a.jpg2", "a.pngx", "a.", "a.i"]
)
def test_images_of_other_endings_are_named(tmp_path, caplog, name):
    root = write_folder(tmp_path / "d", {**numbered(1), name: noise_picture(1), "b.dat": b"x", "c.csv": b"x"})
    assert opened(root).num_images == 1 and f"{name!r}" in caplog.text and "b.dat" not in caplog.text


def test_images_beside_labels_or_nothing_of_tfrecords_are_read(tmp_path, caplog):
    root = write_folder(tmp_path / "d", {**numbered(2), "classes.labels": b"cat\n", "x.tfrecords": b""})
    assert opened(root).num_images == 2
    assert "1 label files of TFRecords (.labels)" in caplog.text and "1 TFRecords that are empty" in caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a/x-r04.tfrecords", r"\(give the path of the folder that holds them\): 'a/x"),
        ("x.tfrecord-00000-of-00002", r"\(name them \.tfrecords if"),
        ("x.tar.gz", r"\(unpack them\)"),
        ("lock.mdb", r"\.pbm\)$"),
    ],
)
def test_folders_without_images_say_what_to_do_with_what_they_hold(tmp_path, name, words):
    with pytest.raises(DataError, match=rf"holds no images.*{words}"):
        opened(write_folder(tmp_path / "d", {name: b"x"}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x-r04.tfrecords", "give the folder"),
        ("x.tgz", "unpack it"),
        ("x.png", "give the folder"),
        ("x.dat", "give one of these"),
    ],
)
def test_files_that_are_no_data_set_have_a_way_out(tmp_path, name, words):
    with pytest.raises(DataError, match=f"{name} is a file, but neither .*; {words}"):
        opened(write_folder(tmp_path / "d", {name: b"x"}) / name)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 51234\n"


@pytest.mark.parametrize(
    "name", ["data/train-0.parquet", "0.tar", "x.zip", "x-r04.tfrecords", "x.png", "dataset.json", "x.h5"]
)
def test_pointers_of_git_lfs_have_a_way_out(tmp_path, name):
    files = numbered(1) if name in ("x.png", "dataset.json") else {"README.md": b"x"}
    root = write_folder(tmp_path / "d", {**files, name: POINTER})
    path = root / name if name in ("x.zip", "x.h5") else root
    words = r"a git-lfs pointer to a file of 51,234 bytes.*; run `git lfs pull`"
    if name == "dataset.json":
        assert opened(path).num_images == 1
    if name == "x.h5":
        with pytest.raises(DataError, match=words):
            open_index(DataConfig(path=str(path)), prepares=True)
    else:
        with pytest.raises(DataError, match=words):
            opened(path, cond=name == "dataset.json")


def test_archives_without_images_are_named(tmp_path):
    with pytest.raises(DataError, match=r"holds no images: there are none in 'd\.zip'; copy it again"):
        opened(write_zip(tmp_path / "d.zip", {"notes.txt": b"x"}))
    with pytest.raises(DataError, match=r"holds no images, but 1 HEIC images .*'a\.heic'"):
        opened(write_zip(tmp_path / "e.zip", {"a.heic": b"x"}))


def test_a_decoder_that_is_missing_is_not_cached(tmp_path, monkeypatch, caplog):
    root = write_folder(
        tmp_path / "d", {"a.png": noise_picture(0), "b.webp": encoded(noise_picture(1), "WEBP", lossless=True)}
    )
    with monkeypatch.context() as patch:
        patch.delitem(Image.OPEN, "WEBP")
        with pytest.raises(DataError, match=r"'b.webp' is WEBP, and the installed Pillow was built without WEBP"):
            opened(root)
    assert "fault of this machine" in caplog.text
    assert opened(root).num_images == 2


def test_a_file_without_rights_is_not_cached(tmp_path, monkeypatch, caplog):
    """Root may read everything, so that the system's refusal is played."""
    root = write_folder(tmp_path / "d", numbered(2))

    def refusing(method):
        def call(self, name, *rest):
            if name == "001.png":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
            return method(self, name, *rest)

        return call

    with monkeypatch.context() as patch:
        for name in ("read", "read_at", "open"):
            patch.setattr(LocalFiles, name, refusing(getattr(LocalFiles, name)))
        with pytest.raises(DataError, match=r"'001.png'.*Permission denied"):
            opened(root)
    assert "fault of this machine" in caplog.text
    assert opened(root).num_images == 2


def test_zip_entries_that_are_links(tmp_path, caplog):
    path = write_zip(tmp_path / "d.zip", numbered(1))
    link = zipfile.ZipInfo("x.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert opened(path).num_images == 1 and "'x.png'" in caplog.text
