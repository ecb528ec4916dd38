"""Leases: one writer at a time, dead owners give way, owners elsewhere get time to show that they live."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.jobs import ROOT, isolated
from support.s3 import s3_server

from stylegan_ray import lease
from stylegan_ray.config import ConfigError
from stylegan_ray.images.gallery import ranges
from stylegan_ray.lease import PREFIX, Claim, Lease, Owner, held
from stylegan_ray.run_folder import is_run, newest_network
from stylegan_ray.storage import Storage

RUN = [Claim("run")]
OWNER = """
import sys, time
from stylegan_ray.lease import Claim, held
with held(sys.argv[1], "train", [Claim("run")], "wait"):
    print("holds", flush=True)
    time.sleep(600)
"""


def leases(folder):
    return [name for name in os.listdir(folder) if name.startswith(PREFIX)]


@pytest.fixture
def owner(tmp_path):
    """A process that holds the run in a folder."""
    processes = []

    def start(command=(), address=tmp_path):
        words = [*command, sys.executable, "-c", OWNER, str(address)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True))
        assert processes[-1].stdout.readline() == "holds\n"
        return processes[-1]

    yield start
    for process in processes:
        with_group = os.getpgid(process.pid) if process.poll() is None else None
        if with_group is not None:
            os.killpg(with_group, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_the_second_names_the_first_and_what_to_do(tmp_path, owner):
    process = owner()
    with pytest.raises(ConfigError) as caught, held(str(tmp_path), "train", RUN, "give another --run.name", key="K"):
        pass
    text = str(caught.value)
    assert all(word in text for word in (str(process.pid), os.uname().nodename, "since 20", "--run.name", "K", "train"))
    assert len(leases(tmp_path)) == 1


def test_a_dead_owner_gives_way_at_once_without_waiting(tmp_path, owner):
    process = owner()
    process.kill()
    process.wait()
    assert leases(tmp_path)
    began, said = time.monotonic(), []
    with held(str(tmp_path), "train", RUN, "", said.append):
        assert time.monotonic() - began < 2 and not said
        assert len(leases(tmp_path)) == 1
    assert not leases(tmp_path)


@pytest.mark.skipif(isolated(["x"]) == ["x"], reason="needs the right to make a process namespace")
def test_an_owner_in_another_process_namespace_is_seen_and_its_death_too(tmp_path, owner):
    process = owner(isolated([]))
    with pytest.raises(ConfigError), held(str(tmp_path), "train", RUN, ""):
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while True:  # the process inside ends with the one around it, a little later
        try:
            with held(str(tmp_path), "train", RUN, "", pytest.fail):
                return
        except ConfigError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_other_claims_do_not_meet(tmp_path):
    with held(str(tmp_path), "train", RUN, ""):
        with held(str(tmp_path), "evaluate", [Claim("evaluations.jsonl")], ""):
            pass
        with (
            held(str(tmp_path), "generate", [Claim("images", 0, 9)], ""),
            held(str(tmp_path), "generate", [Claim("images", 10, 19), Claim("images", 30, 31)], ""),
        ):
            for claim in (Claim("images"), Claim("images", 9, 9), Claim("images", 31, 40)):
                with pytest.raises(ConfigError), held(str(tmp_path), "generate", [claim], ""):
                    pass
        with pytest.raises(ConfigError), held(str(tmp_path), "train", RUN, ""):
            pass


def test_ranges_of_seeds():
    assert ranges([5, 0, 1, 2, 7, 6, 2]) == [(0, 2), (5, 7)]


def test_of_many_that_start_at_once_one_goes_on(tmp_path):
    inside, most, ended = [], [0], []
    barrier = threading.Barrier(8)

    def start():
        barrier.wait()
        try:
            with held(str(tmp_path), "train", RUN, ""):
                inside.append(1)
                most[0] = max(most[0], len(inside))
                time.sleep(0.3)
                inside.pop()
                ended.append("done")
        except ConfigError:
            ended.append("refused")

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and "done" in ended and len(ended) == 8
    assert not leases(tmp_path)


def write_foreign(folder, **values):
    """The lease of an owner on another machine."""
    owner = json.loads(Owner.of_this_process("train", RUN).content(0))
    owner |= {"boot": "another", "host": "elsewhere", "pid": 1, **values}
    Storage.at(folder).write(f"{PREFIX}00000000", json.dumps(owner).encode())


def test_an_owner_elsewhere_that_shows_no_life_gives_way_after_a_while_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "WATCH_SEC", 0.3)
    monkeypatch.setattr(lease, "LOOK_SEC", 0.05)
    write_foreign(tmp_path)
    said = []
    with held(str(tmp_path), "train", RUN, "", said.append):
        assert len(said) == 1 and "elsewhere" in said[0]
        assert len(leases(tmp_path)) == 1


def test_an_owner_elsewhere_that_lives_does_not(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "WATCH_SEC", 20.0)
    monkeypatch.setattr(lease, "LOOK_SEC", 0.05)
    write_foreign(tmp_path)
    timer = threading.Timer(0.3, write_foreign, (tmp_path,), {"beat": "000000000001"})
    timer.start()
    with pytest.raises(ConfigError, match="elsewhere"), held(str(tmp_path), "train", RUN, "", lambda _text: None):
        pass
    timer.join()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff" * 100, b"[" * 100_000, b'{"claims": [["run", 1e999, "x"]], "pid": "one"}'],
)
def test_files_that_are_no_leases_count_as_dead_owners(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lease, "WATCH_SEC", 0.05)
    monkeypatch.setattr(lease, "LOOK_SEC", 0.05)
    (tmp_path / f"{PREFIX}0badbad0").write_bytes(content)
    with held(str(tmp_path), "train", RUN, "", lambda _text: None):
        assert len(leases(tmp_path)) == 1


def test_texts_of_a_lease_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "WATCH_SEC", 0.05)
    monkeypatch.setattr(lease, "LOOK_SEC", 0.01)
    write_foreign(tmp_path, host="a\nb\x1b[2J")
    said = []
    with held(str(tmp_path), "train", RUN, "", said.append):
        assert "\n" not in said[0] and "\x1b" not in said[0]


def test_an_owner_that_was_taken_for_dead_learns_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SEC", 0.05)
    lost = []
    mine = Lease(Storage.at(tmp_path), Owner.of_this_process("train", RUN), lost.append)
    mine.acquire(print, "", "")
    (tmp_path / mine.name).unlink()
    deadline = time.monotonic() + 10
    while not lost and time.monotonic() < deadline:
        time.sleep(0.01)
    mine.release()
    assert len(lost) == 1 and "taken over" in lost[0]


def test_an_owner_that_was_taken_for_dead_ends_without_writing(tmp_path):
    """Not by SIGTERM, on which a training writes a STOP file: it would stop the command that took over."""
    code = """
