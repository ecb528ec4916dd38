"""Many images: fixed batches and files, the same bytes after a kill."""

import json
import tarfile
from copy import deepcopy
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from support.s3 import s3_server

from stylegan_ray import cli
from stylegan_ray.cluster import generate
from stylegan_ray.config import load_config
from stylegan_ray.data import open_dataset
from stylegan_ray.images.generate import Sampler
from stylegan_ray.images.grid import pil_uint8
from stylegan_ray.images.many import MANIFEST, Part, Recipe, finished_parts, names_of, parts_of
from stylegan_ray.interop import Networks
from stylegan_ray.networks import build_generator
from stylegan_ray.storage import Storage

RECIPE = Recipe("sha", 0.7, None, None, "const", "png", batch=4, shard=8, device="cpu")


@pytest.fixture(scope="module")
def G():
    torch.manual_seed(1)
    model = load_config("tiny").model.model_copy(update={"z_dim": 4, "w_dim": 4, "mapping_fmaps": 4, "fmap_max": 4})
    return build_generator(model, 8, 3, 3)


@pytest.fixture
def run(G, tmp_path, monkeypatch, capsys):
    """Runs `generate --n` in this process; returns the exit status and what is printed."""
    networks = Networks(G=None, D=None, G_ema=G, config=load_config("tiny"))
    monkeypatch.setattr(generate, "load", lambda address: networks)
    monkeypatch.chdir(tmp_path)

    def command(*words):
        status = cli.run(cli.generate, ["run", "--num-tasks", "0", "--batch", "4", "--shard", "8", *words])
        said = capsys.readouterr()
        return status, said.out + said.err

    return command


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_parts_are_fixed_by_the_seeds():
    parts = [Part(0, 4), Part(4, 4), Part(8, 2)]
    assert list(parts_of(RECIPE, 10)) == parts and list(parts_of(RECIPE, 12))[:2] == parts[:2]
    assert list(islice(parts_of(RECIPE, 1 << 32), 3))[:2] == parts[:2], "one after another"
    assert finished_parts(RECIPE, 10, ["seed000000.png", "seed00000001.png", "other.png", "seed1000000.png"]) == {}
    done = finished_parts(RECIPE, 10, names_of(RECIPE, Part(4, 4)) + names_of(RECIPE, Part(8, 4)))
    assert done == {1: 4, 2: 2} and list(parts_of(RECIPE, 10, done)) == parts[:1]


def test_images_are_those_of_their_seeds(run, G, tmp_path):
    assert run("--n", "6", "--outdir", "out", "--trunc", "0.7")[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert names == [f"seed{i:06d}.png" for i in range(6)]
    sampler = Sampler(G, 0.7)
    expected = pil_uint8(next(sampler.images(sampler.styles([5])))).permute(1, 2, 0).numpy()
    found = np.array(Image.open(tmp_path / "out" / "seed000005.png"))
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert not np.array_equal(found, np.array(Image.open(tmp_path / "out" / "seed000004.png")))


@pytest.mark.parametrize("kind", ["png", "tar"])
def test_a_command_that_was_killed_ends_with_the_same_bytes(run, tmp_path, kind):
    words = ("--n", "18", "--format", kind, "--noise-mode", "random")
    assert run(*words, "--outdir", "whole")[0] == 0
    assert run(*words, "--outdir", "torn")[0] == 0
    torn = tmp_path / "torn"
    for path in sorted(torn.iterdir())[1::2]:
        if path.name != MANIFEST:
            path.rename(path.with_name(f"{path.name}.77.part"))
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / f"{MANIFEST}.77.part").write_bytes(b"{")
    assert run(*words, "--outdir", "early")[0] == 0 and contents(tmp_path / "early") == contents(tmp_path / "whole")
    status, said = run(*words, "--outdir", "torn")
    assert status == 0 and " 0 made" not in said
    assert contents(torn) == contents(tmp_path / "whole")
    assert "0 made" in run(*words, "--outdir", "torn")[1]


@pytest.mark.parametrize("kind", ["png", "tar"])
def test_more_images_are_added_to_those_that_are_there(run, tmp_path, kind):
    """The last batch is computed whole, so a larger --n changes no image."""
    assert run("--n", "18", "--format", kind, "--outdir", "once")[0] == 0
    assert run("--n", "5", "--format", kind, "--outdir", "twice")[0] == 0
    assert run("--n", "18", "--format", kind, "--outdir", "twice")[0] == 0
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")


@pytest.mark.parametrize("kind", ["png", "tar"])
@pytest.mark.parametrize(("first", "then"), [("18", "17"), ("24", "18"), ("18", "5")])
def test_fewer_images_change_nothing(run, tmp_path, kind, first, then):
    words = ("--format", kind, "--outdir", "out")
    assert run("--n", first, *words)[0] == 0
    before = contents(tmp_path / "out")
    status, said = run("--n", then, *words)
    assert status == 0 and f"{then} images" in said and "0 made" in said
    assert contents(tmp_path / "out") == before


