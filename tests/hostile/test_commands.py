"""Options of commands as no one means them: status 2 and one message that names the option, before anything is made."""

import os

import pytest
import torch
from support.networks import built

from stylegan_ray import cli
from stylegan_ray.config import ConfigError
from stylegan_ray.images.options import numbers, strengths
from stylegan_ray.images.saved_w import save_w
from stylegan_ray.interop import save_network


@pytest.fixture
def generate(tmp_path, networks, monkeypatch, capsys):
    """Calls the command in an empty folder; returns its status, and what it said or wrote."""
    cfg, G, D, G_ema = networks
    (tmp_path / "network.safetensors").write_bytes(save_network(G, D, G_ema, cfg, 0))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*words):
        status = cli.run(cli.generate, [str(tmp_path / "network.safetensors"), *words])
        said = capsys.readouterr()
        return status, said.err if status else said.out

    return call


@pytest.mark.parametrize(
    "text",
    [
        "0-99999999999", "0-999999999", "4294967296", "99999999999999999999999",
        "-1", "--1", "0--5", "1-", "5-1", "", ",",
        "0,,1", "x", "0x10", "1e3", "1.5", "٣", "²", "0-1-2", "1" * 5_000, "\x1b[2J", ",".join(["0-60000"] * 2),
    ],
)  # fmt: skip
def test_ranges_of_numbers(text):
    with pytest.raises(ConfigError, match="--seeds") as caught:
        numbers(text, "--seeds")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_other_ranges_are_read():
    assert numbers("0-2, 7,4294967295", "--seeds") == [0, 1, 2, 7, 4294967295]


@pytest.mark.parametrize("text", ["", ":", "1:2:3:4", "nan:1", "inf:1", "0:1:1", "0:1:100000", "x:y", "\x1b:1"])
def test_strengths(text):
    with pytest.raises(ConfigError, match="--strength") as caught:
        strengths(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--trunc", "nan"], "--trunc"), (["--trunc", "inf"], "--trunc"), (["--trunc", "-inf"], "--trunc"),
        (["--seeds", "0-99999999999"], "--seeds"), (["--seeds", "4294967296"], "--seeds"),
        (["--cutoff", "-1"], "--cutoff"),
        (["--tiles", "1000000", "1000000"], "--tiles"), (["--tiles", "-1", "1"], "--tiles"),
        (["--batch", "0"], "--batch"), (["--fps", "1000000", "--video", "x.webp"], "--fps"),
        (["--frames", "1000000000", "--video", "x.webp"], "--frames"), (["--class", "5"], "no classes"),
        (["--grid", "."], "--grid"), (["--grid", "/dev"], "--grid"), (["--grid", "/dev/null/x.png"], "--grid"),
        (["--grid", "/proc/x.png"], "--grid"), (["--grid", "a\x00b"], "--grid"), (["--grid", "x" * 300], "--grid"),
        (["--outdir", "/proc/x"], "--outdir"), (["--outdir", "file"], "--outdir"), (["--outdir", "file/x"], "--outdir"),
        (["--outdir", "a\x00b"], "--outdir"), (["--outdir", "x" * 300], "--outdir"), (["--save-w", "."], "--save-w"),
        (["--video", "/proc/x.webp", "--seeds", "0-1", "--frames", "1"], "--video"),
        (["--load-w", "file"], "--load-w"), (["--load-w", "/dev/zero"], "--load-w"), (["--load-w", "gone"], "--load-w"),
        (["--device", "\x1b[2J"], "--device"), (["--n", "5"], "--outdir"),
        (["--n", "5", "--outdir", "x", "--trunc", "nan"], "--trunc"),
    ],
)  # fmt: skip
def test_options_of_generate(generate, words, named):
    with open("file", "w"):
        pass
    status, said = generate(*words)
    assert status == 2 and named in said, said
    assert all(line.isprintable() for line in said.splitlines()) and len(said) < 1000
    assert os.listdir(".") == ["file"]


def test_what_is_right_is_written(generate):
    assert generate("--seeds", "0-1", "--outdir", "new/deep") == (0, "new/deep/seed0000.png\nnew/deep/seed0001.png\n")


def test_a_pipe_named_as_a_lease_is_none(generate):
    os.mkdir("out")
    os.mkfifo("out/.lease-deadbeef")
    assert generate("--seeds", "0", "--outdir", "out")[0] == 0
    assert "seed000000.png" in " ".join(os.listdir("out")) or len(os.listdir("out")) > 1


