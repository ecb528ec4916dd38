"""The files of the generate command."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_ray import cli
from stylegan_ray.config import ConfigError, ModelConfig, load_config
from stylegan_ray.images import gallery, outputs
from stylegan_ray.images.generate import Sampler
from stylegan_ray.images.grid import pil_uint8
from stylegan_ray.images.saved_w import save_w
from stylegan_ray.images.video import write_video
from stylegan_ray.interop import Networks
from stylegan_ray.networks import build_generator


@pytest.fixture
def G():
    torch.manual_seed(1)
    return build_generator(ModelConfig(z_dim=4, w_dim=4, mapping_fmaps=4, mapping_layers=1, fmap_max=4), 8, 3, 0)


def networks(G, drange=(-1.0, 1.0)):
    cfg = load_config("tiny", {"train.drange_net": drange})
    return Networks(G=None, D=None, G_ema=G, config=cfg)


@pytest.fixture
def generate(G, tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; returns the paths, or the error, that it prints."""
    monkeypatch.setattr(gallery, "load", lambda checkpoint: networks(G))
    monkeypatch.chdir(tmp_path)

    def command(*argv):
        status = cli.run(cli.generate, ["run", *argv])
        said = capsys.readouterr()
        assert status == (2 if said.err else 0)
        return said.err or said.out.split()

    return command


def pixels(path):
    return np.array(Image.open(path))


def expected(G, seed):
    with torch.no_grad():
        image = G(torch.from_numpy(np.random.RandomState(seed).randn(1, 4)).float(), None)
    return pil_uint8(image)[0].permute(1, 2, 0).numpy()


def test_a_grid_by_default(generate, G):
    assert generate("--seeds", "0-4,9") == ["seeds0-4_9.png"]
    grid = pixels("seeds0-4_9.png")
    assert grid.shape == (16, 24, 3), "three columns, two rows"
    np.testing.assert_array_equal(grid[8:, 16:], expected(G, 9))


def test_single_images(generate, G):
    assert generate("--seeds", "3,12", "--outdir", "out") == ["out/seed0003.png", "out/seed0012.png"]
    np.testing.assert_array_equal(pixels("out/seed0012.png"), expected(G, 12))


def test_grid_and_single_images(generate):
    assert generate("--seeds", "1-2", "--outdir", "out", "--grid", "a/b.png", "--tiles", "1", "2")[-1] == "a/b.png"
    assert pixels("a/b.png").shape == (16, 8, 3)


def test_style_mixing(generate, G):
    assert generate("--seeds", "0-1", "--mix-seeds", "5-7", "--mix-styles", "0-3") == ["mixing.png"]
    grid = pixels("mixing.png")
    assert grid.shape == (24, 32, 3) and (grid[:8, :8] == 255).all()
    np.testing.assert_array_equal(grid[:8, 16:24], expected(G, 6))  # on top: the sources of the columns
    np.testing.assert_array_equal(grid[16:, :8], expected(G, 1))  # on the left: those of the rows
    np.testing.assert_array_equal(grid[16:, 16:24], expected(G, 6))  # every layer from the column


