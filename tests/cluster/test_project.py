"""The project command: its files, policies and mistakes, and several images in Ray tasks."""

import io
import os
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from support.s3 import s3_server
from support.toy import toy_config

from stylegan_ray import cli
from stylegan_ray.cluster.project import in_tasks, make_projector
from stylegan_ray.images.project_options import ProjectOptions
from stylegan_ray.images.projected import frame_steps, read_targets
from stylegan_ray.interop import load_network, save_network
from stylegan_ray.interop.loading import load
from stylegan_ray.metrics import detectors
from stylegan_ray.metrics.vgg16 import WIDTHS, vgg_layers
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.storage import Storage


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network file and two images."""
    folder = tmp_path_factory.mktemp("project")
    cfg = toy_config(**{"train.drange_net": [-1, 1]})
    torch.manual_seed(0)
    G, G_ema = (build_generator(cfg.model, 16, 3, 2) for _ in range(2))
    D = build_discriminator(cfg.model, 16, 3, 2)
    (folder / "net.safetensors").write_bytes(save_network(G, D, G_ema, cfg, 0))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 40, 4), np.uint8)
    Image.fromarray(pixels[0]).save(folder / "wide.png")
    Image.fromarray(pixels[1, :, :20, :3]).save(folder / "plain.v2.png")
    return folder


@pytest.fixture
def project(folder, tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; returns its output, or the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLEGAN_RAY_DETECTORS", str(tmp_path / "none"))
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)

    def command(*words):
        status = cli.run(cli.project, ["net.safetensors", *words])
        said = capsys.readouterr()
        assert status == (2 if said.err else 0)
        return said.err or said.out

    return command


def test_one_image(project, tmp_path):
    said = project("wide.png", "--outdir", "out", "--steps", "5", "--video", "webp", "--frames", "3")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["wide.npz", "wide.png", "wide.webp"]
    assert "tiny" in said and "PSNR" in said and str(tmp_path / "out" / "wide.npz") in said
    with np.load("out/wide.npz") as file:
        w, noise = file["w"], [file[f"noise{i}"] for i in range(5)]
    assert (w.dtype, w.shape) == (np.float32, (1, 6, 6)) and (w == w[:, :1]).all()
    G = load_network("net.safetensors")["G_ema"]
    with torch.no_grad():
        image = G.synthesis(torch.from_numpy(w), noise=[torch.from_numpy(x) for x in noise])[0]
    wanted = (image * 127.5 + 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.array(Image.open("out/wide.png")), wanted)
    with Image.open("out/wide.webp") as movie:
        assert movie.size == (32, 16) and movie.n_frames > 1


def test_a_projection_continues_from_its_w(project):
    project("wide.png", "--steps", "2", "--space", "w+", "--outdir", "a")
    project("wide.png", "--steps", "1", "--space", "w+", "--load-w", "a/wide.npz", "--outdir", "b")
    with np.load("a/wide.npz") as a, np.load("b/wide.npz") as b:
        np.testing.assert_array_equal(a["w"], b["w"])  # the learning rate of the first step is 0
        assert a["w"].shape == (1, 6, 6)


@pytest.mark.parametrize(
    ("words", "names"),
    [(["/a.png", "b.png"], "IMAGE='b.png'"), (["/a.png", "--load-w", "w.npz"], "--load-w='w.npz'")],
)
def test_a_job_refuses_relative_paths(project, monkeypatch, words, names):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert names in project(*words, "--outdir", "/out")


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_command_that_was_killed_skips_what_is_finished(project, tmp_path):
    words = ("wide.png", "plain.v2.png", "--steps", "2", "--num-tasks", "0")
    project(*words)
    out, before = tmp_path / "projected", written(tmp_path / "projected")
    (out / "plain.v2.npz").unlink()
    said = project(*words)
    assert "wide  skipped" in said and "plain.v2  PSNR" in said
    after = written(out)
    assert after["wide.npz"] == before["wide.npz"] and after["plain.v2.png"] != before["plain.v2.png"]
    assert "PSNR" not in project(*words) and written(out) == after


def test_object_storage(project):
    """Several images with films: the files, and that the same command finds them finished."""
    words = ("wide.png", "plain.v2.png", "--steps", "2", "--num-tasks", "0", "--outdir", "s3://bucket/w")
    words += ("--video", "mp4", "--frames", "3")
    with s3_server():
        assert "plain.v2  PSNR" in project(*words)
        stored = Storage.at("s3://bucket/w")
        names = [stem + suffix for stem in ("plain.v2", "wide") for suffix in (".mp4", ".npz", ".png")]
        assert sorted(stored.names()) == names
        with av.open(io.BytesIO(stored.read("wide.mp4"))) as film:
            frames = [frame.to_ndarray(format="rgb24").shape for frame in film.decode(video=0)]
        assert len(frames) > 1 and set(frames) == {(16, 32, 3)}
        said = project(*words)
        assert "wide  skipped" in said and "PSNR" not in said


@pytest.mark.parametrize("change", ["option", "image", "network", "missing", "damaged", "video"])
def test_a_result_of_something_else_is_made_again(project, tmp_path, change):
    words = ["wide.png", "--steps", "2"]
    project(*words)
    out = tmp_path / "projected"
    if change == "option":
        words += ["--seed", "1"]
    elif change == "image":
        shutil.copy("plain.v2.png", "wide.png")
    elif change == "network":
        networks = load("net.safetensors")
        next(networks.G_ema.parameters()).data += 1
        content = save_network(networks.G, networks.D, networks.G_ema, networks.config, 0)
        (tmp_path / "net.safetensors").write_bytes(content)
    elif change == "missing":
        (out / "wide.png").unlink()
    elif change == "damaged":
        (out / "wide.npz").write_bytes((out / "wide.npz").read_bytes()[:99])
    else:
        words += ["--video", "gif", "--frames", "2"]
    assert "wide  PSNR" in project(*words)
    assert "wide  skipped" in project(*words)


@pytest.fixture
def lpips(tmp_path):
    """A folder of random weights in files that have the names, tensors and shapes of the published ones."""
    torch.manual_seed(0)
    files = tmp_path / "lpips"
    files.mkdir()
    vgg16 = {f"features.{name}": value for name, value in vgg_layers().state_dict().items()}
    torch.save(vgg16 | {"classifier.6.bias": torch.zeros(1000)}, files / "vgg16-397923af.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, block[-1], 1, 1) for i, block in enumerate(WIDTHS)}
    torch.save(heads, files / "weights-vgg16-lpips.pth")
    return files


def test_lpips_is_minimized_where_its_weights_are_stored(project, lpips, monkeypatch):
    words = ("wide.png", "--steps", "3", "--detectors", str(lpips))
    assert "vgg16-397923af.pth has sha256" in project(*words, "--distance", "lpips"), "other weights are refused"
    recipe = detectors.RECIPES["lpips"]
    unchecked = tuple(replace(file, sha256="") for file in recipe.files)
    monkeypatch.setitem(detectors.RECIPES, "lpips", replace(recipe, files=unchecked))
    chosen = project(*words, "--distance", "lpips")
    assert chosen.startswith("Distance  LPIPS\n") and "wide  PSNR" in chosen
    assert project(*words, "--outdir", "auto").startswith("Distance  LPIPS\n")
    with np.load("projected/wide.npz") as here, np.load("auto/wide.npz") as there:
        np.testing.assert_array_equal(here["w"], there["w"])
        assert np.isfinite(here["w"]).all()


@pytest.mark.cluster
def test_several_images_in_tasks_and_in_this_process_are_alike(folder, ray_local):
    images = (str(folder / "wide.png"), str(folder / "plain.v2.png"))
    options = ProjectOptions(str(folder / "net.safetensors"), images, steps=3, distance="pyramid", device="cpu")
    networks = load(options.network)
    projector, targets = make_projector(options, networks), read_targets(options, (16, 16), 3)
    found = {result.stem: result for result in in_tasks(projector, targets, 2, "cpu")}
    assert set(found) == {"wide", "plain.v2"}
    for target in targets:
        alone, in_task = projector(target), found[target.stem]
        assert set(in_task.files) == {f"{target.stem}.png", f"{target.stem}.npz"}
        assert in_task.distance == pytest.approx(alone.distance, rel=1e-3)
        a, b = (np.load(io.BytesIO(result.files[f"{target.stem}.npz"])) for result in (alone, in_task))
        for name in a.files:
            np.testing.assert_allclose(a[name], b[name], atol=1e-3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "IMAGE"),
        ("absent.png", "absent.png does not exist"),
        ("net.safetensors", "error: image net.safetensors: "),
        ("net.safetensors", "not an image"),
        ("wide.png --outdir full", "--outdir full/wide.npz cannot be written"),
        ("wide.png wide.png", "rename one of them"),
        ("wide.png --crop none", "--crop none"),
        ("wide.png --alpha error", "--alpha error"),
        ("wide.png --class 2", "classes 0 to 1"),
        ("wide.png --steps 0", "at least 1"),
        ("wide.png --num-tasks -1", "at least 0"),
        ("wide.png --load-w wide.png", "expected an .npz file"),
        ("wide.png --distance lpips", "--distance pyramid"),
        ("wide.png --device gpu", "cpu, cuda"),
    ],
)
def test_mistakes(project, words, says, tmp_path):
    (tmp_path / "full").mkdir()
    os.mkfifo(tmp_path / "full" / "wide.npz")
    said = project(*words.split())
    assert says in said.replace(f"{tmp_path}/", "") and "on_bad_image" not in said
    assert (tmp_path / "full" / "wide.npz").is_fifo() and not (tmp_path / "projected").exists()


def test_frames_are_closer_at_the_start():
    steps = sorted(frame_steps(1000, 11))
    assert (steps[0], steps[-1], len(steps)) == (0, 999, 11)
    assert (np.diff(steps, n=2) > 0).all()