FORGED = "\x1b[2Jx\nerror: y\u202e"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (cli.generate, ["net", "--load-w", f"{FORGED}.npz"]), (cli.generate, ["net", "--load-w", f"{FORGED}noise.npz"]),
        (cli.generate, ["net", "--load-w", f"{FORGED}gone.npz"]), (cli.generate, [f"{FORGED}.safetensors"]),
        (cli.generate, [FORGED]), (cli.generate, [f"{FORGED}gone"]), (cli.generate, [f"net{FORGED}"]),
        (cli.convert, ["net", f"{FORGED}.onnxx"]),
        (cli.convert, ["net", FORGED]), (cli.convert, [f"{FORGED}.safetensors", "x.pkl"]),
        (cli.stop, ["x", "--storage", f"{FORGED}gone"]), (cli.report, [f"{FORGED}.npz"]),
        (cli.evaluate, [f"{FORGED}.safetensors", "fid8_tiny"]), (cli.evaluate, [f"net{FORGED}", "fid8_tiny"]),
        (cli.train, [FORGED]), (cli.train, [f"{FORGED}.yaml"]), (cli.train, ["tiny", f"{FORGED}gone", "--dry-run"]),
        (cli.train, ["tiny", "--dry-run", "--resume-from", f"{FORGED}.safetensors"]),
        (cli.tune, ["tiny", "--space", f"{FORGED}.yaml"]),
    ],
)  # fmt: skip
def test_names_that_forge_lines(tmp_path, networks, monkeypatch, capsys, command, words):
    cfg, G, D, G_ema = networks
    monkeypatch.chdir(tmp_path)
    os.makedirs(FORGED)
    shape, noise = (1, G.synthesis.num_ws, G.w_dim), torch.zeros(1, 1, 3, 3)
    for name, content in {
        "net": save_network(G, D, G_ema, cfg, 0),
        f"{FORGED}.safetensors": save_network(None, D, None, cfg, 0),
        f"{FORGED}.npz": save_w(torch.zeros(1, 2, 3)),
        f"{FORGED}noise.npz": save_w(torch.zeros(shape), [noise]),
        f"{FORGED}/config.yaml": b"",
        f"{FORGED}.yaml": b"a: {b: 1",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert cli.run(command, words) == 2
    said = capsys.readouterr()
    *progress, error = said.err.removesuffix("\n").split("\n")  # the first use of OpenMoji says that it draws
    assert error.startswith("error: ") and error.isprintable(), said.err
    assert all(line.startswith(("drawing ", "checking ")) and line.isprintable() for line in progress), said.err
    assert all(line.isprintable() for line in said.out.splitlines())


def test_what_is_written_is_named_on_one_line(generate, networks):
    _, G, *_ = networks
    with open(f"{FORGED}.npz", "wb") as file:
        file.write(save_w(torch.zeros(1, G.synthesis.num_ws, G.w_dim)))
    status, said = generate("--load-w", f"{FORGED}.npz", "--outdir", ".")
    assert status == 0 and said.count("\n") == 1 and said[:-1].isprintable(), said


@pytest.mark.parametrize("channels", [2, 5])
def test_networks_whose_images_no_file_holds(tmp_path, capsys, networks, channels):
    cfg = networks[0]
    G, D, G_ema = built(cfg, (8, 8), channels, 0)
    (tmp_path / "network.safetensors").write_bytes(save_network(G, D, G_ema, cfg, 0))
    assert (
        cli.run(cli.generate, [str(tmp_path / "network.safetensors"), "--seeds", "0", "--outdir", str(tmp_path)]) == 2
    )
    assert f"images of {channels} channels" in capsys.readouterr().err


def test_the_home_of_an_unknown_user(tmp_path, capsys):
    for command, words in ((cli.report, ["~nosuchuser/x"]), (cli.generate, ["~nosuchuser/x"])):
        assert cli.run(command, words) == 2
        assert "nosuchuser" in capsys.readouterr().err


def test_credentials_of_addresses_are_not_printed(capsys, monkeypatch):
    address = "s3://KEY:SECRET@bucket/run"
    monkeypatch.setattr(cli, "ask_to_stop", lambda run, storage: f"Asked {run} to stop.")
    assert cli.run(cli.stop, [address]) == 0
    assert "SECRET" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--train.total_kimg", "1e308"], r"train.total_kimg"),
        (["--schedule.minibatch_size", "9007199254740992", "--schedule.minibatch_gpu", "8"], "schedule.minibatch_size"),
        (["--cluster.num_workers", f"1:{'9' * 5000}"], "cluster.num_workers"),
    ],
)
def test_numbers_of_train(capsys, words, named):
    assert cli.run(cli.train, ["tiny", "--dry-run", *words]) == 2
    assert named in capsys.readouterr().err


def test_a_folder_without_rights(generate, tmp_path):
    (tmp_path / "here" / "shut").mkdir(mode=0o500)
    if os.access(tmp_path / "here" / "shut", os.W_OK):
        pytest.skip("this user may write everywhere")
    for option, path in (("--grid", "shut/x.png"), ("--outdir", "shut/x")):
        status, said = generate(option, path)
        assert status == 2 and option in said and "shut" in said
