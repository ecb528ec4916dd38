"""Checkpoints and the other files of a run: what COMPLETE promises is verified wherever one is read."""

import json
import os

import pytest
import safetensors.torch
import torch

from stylegan_ray.checkpoint_files import CheckpointError, completion
from stylegan_ray.config import ConfigError
from stylegan_ray.interop import load_network
from stylegan_ray.interop.loading import load
from stylegan_ray.run_folder import find_run, newest_network, read_config, read_run_file
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import newest_checkpoint, read_checkpoint

NAME = "ckpt-000000001000"


@pytest.fixture
def run(tmp_path, networks):
    """A run with a checkpoint; returns its folder and that of the checkpoint."""
    cfg, *parts = networks
    folder = tmp_path / "run" / "checkpoints" / NAME
    folder.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(cfg.to_yaml())
    tensors = {
        f"{p}.{k}": v for p, n in zip(("G", "D", "G_ema"), parts, strict=True) for k, v in n.state_dict().items()
    }
    complete(folder, {
        "state.safetensors": safetensors.torch.save(tensors | {"pl_mean": torch.zeros(())}),
        "state.json": json.dumps({"cur_nimg": 1000, "prev_lod": 0.0, "augment_p": 0.0}).encode(),
        "config.yaml": cfg.to_yaml().encode(),
    })  # fmt: skip
    return tmp_path / "run", folder


def complete(folder, files):
    """Writes files and a COMPLETE with their checksums, which is that of all files of the checkpoint."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    names = ("state.safetensors", "state.json", "config.yaml")
    (folder / "COMPLETE").write_bytes(completion({name: (folder / name).read_bytes() for name in names}))


def require_refused(run, checkpoint, words=""):
    """However it is read, the error names the folder; the command ends with status 2."""
    for path in (run, checkpoint):
        with pytest.raises(ConfigError, match=words) as caught:
            load(str(path))
        assert NAME in str(caught.value) and str(caught.value).isprintable()
        with pytest.raises(ValueError, match=NAME):
            load_network(path)
    with pytest.raises(CheckpointError, match=NAME):
        read_checkpoint(Storage.at(checkpoint))


def test_a_whole_one_is_read(run):
    assert load(str(run[0])).cur_nimg == load(str(run[1])).cur_nimg == 1000
    assert read_checkpoint(Storage.at(run[1])).counters["cur_nimg"] == 1000


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "config.yaml"])
def test_a_bit_that_is_flipped(run, name):
    content = bytearray((run[1] / name).read_bytes())
    content[-2] ^= 1
    (run[1] / name).write_bytes(content)
    require_refused(*run, "does not match its checksum|do not match its checksum")
    with pytest.raises(CheckpointError, match="all checkpoints"):
        newest_checkpoint(Storage.at(run[0] / "checkpoints"))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"x" * 100, b"[" * 100_000, b"\xff\xfe", b'{"format_version": 1, "files": []}',
        b'{"format_version": 1, "files": {}}', b'{"format_version": 1, "files": 5}', b"9" * 5_000,
        b'{"format_version": 1, "files": {"../../../dev/zero": {"sha256": "", "bytes": 1}}}',
        b'{"format_version": 1, "files": {"state.safetensors": [], "state.json": 1, "config.yaml": null}}',
        b'{"format_version": 1, "files": {"state.safetensors": {}, "state.json": {}, "config.yaml": {}}}',
    ],
)  # fmt: skip
def test_a_complete_file_that_promises_nothing(run, content):
    (run[1] / "COMPLETE").write_bytes(content)
    require_refused(*run, "COMPLETE")


@pytest.mark.parametrize("more", ["../../../../dev/zero", "/dev/zero", "other", "\x1b[2J"])
def test_complete_names_the_known_files_only(run, more):
    stated = json.loads((run[1] / "COMPLETE").read_text())
    stated["files"][more] = stated["files"]["state.json"]
    (run[1] / "COMPLETE").write_text(json.dumps(stated))
    require_refused(*run, "COMPLETE")


def test_sizes_are_compared_before_files_are_read(run):
    """A file that is larger than promised, and one that is no file at all."""
    with open(run[1] / "state.safetensors", "ab") as file:
        file.truncate(1 << 40)
    require_refused(*run, "1099511627776 bytes")
    os.remove(run[1] / "state.safetensors")
    os.symlink("/dev/zero", run[1] / "state.safetensors")
    require_refused(*run, "state.safetensors")
    os.remove(run[1] / "state.safetensors")
    os.mkfifo(run[1] / "state.safetensors")
    require_refused(*run, "state.safetensors")
    os.remove(run[1] / "state.safetensors")
    require_refused(*run, "is missing|no complete checkpoint")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.safetensors", b"x" * 100), ("state.safetensors", b""), ("state.safetensors", b"\xff" * 16),
        ("state.json", b"[]"), ("state.json", b"{"), ("state.json", b"[" * 10_000),
        ("state.json", b'{"cur_nimg": NaN}'),
        ("state.json", b'{"cur_nimg": -5}'), ("state.json", b'{"cur_nimg": 1e3}'), ("state.json", b'{"cur_nimg": "x"}'),
        ("state.json", b'{"cur_nimg": 1, "augment_p": 7}'),
    ],
)  # fmt: skip
def test_files_that_are_wrong_although_their_checksums_are_right(run, name, content):
    complete(run[1], {name: content})
    with pytest.raises(CheckpointError, match=NAME):
        read_checkpoint(Storage.at(run[1]))
    if b"augment_p" not in content:  # which only a run with adaptive augmentation has
        with pytest.raises(ConfigError, match=NAME):
            load(str(run[1]))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"a: *x", b"loss: {r1_gamma: .inf}", b"\xff", b"model: {mapping_layers: 1000000}"]
)
def test_configurations_that_are_wrong(run, content):
    (run[0] / "config.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_config(Storage.at(run[0]))
    complete(run[1], {"config.yaml": content})
    with pytest.raises(ConfigError, match=NAME):
        load(str(run[1]))


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b"{", b"9" * 5_000, b'"x"'])
def test_a_run_json_that_is_wrong(run, content):
    (run[0] / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.json"):
        read_run_file(Storage.at(run[0]))


@pytest.mark.parametrize(
    "name", ["ckpt-zzz", "ckpt-", "ckpt-" + "9" * 5_000, "ckpt--5", "ckpt-٣٣", "ckpt-1\n", "\x1b[2J"]
)
def test_folders_that_are_no_checkpoints_are_left_alone(run, name):
    try:
        (run[0] / "checkpoints" / name).mkdir()
    except OSError:
        pytest.skip("the file system refuses the name")
    (run[0] / "checkpoints" / name / "COMPLETE").write_text("{}")
    assert newest_network(Storage.at(run[0])) == f"checkpoints/{NAME}"
    assert load(str(run[0])).cur_nimg == 1000


def test_a_final_network_that_is_wrong_is_named(run):
    for content in (b"", b"\xff" * 100, b"x" * 1_000, (2).to_bytes(8, "little") + b"[]"):
        (run[0] / "network-final.safetensors").write_bytes(content)
        with pytest.raises(ConfigError, match=r"network-final\.safetensors"):
            load(str(run[0]))


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "550000.pt").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"550000\.pt.*it is a file"):
        find_run(str(tmp_path / "550000.pt"))
    with pytest.raises(ConfigError, match=r"550000\.pt: expected a network file"):
        load(str(tmp_path / "550000.pt"))