def test_mixtures_as_files_and_their_w(generate, G):
    words = "--seeds 0-1 --mix-seeds 5-6 --mix-styles 0-1".split()
    files = [f"out/seed000{row}-seed000{column}.png" for row in (0, 1) for column in (5, 6)]
    assert generate(*words, "--outdir", "out", "--save-w", "w.npz") == ["w.npz", *files]
    assert generate(*words) == ["mixing.png"]
    grid = pixels("mixing.png")
    for number, file in enumerate(files):
        row, column = 8 + 8 * (number // 2), 8 + 8 * (number % 2)
        np.testing.assert_array_equal(pixels(file), grid[row : row + 8, column : column + 8])
    assert generate("--load-w", "w.npz", "--tiles", "2", "2") == ["saved_w.png"]
    np.testing.assert_array_equal(pixels("saved_w.png"), grid[8:, 8:])
    assert generate(*words, "--outdir", "out", "--grid", "g.png") == [*files, "g.png"]
    assert "leave one of them out" in generate(*words, "--tiles", "2", "2")


def test_mixtures_have_the_random_noise_of_their_row(generate, G):
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if "noise_strength" in name:
                parameter.fill_(0.5)
    words = ("--noise-mode", "random")
    generate("--seeds", "0-1", "--mix-seeds", "5,1", "--mix-styles", "0-3", *words)
    generate("--seeds", "0-1,5", "--outdir", "out", *words)
    grid, alone = pixels("mixing.png"), [pixels(f"out/seed000{seed}.png") for seed in (0, 1, 5)]
    for tile, expected in (((8, 0), alone[0]), ((16, 0), alone[1]), ((0, 8), alone[2]), ((16, 16), alone[1])):
        np.testing.assert_array_equal(grid[tile[0] : tile[0] + 8, tile[1] : tile[1] + 8], expected)


@pytest.mark.parametrize("ending", ["webp", "gif"])
def test_videos_by_pillow(generate, ending):
    assert generate("--seeds", "0-2", "--video", f"walk.{ending}", "--frames", "4") == [f"walk.{ending}"]
    with Image.open(f"walk.{ending}") as movie:
        assert (movie.size, movie.n_frames) == ((8, 8), 12)


def test_mp4_in_tiles(generate):
    import av

    generate("--seeds", "0-7", "--video", "walk.mp4", "--frames", "3", "--tiles", "2", "1", "--fps", "12")
    with av.open("walk.mp4") as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (len(frames), frames[0].width, frames[0].height, stream.average_rate) == (12, 16, 8, 12)


def test_mp4_shows_the_frames(tmp_path):
    """Odd sides grow by a pixel, and colors are kept."""
    import av

    colors = torch.tensor([[200, 30, 60], [20, 180, 90]], dtype=torch.uint8)
    frames = (color.reshape(3, 1, 1).expand(3, 15, 17) for color in colors.repeat_interleave(5, dim=0))
    write_video(tmp_path / "x.mp4", frames, 10)
    with av.open(str(tmp_path / "x.mp4")) as container:
        seen = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(seen) == 10 and seen[0].shape == (16, 18, 3)
    for frame, color in ((seen[0], colors[0]), (seen[-1], colors[1])):
        assert np.abs(frame.reshape(-1, 3).mean(axis=0) - color.numpy()).max() < 12


def test_without_pyav_mp4_is_refused_with_a_way_out(generate, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    said = generate("--video", "walk.mp4")
    assert "stylegan-ray[video]" in said and "walk.webp" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--seeds x", "0-7,12"),
        ("--seeds 0-8 --tiles 2 3", "room for 6"),
        ("--video walk.avi", ".webp"),
        ("--video walk.webp --seeds 0-2 --tiles 2 1", "at least 4"),
        ("--class 3", "no classes"),
        ("--grid a.jpg", "--grid a.jpg is written as PNG"),
        ("--grid notes.txt", "--grid notes.txt is written as PNG"),
        ("--fps 0", "from 1 to 1000"),
        ("--tiles 0 4", "at least 1"),
        ("--device gpu", "cpu, cuda"),
        ("--device meta", "cpu, cuda"),
        ("--format tar", "--format goes with --n"),
        ("--shard 8", "--shard goes with --n"),
        ("--num-tasks 0", "--num-tasks goes with --n"),
        ("--address auto", "--address goes with --n"),
        ("--load-w x.npz --seeds 1", "--seeds does not go with --load-w"),
        ("--mix-seeds 1 --mix-styles 30", "layers 0 to 3"),
        ("--mix-seeds 1", "--mix-seeds mixes the layers of --mix-styles, 0-6 unless given, and layer 4"),
        ("--mix-seeds 1", "give --mix-styles 0-1"),
    ],
)
def test_mistakes(generate, words, says):
    assert says in generate(*words.split())


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--seeds", ",".join(map(str, range(100, 200)))], "--grid"),
        (["--seeds", "0", "--grid", "g" * 240], "--grid"),
        (["--seeds", "0", "--directions", "sefa", "--direction", ",0" * 120], "--grid"),
        (["--seeds", "0", "--directions", "sefa", "--direction", ",0" * 115, "--outdir", "out"], "--outdir"),
    ],
)
def test_a_name_that_is_too_long_is_refused_before_anything_is_computed(generate, tmp_path, words, option):
    words = [word.removeprefix(",") for word in words]
    said = generate(*words)
    assert option in said and "its name has" in said and "230 is the most" in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--grid", "--save-w", "--video", "--outdir"])
