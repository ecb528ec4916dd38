"""The data doctor on a data set with one image of each defect, and what it makes of it."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageFilter
from support.data_sets import encoded, label_json, noise_picture, numbered, opened, write_folder, write_zip
from support.s3 import s3_server
from support.spoiled import EXPECTED, SIDE, clean_emoji, spoiled

from stylegan_ray import cli
from stylegan_ray.data.decode import open_image
from stylegan_ray.storage import Storage

NUM_CLEAN = 60


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLEGAN_RAY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def spoiled_set(cache, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("spoiled"), spoiled(NUM_CLEAN))


def run(*words):
    return cli.run(cli.prepare_data, [*map(str, words), "--workers", "0"])


def test_every_defect_is_found_and_nothing_else(spoiled_set, tmp_path, capsys):
    assert run(spoiled_set, "--check", "--json", tmp_path / "f.json", "--sheet", tmp_path / "f.png") == 1
    found = json.loads((tmp_path / "f.json").read_text())
    assert {kind: {doubt["name"] for doubt in doubts} for kind, doubts in found["doubts"].items()} == EXPECTED
    assert found["images"] == len(list(spoiled_set.iterdir())) and found["sizes"][f"{SIDE}x{SIDE}"] > NUM_CLEAN
    assert found["frames"] == {"1": found["images"] - 6, "2": 2, "3": 1}
    assert found["modes"]["CMYK"] == 1 and found["bits"]["16"] == 2 and found["orientations"]["6"] == 1
    assert {tuple(group)[1] for group in found["duplicates"]} == EXPECTED["duplicate"]
    sheet = Image.open(tmp_path / "f.png")
    assert sheet.mode == "RGB" and sheet.width > 500 < sheet.height and len(sheet.getcolors(1 << 24)) > 100
    text = capsys.readouterr().out
    assert "Blurred          2: " in text and "padded-wide.png (bars of 12 px (top)" in text


@pytest.mark.parametrize("dest", ["d.zip", "d"])
def test_fix_writes_what_is_left_and_says_what_it_did(spoiled_set, tmp_path, capsys, dest):
    assert run(spoiled_set, "--fix", tmp_path / dest, "--no-shuffle") == 0
    text = capsys.readouterr().out
    assert "Blurred " in text and "left out" in text and f"{dest}.changes.json" in text
    changes = json.loads((tmp_path / f"{dest}.changes.json").read_text())
    by_name = {change["name"]: change for change in changes["changes"]}
    assert set(by_name) == set().union(*EXPECTED.values())
    left_out = ("unreadable", "duplicate", "near-duplicate", "single-coloured", "blurred")
    gone = set().union(*(EXPECTED[kind] for kind in left_out))
    assert {name for name, change in by_name.items() if change["number"] is None} == gone
    data = opened(tmp_path / dest)
    assert data.num_images == changes["images_written"] == changes["images_read"] - len(gone)
    assert data.shape() == (3, SIDE, SIDE)
    trimmed = data.read(by_name["padded-wide.png"]["number"])
    assert trimmed[:, :2].mean() > 50, "the bars are gone"
    turned = open_image((spoiled_set / "turned.jpg").read_bytes())
    np.testing.assert_array_equal(data.read(by_name["turned.jpg"]["number"]), np.asarray(turned).transpose(2, 0, 1))
    assert run(tmp_path / dest, "--check", "--json", tmp_path / "again.json") == 0
    assert not any(json.loads((tmp_path / "again.json").read_text())["doubts"].values())


def test_kinds_can_be_kept(spoiled_set, tmp_path):
    assert run(spoiled_set, tmp_path / "d.zip", "--fix", "--keep", "blurred", "padded", "near-duplicate") == 0
    changes = json.loads((tmp_path / "d.zip.changes.json").read_text())
    acted = {change["kind"] for image in changes["changes"] for change in image["changes"]}
    assert acted == EXPECTED.keys() - {"blurred", "padded", "near-duplicate"}


def test_labels_stay_with_their_images(tmp_path, cache):
    files = numbered(6) | {"006.png": Image.new("RGB", (16, 16)), "007.png": noise_picture(2)}
    named = [[name, i % 4] for i, name in enumerate(files)]
    source = write_folder(tmp_path / "s", {**files, "dataset.json": label_json(named)})
    assert run(source, tmp_path / "d.zip", "--fix") == 0
    with zipfile.ZipFile(tmp_path / "d.zip") as archive:
        assert [label for _, label in json.loads(archive.read("dataset.json"))["labels"]] == [0, 1, 2, 3, 0, 1]
    changes = json.loads((tmp_path / "d.zip.changes.json").read_text())["changes"]
    assert [change["why"] for image in changes for change in image["changes"]] == [
        "100% of its pixels have one color", "= 002.png, but with another label",
    ]  # fmt: skip


def test_images_of_many_sizes_are_all_named(tmp_path, cache):
    files = {f"{i}.png": noise_picture(i, (32 + i, 40)) for i in range(5)} | {"g.png": noise_picture(9, (32, 32), "L")}
    assert run(write_folder(tmp_path / "s", files), tmp_path / "d.zip", "--fix") == 0
    changes = json.loads((tmp_path / "d.zip.changes.json").read_text())
    assert changes["resolution"] == [32, 32] and opened(tmp_path / "d.zip").shape() == (3, 32, 32)
    assert [change["name"] for change in changes["changes"]] == [*(f"{i}.png" for i in range(5)), "g.png"]


def test_a_common_background_is_no_padding_and_a_frame_is(tmp_path, cache):
    def framed(seed, color):
        image = Image.new("RGB", (32, 32), color)
        image.paste(noise_picture(seed, (20, 20)), (6, 6))
        return encoded(image)

    files = {f"{i}.png": framed(i, "white") for i in range(8)} | {"odd.png": framed(8, "navy")}
    assert run(write_folder(tmp_path / "s", files), "--check", "--json", tmp_path / "f.json") == 0
    doubts = json.loads((tmp_path / "f.json").read_text())["doubts"]
    assert [doubt["name"] for doubt in doubts["padded"]] == ["odd.png"]


def test_small_things_and_gradients_are_no_padding(tmp_path, cache):
    dot, sky = Image.new("RGB", (64, 64), "navy"), np.tile(np.arange(64, dtype=np.uint8)[:, None] // 2 + 90, (1, 64))
    dot.paste("white", (30, 20, 33, 23))
    files = numbered(8) | {"dot.png": encoded(dot), "sky.png": encoded(Image.fromarray(sky).convert("RGB"))}
    files["one.png"] = encoded(Image.fromarray(np.pad(np.uint8([[255]]), 32)).convert("RGB"))
    assert run(write_folder(tmp_path / "s", files), "--check", "--json", tmp_path / "f.json") == 0
    assert not json.loads((tmp_path / "f.json").read_text())["doubts"]["padded"]


@pytest.mark.parametrize("words", [[], ["--keep", "blurred"]])
def test_of_near_duplicates_one_with_detail_is_kept(tmp_path, cache, words):
    sharp = clean_emoji(7)
    files = {f"s{number}.png": image for number, image in enumerate(sharp)} | {
        "a4.png": sharp[0].resize((256, 256), Image.Resampling.BICUBIC),
        "a3.png": sharp[1].resize((192, 192), Image.Resampling.LANCZOS),
        "a2.png": sharp[2].resize((128, 128), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1.5)),
        "small.png": sharp[3].resize((32, 32), Image.Resampling.LANCZOS),
    }
    assert run(write_folder(tmp_path / "s", files), tmp_path / "d.zip", "--fix", *words) == 0
    changes = json.loads((tmp_path / "d.zip.changes.json").read_text())["changes"]
    gone = {change["name"] for change in changes if change["number"] is None}
    assert gone == {"a4.png", "a3.png", "a2.png", "small.png"}


def test_names_cannot_forge_lines(tmp_path, cache, capsys):
    source = write_folder(tmp_path / "s", {**numbered(3), "a\nUnreadable none\x1b[2J.png": b"x"})
    assert run(source, "--check", "--sheet", tmp_path / "f.png") == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text and "a\\nUnreadable none\\x1b[2J.png: " in text


def deep_pictures(dtype, top, count=6):
    """Gray TIFF files of random values up to a number; the last one has bars."""
    rng = np.random.default_rng(0)
    values = [(rng.random((64, 64)) * top).astype(dtype) for _ in range(count)]
    values[-1][:16] = values[-1][-16:] = 0
    return {f"{i}.tif": encoded(Image.fromarray(pixels), "TIFF") for i, pixels in enumerate(values)}


@pytest.mark.parametrize(("dtype", "top"), [("u2", 1024), ("u2", 4096), ("i4", 65536), ("f4", 1), ("f4", 65535)])
def test_deep_images_are_seen_and_written_as_training_sees_them(tmp_path, cache, dtype, top):
    source = write_folder(tmp_path / "s", deep_pictures(dtype, top))
    assert run(source, tmp_path / "d.zip", "--fix", "--no-shuffle") == 0
    changes = json.loads((tmp_path / "d.zip.changes.json").read_text())["changes"]
    found = {
        change["name"]: {each["kind"] for each in change["changes"]} - {"deep", "other-size"} for change in changes
    }
    assert {name: kinds for name, kinds in found.items() if kinds} == {"5.tif": {"padded"}}
    raw, written = opened(source), opened(tmp_path / "d.zip")
    np.testing.assert_array_equal(written.read(0), raw.read(0))
    assert 120 < written.read(5).mean() < 135, "without bars, and neither dark nor clipped"


def test_deep_images_of_few_bits_are_no_duplicates(tmp_path, cache):
    ramp = np.add.outer(np.arange(64) * 32, np.arange(64) * 32).astype(np.uint16)
    other = ramp.copy()
    other[20:40, 20:40] ^= 0x7F
    files = {f"{i}.png": encoded(Image.fromarray(values)) for i, values in enumerate((ramp, other, ramp.T + 63))}
    assert run(write_folder(tmp_path / "s", files), "--check", "--json", tmp_path / "f.json") == 0
    assert json.loads((tmp_path / "f.json").read_text())["doubts"]["duplicate"] == []


def test_values_that_training_refuses_are_unreadable(tmp_path, cache):
    bad = {"negative": np.int32(-1), "large": np.int32(1 << 16), "nan": np.float32("nan"), "above": np.float32(1.02)}
    files = {f"{name}.tif": encoded(Image.fromarray(np.full((64, 64), value)), "TIFF") for name, value in bad.items()}
    source = write_folder(tmp_path / "s", {**deep_pictures("i4", 65536, 3), **files})
    assert run(source, "--check", "--json", tmp_path / "f.json") == 1
    doubts = json.loads((tmp_path / "f.json").read_text())["doubts"]
    assert [doubt["name"] for doubt in doubts["unreadable"]] == sorted(files)
    assert all(doubt["why"].startswith("holds ") for doubt in doubts["unreadable"])
    assert run(source, tmp_path / "d.zip", "--fix") == 0 and opened(tmp_path / "d.zip").num_images == 3


def test_stated_bits_are_those_of_the_examination(tmp_path, cache, capsys):
    values = np.random.default_rng(0).integers(0, 1024, (64, 64)).astype(np.uint16)
    source = write_folder(tmp_path / "s", {"a.png": encoded(Image.fromarray(values))})
    assert run(source, "--check", "--bits", "16", "--json", tmp_path / "f.json") == 0
    doubts = json.loads((tmp_path / "f.json").read_text())["doubts"]
    assert [doubt["name"] for doubt in doubts["single-coloured"]] == ["a.png"]
    assert "--data.bits 16" in capsys.readouterr().out


def test_check_of_nothing_and_of_what_cannot_be_trained_on(tmp_path, cache, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "--check") == 1
    assert f"SOURCE {tmp_path / 'empty'} holds no images" in capsys.readouterr().out
    mixed = {f"{top}.tif": deep_pictures("f4", top, 1)["0.tif"] for top in (1, 255)}
    assert run(write_folder(tmp_path / "s", mixed), "--check") == 2
    assert "give all of them one range" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("{s} --json {t}/f.json", "--json"),
        ("{s} {t}/d.zip --sheet {t}/f.png", "--sheet"),
        ("{s} --check --json {t}/absent/f.json", "cannot be written"),
        ("{s} --check --sheet {t}", "--sheet {t} is a folder; give the path of a file"),
        ("{s} --check --json {t}/pipe", "--json {t}/pipe cannot be written: {t}/pipe is a folder, device, pipe"),
        ("{s} --check --sheet {t}/pipe", "--sheet {t}/pipe cannot be written"),
        ("{s} {t}/e.zip --fix", "the list of changes {t}/e.zip.changes.json cannot be written"),
        ("{s} --check --sheet {t}/f.jpg", "--sheet {t}/f.jpg is written as PNG"),
        ("{s} --check --fix {t}/d", "give one of them"),
        ("{s} --check --keep blurred", "--keep blurred"),
        ("{s} {t}/out.zip --fix --resolution 16 --letterbox", "--letterbox does not go with --fix"),
        ("{s} --fix", "DEST is missing"),
        ("{s} --fix {s}", "is SOURCE itself"),
        ("{t}/flat --fix {t}/d", "--fix leaves out every image"),
        ("{s} --check --json {s}/000.png", "--json {s}/000.png would be written over or into SOURCE {s}"),
        ("{s} --check --sheet {s}/f.png", "--sheet {s}/f.png would be written over or into SOURCE {s}"),
        ("{z} --check --sheet {z}", "--sheet {z} would be written over or into SOURCE {z}"),
        ("{z} --check --sheet {t}/link", "--sheet {t}/link would be written over or into SOURCE {z}"),
        ("{s} {t}/d --fix --json {t}/d", "--json {t}/d would be written over or into DEST {t}/d"),
        ("{s} {t}/d --fix --json {t}/d.changes.json", "over or into the list of changes {t}/d.changes.json"),
        ("{s} --check --json {t}/r --sheet {t}/./r", "--sheet {t}/./r would be written over or into --json {t}/r"),
        ("s3://k:s@b/d --check --json s3://b/d/f?region=x", "over or into SOURCE s3://b/d"),
    ],
)
def test_mistakes(tmp_path, cache, capsys, words, says):
    write_folder(tmp_path / "s", numbered(2))
    write_folder(tmp_path / "flat", {"a.png": Image.new("RGB", (16, 16))})
    source = write_zip(tmp_path / "z.zip", numbered(2)).read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "z.zip")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "e.zip.changes.json").symlink_to("pipe")
    places = {"s": tmp_path / "s", "t": tmp_path, "z": tmp_path / "z.zip"}
    assert run(*words.format(**places).split()) == 2
    error = capsys.readouterr().err
    assert says.format(**places) in error and "data." not in error and "Traceback" not in error
    assert not (tmp_path / "d").exists() and [path.name for path in tmp_path.glob("*.json")] == ["e.zip.changes.json"]
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "z.zip").read_bytes() == source and len(list((tmp_path / "s").iterdir())) == 2


@pytest.mark.parametrize("option", ["--fix", "--workers"])
def test_a_dest_that_is_taken_is_told_before_source_is_read(tmp_path, cache, capsys, monkeypatch, option):
    source = write_folder(tmp_path / "s", numbered(2))
    (tmp_path / "there.zip").write_bytes(b"data")
    monkeypatch.setattr("stylegan_ray.data.open.open_index", pytest.fail)
    words = [option] if option == "--fix" else []
    assert run(source, tmp_path / "there.zip", *words) == 2
    assert f"DEST {tmp_path / 'there.zip'} exists" in capsys.readouterr().err
    assert (tmp_path / "there.zip").read_bytes() == b"data"


def test_a_report_replaces_a_report_and_nothing_else(tmp_path, cache, capsys):
    source = write_folder(tmp_path / "s", numbered(2))
    (tmp_path / "set.zip").write_bytes(b"PK\3\4")
    assert run(source, "--check", "--json", tmp_path / "set.zip") == 2
    assert "is not a report" in capsys.readouterr().err and (tmp_path / "set.zip").read_bytes() == b"PK\3\4"
    for _ in range(2):
        assert run(source, tmp_path / "d.zip", "--check", "--json", tmp_path / "f.json") == 0
    assert "d.zip is not written" in capsys.readouterr().err and not (tmp_path / "d.zip").exists()


def test_a_color_file_among_gray_ones_becomes_gray(tmp_path, cache):
    rng = np.random.default_rng(0)
    gray = {f"{i:02d}.png": encoded(Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8))) for i in range(20)}
    color = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    source = write_folder(tmp_path / "s", gray | {"c.png": encoded(Image.fromarray(color))})
    assert run(source, tmp_path / "d.zip", "--fix", "--keep", "near-duplicate") == 0
    changes = json.loads((tmp_path / "d.zip.changes.json").read_text())
    assert changes["channels"] == 1 and [change["name"] for change in changes["changes"]] == ["c.png"]


def test_reports_follow_links(cache, tmp_path):
    write_folder(tmp_path / "s", numbered(2))
    for option, name in (("--json", "f.json"), ("--sheet", "f.png")):
        (tmp_path / name).symlink_to(f"target-{name}")
        assert run(tmp_path / "s", "--check", option, tmp_path / name) == 0
        assert (tmp_path / name).is_symlink() and (tmp_path / f"target-{name}").stat().st_size > 100


def test_credentials_of_addresses_are_in_no_line_and_no_report(cache, tmp_path, capfd):
    place = "s3://test:test@bucket"
    with s3_server():
        for name, picture in numbered(3).items():
            Storage.at("s3://bucket").write(f"d/{name}", encoded(picture))
        assert run(f"{place}/d", "--check", "--json", tmp_path / "f.json") == 0
        assert run(f"{place}/d", f"{place}/fixed.zip", "--fix", "--keep", "near-duplicate") == 0
        assert run(f"{place}/none", "--check") == 2
        changes = Storage.at("s3://bucket").read("fixed.zip.changes.json").decode()
    said = capfd.readouterr()
    assert "s3://bucket/d" in said.out and "s3://bucket/fixed.zip" in said.out and "s3://bucket/none" in said.err
    for text in (said.out, said.err, (tmp_path / "f.json").read_text(), changes):
        assert "test:test" not in text
