"""Names of a run's files, its newest network, what is cut at a resume, and finding and stopping runs."""

import json

import pytest
import safetensors.torch
import torch
from support.s3 import s3_server
from support.toy import toy_config, toy_state

from stylegan_ray import cli, jsonl
from stylegan_ray.config import ConfigError
from stylegan_ray.jsonl import append_jsonl, read_jsonl
from stylegan_ray.run_folder import (
    ask_to_stop,
    checkpoint_name,
    checkpoint_nimg,
    cut,
    delete_leftovers,
    fakes_name,
    find_run,
    images_of,
    is_run,
    kimg_name,
    newest_network,
    snapshot_name,
    storage_address,
)
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.untrusted import BadFileError


@pytest.fixture
def storage(tmp_path, monkeypatch):
    for name in ("tiny-openmoji-0a1b2c3d", "config-f-ffhq-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / "not-a-run").mkdir()
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def bucket():
    with s3_server():
        yield "s3://bucket"


@pytest.fixture(params=["folder", "bucket"])
def run(request, tmp_path):
    local = request.param == "folder"
    return Storage.at(tmp_path if local else f"{request.getfixturevalue('bucket')}/{tmp_path.name}")


def network(nimg):
    return safetensors.torch.save({"w": torch.zeros(1)}, {"cur_nimg": str(nimg)})


def add_checkpoint(run, nimg, complete=True):
    folder = run.folder(f"checkpoints/{checkpoint_name(nimg)}")
    folder.write("state.safetensors", b"")
    if complete:
        folder.write("COMPLETE", b"{}")


@pytest.mark.parametrize(
    ("nimg", "name"), [(0, "000000"), (250, "000000.250"), (60_000, "000060"), (12_128, "000012.128")]
)
def test_names_carry_kimg(nimg, name):
    assert kimg_name(nimg) == name
    assert (fakes_name(nimg), snapshot_name(nimg)) == (f"fakes{name}", f"network-snapshot-{name}.safetensors")


def test_names_of_checkpoints():
    assert checkpoint_name(8000) == "ckpt-000000008000" and checkpoint_nimg("ckpt-000000008000") == 8000
    assert checkpoint_nimg("COMPLETE") is None


def test_the_newest_network_has_the_largest_nimg(run):
    assert newest_network(run) is None
    run.write("best-fid50k.safetensors", network(99_000))
    assert newest_network(run) is None, "the best network is not the newest"
    run.write(snapshot_name(250), network(250))
    assert newest_network(run) == "network-snapshot-000000.250.safetensors"
    add_checkpoint(run, 8000)
    add_checkpoint(run, 9000, complete=False)
    assert newest_network(run) == "checkpoints/ckpt-000000008000"
    run.write("network-final.safetensors", network(8000))
    assert newest_network(run) == "network-final.safetensors", "of equals the network file"
    run.write(snapshot_name(8000), network(8000))
    assert newest_network(run) == "network-final.safetensors"
    run.write(snapshot_name(20_000), network(20_000))
    assert newest_network(run) == "network-snapshot-000020.safetensors", "a continued run is newer than its former end"
    add_checkpoint(run, 20_001)
    assert newest_network(run) == "checkpoints/ckpt-000000020001"


def test_a_resume_deletes_what_is_ahead_of_its_checkpoint(run):
    kept = ["fakes_init.png", "reals.png", f"{fakes_name(8000)}.png", snapshot_name(8000), "best-fid50k.safetensors"]
    for name in (*kept, f"{fakes_name(8001)}.png", snapshot_name(12_250)):
        run.write(name, network(8000))
    run.write("network-final.safetensors", network(12_250))
    for nimg, complete in ((4000, False), (8000, True), (12_000, False)):
        add_checkpoint(run, nimg, complete)
    cut(run, 2, 8000)
    assert set(run.names()) == {*kept, "checkpoints", "stats.jsonl", "metrics.jsonl", "log.txt"}
    assert run.names("checkpoints") == ["ckpt-000000004000", "ckpt-000000008000"]
    run.write("network-final.safetensors", network(8000))
    cut(run, 2, 8000)
    assert run.exists("network-final.safetensors"), "a finished run that goes on keeps its former end"


def test_a_resume_cuts_later_ticks_and_torn_lines(run):
    rows = [{"Progress/tick": tick, "value": tick / 7} for tick in range(4)]
    for name in ("stats.jsonl", "metrics.jsonl"):
        append_jsonl(run, name, rows)
        run.write(name, run.read(name) + b'{"Progress/tick": 1, "torn')
    run.write("log.txt", b"hello\ntick 1    kimg\nfault: x\ntick 2    kimg\ntick 3    kimg\nbye\ntorn")
    whole = run.read("stats.jsonl")
    cut(run, 2, 0)
    for name in ("stats.jsonl", "metrics.jsonl"):
        assert run.read(name) == b"".join(whole.splitlines(keepends=True)[:2])
        assert read_jsonl(run, name) == rows[:2]
    assert run.read("log.txt") == b"hello\ntick 1    kimg\nfault: x\nbye\n"


def test_a_resume_cuts_damaged_rows(run):
    lines = [b'{"Progress/tick": "x"}', b"[1]", b"null", b'{"Progress/tick": ' + b"9" * 400 + b"}", b"{}"]
    run.write("stats.jsonl", b"\n".join([*lines, b'{"Progress/tick": 0}', b""]))
    run.write("log.txt", b"tick " + b"9" * 5000 + b" x\n")
    cut(run, 2, 0)
    assert run.read("stats.jsonl") == b'{"Progress/tick": 0}\n'


def test_a_stop_file_that_cannot_be_written_is_an_error_for_people(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "STOP").mkdir()
    with pytest.raises(ConfigError, match=r"STOP cannot be written"):
        ask_to_stop(str(tmp_path))


def test_a_file_of_rows_has_a_limit(run, monkeypatch):
    monkeypatch.setattr(jsonl, "MOST_BYTES", 10)
    run.write("rows.jsonl", b'{"a": 1}\n{"a": 2}\n')
    with pytest.raises(BadFileError, match=r"rows\.jsonl"):
        read_jsonl(run, "rows.jsonl")


def test_jsonl_has_no_nan_and_forgives_torn_lines(run):
    append_jsonl(run, "rows.jsonl", [{"a": float("nan"), "b": float("inf")}, {"a": 1.5}])
    run.write("rows.jsonl", run.read("rows.jsonl") + b'{"a": 2')
    assert read_jsonl(run, "rows.jsonl") == [{"a": None, "b": None}, {"a": 1.5}]
    assert json.loads(run.read("rows.jsonl").splitlines()[0]) == {"a": None, "b": None}
    with pytest.raises(FileNotFoundError):
        read_jsonl(run, "none.jsonl")


def test_images_come_in_order(run):
    for name in ("fakes_init.png", "fakes000012.png", "fakes000004.250.png", "reals.png", "fakes.txt"):
        run.write(name, b"")
    assert images_of(run) == ["fakes000004.250.png", "fakes000012.png"]


def test_leftovers_are_deleted(run):
    for name in ("STOP", "checkpoint_manager_snapshot.json", "stats.jsonl.7.part", ".ray/attempt/x", "stats.jsonl"):
        run.write(name, b"")
    delete_leftovers(run)
    assert run.names() == ["stats.jsonl"]


def test_stop_by_name_and_by_folder(storage, capsys):
    for run, kind in (("tiny-openmoji-0a1b2c3d", "name"), (str(storage / "config-f-ffhq-00000000"), "folder")):
        assert cli.run(cli.stop, [run]) == 0, kind
        assert "continues it" in capsys.readouterr().out
    assert (storage / "tiny-openmoji-0a1b2c3d" / "STOP").exists()
    assert (storage / "config-f-ffhq-00000000" / "STOP").exists()


def test_stop_names_the_nearest_run(storage, capsys):
    assert cli.run(cli.stop, ["tiny-openmoji-0a1b2c"]) == 2
    assert "did you mean 'tiny-openmoji-0a1b2c3d'" in capsys.readouterr().err
    assert cli.run(cli.stop, ["zzz"]) == 2
    message = capsys.readouterr().err
    assert "config-f-ffhq-00000000, tiny-openmoji-0a1b2c3d" in message and "not-a-run" not in message


def test_a_folder_without_a_run_is_refused(storage):
    with pytest.raises(ConfigError):
        find_run(str(storage / "not-a-run"))


def test_a_checkpoint_is_no_run(storage, capsys):
    run, cfg = storage / "tiny-openmoji-0a1b2c3d", toy_config()
    checkpoints = run / "checkpoints"
    checkpoint = checkpoints / write_checkpoint(Snapshot.of(toy_state(cfg), cfg), Storage.at(checkpoints))
    assert is_run(str(run)) and not is_run(str(checkpoint))
    before = sorted(checkpoint.iterdir())
    for command in (cli.stop, cli.report):
        assert cli.run(command, [str(checkpoint)]) == 2
        assert f"it is a checkpoint; give the folder of its run, {run}\n" in capsys.readouterr().err
    (checkpoint / "COMPLETE").unlink()
    assert not is_run(str(checkpoint)), "nor is one that is being written"
    assert sorted(checkpoint.iterdir()) == [path for path in before if path.name != "COMPLETE"]


def test_a_run_in_another_storage(storage, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    assert cli.run(cli.stop, ["tiny-openmoji-0a1b2c3d", "--storage", str(other)]) == 2
    assert find_run("tiny-openmoji-0a1b2c3d").endswith("/tiny-openmoji-0a1b2c3d")


def test_storage_address(monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", "s3://bucket/runs")
    assert storage_address() == "s3://bucket/runs"
    assert storage_address("gs://other") == "gs://other"
    monkeypatch.setenv("HOME", "/home/ann")
    assert storage_address("~/runs") == "/home/ann/runs"
    monkeypatch.delenv("STYLEGAN_RAY_STORAGE")
    assert storage_address() == "/home/ann/stylegan_ray/runs"


def test_a_sweep_can_be_asked_to_stop(tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path))
    Storage.at(tmp_path / "mine").write("sweep.yaml", b"")
    for name in ("mine", str(tmp_path / "mine")):
        assert f"Asked sweep {tmp_path / 'mine'}" in ask_to_stop(name)
    assert (tmp_path / "mine" / "STOP").exists()


def test_a_run_that_has_ended_is_not_asked_to_stop(tmp_path):
    folder = Storage.at(tmp_path / "run")
    folder.write("config.yaml", b"")
    folder.write("run.json", b'{"ended": "done"}')
    assert "does not run" in ask_to_stop(str(tmp_path / "run")) and not folder.exists("STOP")
    folder.write("run.json", b'{"ended": null}')
    assert "Asked" in ask_to_stop(str(tmp_path / "run")) and folder.exists("STOP")