def test_a_pipe_is_not_replaced_and_a_link_is_followed(generate, tmp_path, option, monkeypatch):
    names = {"--grid": "a.png", "--save-w": "a.npz", "--video": "a.webp", "--outdir": "seed0001.png"}
    path, words = tmp_path / names[option], ["--seeds", "0-1", "--frames", "1", option]
    words.append(str(tmp_path if option == "--outdir" else path))
    os.mkfifo(path)
    with monkeypatch.context() as patch:
        patch.setattr(gallery.Gallery, "stills", None)
        said = generate(*words)
    assert said.startswith(f"error: {option} {path} cannot be written") and "pipe" in said and path.is_fifo()
    path.unlink()
    (tmp_path / "there").mkdir()
    path.symlink_to("there/file")
    generate(*words)
    assert path.is_symlink() and (tmp_path / "there" / "file").stat().st_size > 100


def test_mixing_with_a_video_writes_both(generate):
    words = "--seeds 0-1 --mix-seeds 5 --mix-styles 0 --video v.webp --frames 2"
    assert generate(*words.split()) == ["mixing.png", "v.webp"]


@pytest.mark.parametrize("option", ["--outdir", "--grid", "--save-w"])
def test_addresses_of_object_storage_are_refused(generate, option, tmp_path):
    said = generate("--seeds", "0", option, "s3://KEY:SECRET@bucket/x")
    assert f"{option} s3://bucket/x is an address" in said and "disk" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--outdir", "out"], "--outdir='out'"),
        (["--grid", "g.png"], "--grid='g.png'"),
        (["--video", "v.webp"], "--video='v.webp'"),
        (["--save-w", "w.npz", "--outdir", "/out"], "--save-w='w.npz'"),
        (["--load-w", "w.npz", "--grid", "/g.png"], "--load-w='w.npz'"),
        ([], "--grid='seeds0-1.png'"),
        (["--mix-seeds", "5"], "--grid='mixing.png'"),
        (["--directions", "sefa"], "--grid='sefa0.png'"),
    ],
)
def test_files_that_would_be_lost_with_a_job_are_refused(generate, monkeypatch, words, names):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert names in generate("--seeds", "0-1", *words)


@pytest.mark.parametrize(
    ("words", "most", "says"),
    [
        ("--seeds 0-4", 4, "--seeds 0-4: a grid of 5 images of 8x8"),
        ("--load-w w.npz", 1, "--load-w: a grid of 2 images"),
        ("--seeds 0-1 --mix-seeds 5-7 --mix-styles 0", 11, "--seeds 0-1 --mix-seeds 5-7: a grid of 12 images"),
        ("--seeds 0-1 --directions sefa --strength 0:1:3", 5, "--strength 0:1:3: a grid of 6 images"),
        ("--seeds 0 --directions sefa --direction 0-1 --outdir out", 13, "--direction 0-1 --strength -3:3: a grid of"),
    ],
)
def test_a_picture_that_is_too_large_is_refused(generate, monkeypatch, words, most, says):
    generate("--seeds", "0-1", "--save-w", "w.npz")
    monkeypatch.setattr(outputs, "MOST_PIXELS", 64 * most)
    said = generate(*words.split())
    assert says in said and f"at most {most} images" in said
    monkeypatch.setattr(outputs, "MOST_PIXELS", 64 * most + 64)
    assert "error" not in generate(*words.split())