import signal, sys, time
from stylegan_ray import lease
lease.BEAT_SEC = 0.05
signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[1] + "/STOP", "w").close())
with lease.held(sys.argv[1], "train", [lease.Claim("run")], "wait"):
    print("holds", flush=True)
    time.sleep(60)
"""
    words = [sys.executable, "-c", code, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "holds\n"
        (tmp_path / leases(tmp_path)[0]).unlink()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 1 and "another command has taken over" in said
    assert os.listdir(tmp_path) == []


def test_the_lease_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SEC", 0.05)
    with held(str(tmp_path), "train", RUN, "") as mine:
        path = tmp_path / mine.name
        before, deadline = path.read_bytes(), time.monotonic() + 10
        while path.read_bytes() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        now = path.read_bytes()
        assert now != before and len(now) == len(before)
        assert Owner.parse(now) == mine.owner


def test_a_folder_that_cannot_be_written_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"--outdir: .*; go elsewhere"),
        held(str(tmp_path / "file" / "in"), "x", RUN, "", key="--outdir", elsewhere="go elsewhere"),
    ):
        pass


def test_a_run_folder_means_the_same_with_a_lease(tmp_path):
    with held(str(tmp_path), "train", RUN, ""):
        assert not is_run(str(tmp_path)) and newest_network(Storage.at(tmp_path)) is None


def test_object_storage(monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_SEC", 0.05)
    monkeypatch.setattr(lease, "BEAT_SEC", 0.1)
    with s3_server():
        folder = Storage.at("s3://bucket/run")
        with held("s3://bucket/run", "train", RUN, "", key="run.storage") as mine:
            before = folder.read(mine.name)
            with (
                pytest.raises(ConfigError, match=r"run\.storage"),
                held("s3://bucket/run", "train", RUN, "", key="run.storage"),
            ):
                pass
            deadline = time.monotonic() + 10
            while folder.read(mine.name) == before and time.monotonic() < deadline:
                time.sleep(0.05)
            assert folder.read(mine.name) != before
        assert folder.names() == []
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        write_foreign("s3://bucket/run", boot=lease.boot_id(), pid=dead.pid, started=1)
        with held("s3://bucket/run", "train", RUN, "", pytest.fail):  # on this host, so its end is known
            assert len(folder.names()) == 1


def test_a_folder_in_the_place_of_a_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "WATCH_SEC", 0.1)
    (tmp_path / f"{lease.PREFIX}deadbeef").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with held(str(tmp_path), "train", RUN, ""):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_folders_that_were_made_go_where_nothing_was_written(tmp_path):
    with held(str(tmp_path / "a" / "b"), "train", RUN, ""):
        assert (tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path) == []
    with held(str(tmp_path / "a" / "b"), "train", RUN, ""):
        (tmp_path / "a" / "file").touch()
    assert os.listdir(tmp_path / "a") == ["file"]
