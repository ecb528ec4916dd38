"""Each data set that is written is read back: pixels, labels, names of classes and their order."""

import json
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.data_sets import chw, encoded, opened, write_folder
from support.properties import examples

from stylegan_ray.data import formats
from stylegan_ray.data.atomic_output import write_whole
from stylegan_ray.data.formats.tfrecord_wire import (
    bad_payloads,
    encode_example,
    find_frames,
    frame_records,
    parse_example,
)
from stylegan_ray.data.write import Encoder, WriteTask, parse_report, write_attribution

DESTS = {"zip": "out.zip", "parquet": "out.parquet", "tfrecords": "out"}
"""Where each format that can be written is written to."""


def test_all_formats_that_can_be_written_are_tested():
    assert set(DESTS) == set(formats.writable_formats())


@st.composite
def image_sets(draw: st.DrawFn, is_square: bool) -> tuple[list[np.ndarray], dict]:
    """Images uint8 [H,W] or [H,W,3] of one size, and the content of a dataset.json."""
    sides = st.sampled_from([8, 16] if is_square else [8, 12, 16, 20])
    height = draw(sides)
    size = (height, height if is_square else draw(sides))
    num = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (*size, 3) if draw(st.booleans()) else size
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(num)]
    if draw(st.booleans()):
        images[-1][...] = draw(st.integers(0, 255))
    kind = draw(st.sampled_from(["none", "classes", "vectors"]))
    numbers = st.floats(-1e6, 1e6, width=32)
    labels = {
        "none": st.none(),
        "classes": st.lists(st.integers(0, 5), min_size=num, max_size=num),
        "vectors": st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=num, max_size=num),
    }[kind]
    return images, {"labels": draw(labels)}


def folder_of(root: Path, images: list[np.ndarray], names: list[str], labels: list | None) -> Path:
    """A folder of PNG files with a dataset.json where there are labels."""
    files = {name: encoded(Image.fromarray(image)) for name, image in zip(names, images, strict=True)}
    if labels is not None:
        files["dataset.json"] = json.dumps(
            {"labels": [list(pair) for pair in zip(names, labels, strict=True)]}
        ).encode()
    return write_folder(root, files)


def write(dataset, name: str, dest: str, order: np.ndarray) -> None:
    """Writes a data set in this process as prepare_data does in tasks."""
    task = WriteTask.plan(dataset, formats.by_name(name), dest, order)
    with write_whole(task.open_output(overwrite=False)) as output, closing(task.open_writer(output)) as writer:
        for plan in task.plans:
            report, *pieces = Encoder(dataset, task.writing)(plan)
            good, bad = parse_report([report])
            assert not bad
            writer.add(good, pieces)
        if not task.is_file:
            write_attribution(output, dataset)
        writer.finish()


@pytest.mark.parametrize("name", DESTS)
@examples(8)
@given(st.data())
def test_what_is_written_is_read(monkeypatch, name, data):
    images, content = data.draw(image_sets(is_square=name == "tfrecords"))
    labels = content["labels"]
    with TemporaryDirectory() as root:
        monkeypatch.setenv("STYLEGAN_RAY_CACHE", f"{root}/cache")
        names = [f"{i:02d}.png" for i in range(len(images))]
        source = opened(folder_of(Path(root, "in"), images, names, labels), cond=labels is not None)
        order = np.array(data.draw(st.permutations(range(len(images)))))
        write(source, name, f"{root}/{DESTS[name]}", order)
        found = opened(f"{root}/{DESTS[name]}", cond=labels is not None)
        assert found.num_images == len(images) and found.shape() == source.shape()
        for new, old in enumerate(order.tolist()):
            assert np.array_equal(found.read(new), chw(images[old])), (new, old)
        assert np.array_equal(found.labels(np.arange(len(order))), source.labels(order))


NAMES = st.text(st.characters(categories=["L", "N"], include_characters=" _-'().+#%"), min_size=1, max_size=12).filter(
    lambda name: not name.startswith(".")  # a hidden file
)


@examples(8)
@given(st.lists(NAMES, min_size=1, max_size=5, unique_by=lambda name: name.casefold()), st.integers(0, 99))
def test_folders_with_any_names(monkeypatch, stems, seed):
    """Names of every script, with signs that shells and addresses take for something else."""
    images = list(np.random.default_rng(seed).integers(0, 256, (len(stems), 8, 8, 3), dtype=np.uint8))
    names = [f"{stem}.png" for stem in stems]
    with TemporaryDirectory() as root:
        monkeypatch.setenv("STYLEGAN_RAY_CACHE", f"{root}/cache")
        folder = folder_of(Path(root, "in"), images, names, list(range(len(names))))
        found = opened(folder, cond=True)
        assert sorted(map(found.name, range(found.num_images))) == sorted(names)
        for i in range(found.num_images):
            number = names.index(found.name(i))
            assert np.array_equal(found.read(i), chw(images[number]))
            assert found.labels(np.array([i])).argmax() == number


@examples(20)
@given(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(0, 3), st.integers(0, 99))
def test_records_hold_the_image(num, channels, level, seed):
    side = 1 << level
    images = np.random.default_rng(seed).integers(0, 256, (num, channels, side, side), dtype=np.uint8)
    for image in images:
        payload = encode_example(image)
        example = parse_example(memoryview(payload))
        pixels = payload[example.data_start : example.data_start + example.data_size]
        assert example.shape == image.shape and pixels == image.tobytes()
    payloads = [encode_example(image) for image in images]
    records = frame_records(payloads)
    frames, num_bytes = find_frames(records, 0, len(records), "images.tfrecords")
    assert num_bytes == len(records) and not bad_payloads(records, frames)
    assert [records[frame.start : frame.start + frame.size] for frame in frames] == payloads