def test_a_gpu_that_is_not_there(generate, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--device cuda:9: torch sees 2 GPUs" in generate("--device", "cuda:9")
    assert str(gallery.choose_device("cuda:1")) == "cuda:1"


def test_other_ranges(generate, G, monkeypatch):
    """The range of drange_net is mapped to black and white."""
    monkeypatch.setattr(gallery, "load", lambda checkpoint: networks(G, (-2.0, 2.0)))
    generate("--seeds", "4")
    assert np.abs(pixels("seeds4.png").astype(int) - 127).mean() < np.abs(expected(G, 4).astype(int) - 127).mean()


def test_a_network_that_cannot_be_loaded_exits_with_2(generate, monkeypatch):
    def load(checkpoint):
        raise ConfigError(f"no run {checkpoint!r}")

    monkeypatch.setattr(gallery, "load", load)
    assert "no run 'run'" in generate()


def test_saved_w_give_the_images_again(generate, G):
    assert generate("--seeds", "3,12", "--outdir", "a", "--save-w", "w.npz")[0] == "w.npz"
    assert generate("--load-w", "w.npz", "--outdir", "b") == ["b/w-0000.png", "b/w-0001.png"]
    np.testing.assert_array_equal(pixels("b/w-0001.png"), expected(G, 12))


def test_images_of_one_name_are_refused_where_each_has_a_file(generate, tmp_path):
    for name, seeds in (("a/photo", "3"), ("b/photo", "4"), ("a/w", "5,6"), ("b/w-0001", "7")):
        generate("--seeds", seeds, "--save-w", f"{name}.npz", "--grid", "g.png")
    for files, name in ((("a/photo.npz", "b/photo.npz"), "photo"), (("a/w.npz", "b/w-0001.npz"), "w-0001")):
        said = generate("--load-w", *files, "--outdir", "out")
        assert f"both become out/{name}.png; rename" in said and not (tmp_path / "out").exists()
        assert generate("--load-w", *files, "--grid", "both.png") == ["both.png"]


def test_noise_maps_of_a_file_are_used(generate, G):
    """Unless another noise mode is asked for."""
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if "noise_strength" in name:
                parameter.fill_(0.5)
        ws = Sampler(G).styles([1])
        noise = [torch.ones(shape) for shape in G.synthesis.noise_shapes(1)]
        wanted = pil_uint8(G.synthesis(ws, noise=noise))[0].permute(1, 2, 0).numpy()
    Path("x.npz").write_bytes(save_w(ws, noise))
    generate("--load-w", "x.npz")
    np.testing.assert_array_equal(pixels("saved_w.png"), wanted)
    generate("--load-w", "x.npz", "--noise-mode", "none", "--grid", "none.png")
    assert (pixels("none.png") != wanted).any()
    generate("--load-w", "x.npz", "--mix-seeds", "5", "--mix-styles", "0", "--grid", "mixed.png")
    np.testing.assert_array_equal(pixels("mixed.png")[8:, :8], wanted)


@pytest.mark.parametrize("method", ["sefa", "ganspace"])
def test_strips_along_directions(generate, G, method):
    """A row for each image and direction; in the middle, at strength 0, the image itself."""
    words = ("--seeds", "4,6", "--directions", method, "--direction", "0-1", "--layers", "0-2", "--save-w", "w.npz")
    assert generate(*words, "--strength", "-3:3:5") == ["w.npz", f"{method}0-1.png"]
    grid = pixels(f"{method}0-1.png")
    assert grid.shape == (4 * 8, 5 * 8, 3)
    for row, seed in enumerate((4, 4, 6, 6)):
        np.testing.assert_array_equal(grid[row * 8 : row * 8 + 8, 16:24], expected(G, seed))
        assert (grid[row * 8 : row * 8 + 8, :8] != grid[row * 8 : row * 8 + 8, 32:]).any()
    with np.load("w.npz") as file:
        w = file["w"].reshape(2, 2, 5, 4, 4)
    assert (w[:, :, 0, 3] == w[:, :, 4, 3]).all(), "layer 3 is not edited"
    assert (w[:, :, 0, :3] != w[:, :, 4, :3]).any()
    assert generate("--load-w", "w.npz", "--grid", "again.png", "--tiles", "5", "4") == ["again.png"]
    np.testing.assert_array_equal(pixels("again.png"), grid)


def test_a_strip_for_each_image_and_a_video_there_and_back(generate):
    words = "--seeds 4,6 --directions sefa --direction 1 --strength=-2:2 --outdir out --video v.webp --frames 4"
    assert generate(*words.split()) == ["out/seed0004-sefa1.png", "out/seed0006-sefa1.png", "v.webp"]
    assert pixels("out/seed0004-sefa1.png").shape == (8, 7 * 8, 3)
    with Image.open("v.webp") as movie:
        assert (movie.size, movie.n_frames) == ((8, 16), 6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--strength 3", "FIRST:LAST"),
        ("--strength 0:1:1", "COUNT from 2"),
        ("--direction 9", "directions 0 to 3"),
        ("--layers 4", "layers 0 to 3"),
        ("--tiles 2 2", "leave one of them out"),
        ("--mix-seeds 1", "leave one of them out"),
    ],
)
def test_mistakes_about_directions(generate, words, says):
    assert says in generate("--seeds", "0", "--directions", "sefa", *words.split())