def test_a_tar_file_that_a_longer_one_replaces_is_deleted_after_a_kill_too(run, tmp_path):
    """Killed between the longer file and the deletion, then continued with the smaller number."""
    for num in ("17", "18"):
        assert run("--n", num, "--format", "tar", "--outdir", num)[0] == 0
    (tmp_path / "17" / "images-000002-1.tar").rename(tmp_path / "18" / "images-000002-1.tar")
    assert run("--n", "17", "--format", "tar", "--outdir", "18")[0] == 0
    names = sorted(path.name for path in (tmp_path / "18").glob("*.tar"))
    assert names == ["images-000000.tar", "images-000001.tar", "images-000002-2.tar"]


def test_the_device_of_this_process_is_the_one_that_is_named(run, tmp_path, monkeypatch):
    """Not another one of its kind; the recipe, which other machines compare, has the kind only."""
    used = []
    monkeypatch.setattr("stylegan_ray.images.gallery.choose_device", lambda wanted: torch.device("cpu", 0))
    monkeypatch.setattr(generate.PartWriter, "__call__", lambda writer, part: used.append(writer) or part.num)
    assert run("--n", "4", "--outdir", "out", "--device", "cpu:0")[0] == 0
    assert [(writer.device, writer.recipe.device) for writer in used] == [("cpu:0", "cpu")]


def test_tar_files_are_a_data_set_with_its_classes(run, tmp_path):
    assert run("--n", "18", "--format", "tar", "--outdir", "out")[0] == 0
    files = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert files == ["images-000000.tar", "images-000001.tar", "images-000002-2.tar"]
    with tarfile.open(tmp_path / "out" / files[2]) as archive:
        assert archive.getnames() == ["seed000016.png", "seed000016.cls", "seed000017.png", "seed000017.cls"]
    cfg = load_config("tiny", {"data.path": str(tmp_path / "out"), "data.cond": True, "data.resolution": 8})
    dataset = open_dataset(cfg.data, 0)
    assert dataset.num_images == 18
    assert dataset.labels(np.arange(4)).argmax(axis=1).tolist() == [0, 1, 2, 0]


def test_single_files_do_not_depend_on_the_size_of_tar_files(run):
    assert run("--n", "4", "--outdir", "out")[0] == 0
    status, said = run("--n", "8", "--outdir", "out", "--shard", "16")
    assert status == 0 and "4 made" in said
    assert run("--n", "4", "--outdir", "tar", "--format", "tar")[0] == 0
    status, said = run("--n", "4", "--outdir", "tar", "--format", "tar", "--shard", "16")
    assert status == 2 and "shard=8" in said


def test_a_folder_of_other_images_is_refused(run, tmp_path):
    assert run("--n", "4", "--outdir", "out")[0] == 0
    status, said = run("--n", "4", "--outdir", "out", "--trunc", "0.5")
    assert status == 2 and "trunc=1.0" in said and "0.5" in said
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["trunc"] == 1.0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"")
    status, said = run("--n", "4", "--outdir", "mine")
    assert status == 2 and "photo.png" in said


@pytest.mark.parametrize("kind", ["png", "tar"])
def test_object_storage(run, tmp_path, kind):
    with s3_server():
        assert run("--n", "10", "--format", kind, "--outdir", "here")[0] == 0
        assert run("--n", "5", "--format", kind, "--outdir", f"s3://bucket/fakes-{kind}")[0] == 0
        status, said = run("--n", "10", "--format", kind, "--outdir", f"s3://bucket/fakes-{kind}")
        assert status == 0 and (kind == "tar" or "6 made" in said), said
        stored = Storage.at(f"s3://bucket/fakes-{kind}")
        assert {name: stored.read(name) for name in stored.names()} == contents(tmp_path / "here")


def test_a_job_refuses_relative_paths(run, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    status, said = run("--n", "4", "--outdir", "out")
    assert status == 2 and "--outdir='out' is relative" in said


def test_another_network_is_refused(run, G, tmp_path, monkeypatch):
    assert run("--n", "4", "--outdir", "out")[0] == 0
    other = deepcopy(G)
    with torch.no_grad():
        other.w_avg.add_(1e-3)
    networks = Networks(G=None, D=None, G_ema=other, config=load_config("tiny"))
    monkeypatch.setattr(generate, "load", lambda address: networks)
    status, said = run("--n", "8", "--outdir", "out")
    assert status == 2 and "network=" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--n 4 --outdir x --directions sefa", "--directions"),
        ("--n 0 --outdir x", "at least 1"),
        ("--n 4294967297 --outdir x", "--n 4294967297 must be at most 4294967296"),
        ("--n 4294967296 --batch 5 --outdir x", "at most 4294967295"),
        ("--n 4", "--outdir"),
        ("--n 4 --outdir x --grid g.png", "--grid"),
        ("--n 4 --outdir x --mix-seeds 1", "--mix-seeds"),
        ("--n 4 --outdir x --seeds 0-3", "--seeds"),
        ("--n 4 --outdir x --format tar --shard 10", "multiple of --batch 4; try 8"),
        ("--n 4 --outdir x --class 7", "classes 0 to 2"),
    ],
)
def test_mistakes(run, tmp_path, words, says):
    status, said = run(*words.split())
    assert status == 2 and says in said
    assert not (tmp_path / "x").exists()
