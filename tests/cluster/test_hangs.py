"""Runs without progress: how it is found out, what is said and stored, and that the run goes on."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

ray = pytest.importorskip("ray")

from support.jobs import Job, newest_tick, small_model  # noqa: E402

from benchmarks.cluster.local_cluster import command_of, descendants  # noqa: E402
from stylegan_ray.cluster.channel import Beat, Channel, DecodingProcess  # noqa: E402
from stylegan_ray.cluster.faults import MOST_WITHOUT_PROGRESS, FaultCallback, FaultLog  # noqa: E402
from stylegan_ray.cluster.hangs import Progress  # noqa: E402
from stylegan_ray.cluster.heartbeat import MOST_SEC, sec_between_beats  # noqa: E402
from stylegan_ray.cluster.stacks import end_process, own_stacks, stacks_of  # noqa: E402
from stylegan_ray.config import ConfigError, load_config  # noqa: E402
from stylegan_ray.lease import start_of  # noqa: E402
from stylegan_ray.run_folder import FAULTS, HANGS  # noqa: E402
from stylegan_ray.storage import Storage  # noqa: E402


def beat(rank=0, num_parts=1, **keys):
    known = {
        "node_id": "n", "address": "10.0.0.2", "pid": 70 + rank, "started": 5, "nimg": 12300, "trains": True,
        "part": "G", "waits_in": None, "decoders": (),
    }  # fmt: skip
    return Beat(rank=rank, num_parts=num_parts, **(known | keys))


def hangs_after(beats, hang_sec=60.0, seconds=120):
    """When a run whose workers say the same for ever is found to hang; None: never."""
    progress = Progress(hang_sec, silent_sec=30)
    return next((now for now in range(seconds) if progress.hangs(beats(now), now)), None)


def test_a_run_hangs_when_no_worker_begins_a_part_for_too_long():
    assert hangs_after(lambda now: [(beat(0), 1.0), (beat(1, waits_in="sum_over_ranks"), 1.0)]) == 60


def test_one_worker_that_gets_on_is_progress():
    assert hangs_after(lambda now: [(beat(0), 1.0), (beat(1, num_parts=now), 1.0)]) is None


@pytest.mark.parametrize("waits_in", [None, "from_rank0"])
def test_metrics_and_compiling_are_progress_while_the_worker_answers(waits_in):
    """Rank 0 works outside of the loop, and the others wait for it."""
    others = (beat(1, trains=False, part=None, waits_in="from_rank0"), 1.0)
    assert hangs_after(lambda now: [(beat(0, trains=False, part=None), 1.0), others]) is None
    silent = beat(0, trains=False, part=None)
    assert hangs_after(lambda now: [(silent, now), others]) == 90  # it answered until second 30


def test_a_new_group_begins_anew_and_no_group_never_hangs():
    assert hangs_after(lambda now: []) is None
    assert hangs_after(lambda now: [(beat(pid=now // 50), 1.0)]) is None


def test_no_minutes_mean_never():
    progress = Progress(float("inf"), 30)
    assert not progress.hangs([(beat(), 0.0)], 0.0) and not progress.hangs([(beat(), 0.0)], 1e9)


def test_who_hangs_comes_before_who_waits():
    waiting = beat(0, waits_in="sum_over_ranks", part="reduce")
    text = Progress(900, 30).describe([(waiting, 1.0), (beat(1), 850.0)])
    assert text.startswith("no progress for 15 min at 12.3 kimg: worker 1 (process 71 on 10.0.0.2)")
    assert "has not answered for 850 s; before that it computed G; worker 0" in text
    assert text.endswith("waited for the others in sum_over_ranks")


def test_a_worker_that_waits_for_images_names_what_decodes_them():
    text = Progress(60, 30).describe([(beat(part="data", decoders=(DecodingProcess(99, 1, 512),)), 1.0)])
    assert text.endswith("waited for images from process 99 (sample position 512)")
    assert "no trace" in Progress(60, 30).describe([(beat(part="data"), 1.0)])


def test_the_channel_keeps_the_newest_beat_of_each_worker_of_the_newest_group():
    channel = Channel()
    for rank in range(3):
        assert channel.beat(beat(rank)) is None
    channel.beat(beat(1, num_parts=7))
    assert [(one.rank, one.num_parts) for one, _ in channel.beats()] == [(0, 1), (1, 7), (2, 1)]
    channel.beat(beat(0, pid=500))  # a smaller group
    assert [one.pid for one, _ in channel.beats()] == [500]


def test_workers_are_told_to_end_and_their_successors_are_not():
    channel = Channel()
    channel.beat(beat(0))
    channel.end_workers("hangs/1")
    channel.forget_beats()
    assert channel.beat(beat(0)) == "hangs/1" and channel.beat(beat(0, pid=500)) is None


def test_beats_are_frequent_enough_for_short_limits():
    def between(minutes):
        return sec_between_beats(load_config("tiny", {"cluster.hang_minutes": minutes}).cluster)

    assert between(15) == between(None) == MOST_SEC and between(0.1) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match=r"cluster\.hang_minutes"):
        between(0)


def test_the_deaths_that_a_hang_causes_are_no_further_faults(tmp_path):
    log = FaultLog(Storage.at(tmp_path))
    callback = FaultCallback(log)
    callback.after_exception(None, {0: OSError("disk")})
    log.add_hang("no progress for 15 min")
    callback.after_exception(None, {1: OSError("network")})
    assert [row["fault"][-6:] for row in log.rows()] == [": disk", "15 min"]
    start = log.add_start(0, 2, "continuing", 1.0)
    assert "no progress for 15 min" in start


def test_a_run_that_hangs_again_and_again_ends(tmp_path):
    log = FaultLog(Storage.at(tmp_path))
    for number in range(MOST_WITHOUT_PROGRESS):
        assert log.end() is None, number
        log.add_hang("no progress for 15 min")
    assert log.end() is not None


def test_stacks_of_this_process_and_of_another_one():
    assert "test_stacks_of_this_process" in own_stacks() and "MainThread" in own_stacks()
    code = "def stuck():\n import time\n print('up', flush=True)\n time.sleep(600)\nstuck()"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"up\n"
        os.kill(other.pid, signal.SIGSTOP)
        started = start_of(other.pid)
        text = stacks_of(other.pid, started)
        assert text and ("stuck" in text or text.startswith("no stacks: "))
        assert stacks_of(other.pid, 1) is None, "a later process with this id"
        end_process(other.pid, 1)
        assert other.poll() is None
        end_process(other.pid, started)
        assert other.wait(10) == -signal.SIGKILL and stacks_of(other.pid, started) is None
    finally:
        other.kill()


MINUTES = 1.0
LONG = ["--train.total_kimg", "6", "--cluster.hang_minutes", str(MINUTES), "--train.checkpoint_ticks", "1"]


def train(pictures, folder, *options):
    words = [*small_model(), *LONG, "--run.name", "run", *options]
    return Job("train", "config-f", str(pictures), *words, storage=folder, log=folder / "log")


def processes_of(job, title):
    """The processes of a job whose title begins so."""
    return [pid for pid in descendants(job.process.pid) if command_of(pid).startswith(title)]


def stop_one(job, title):
    """Stops a process as no one else would, and waits until the run has said that it hangs and has gone on."""
    log, before = job.log.parent / "run" / "log.txt", newest_tick(job.log.parent / "run")
    job.wait_for(lambda: processes_of(job, title))
    stopped = processes_of(job, title)[-1]
    os.kill(stopped, signal.SIGSTOP)
    job.wait_for(lambda: "no progress for" in job.text(), 60 * MINUTES + 120)
    job.wait_for(lambda: newest_tick(job.log.parent / "run") > before + 2, 240)
    assert "no progress for" in log.read_text()
    return stopped


def stacks(folder):
    """The files of stacks by name."""
    found = list((folder / "run" / HANGS).glob("*/*.txt"))
    return {path.name: path.read_text() for path in found}


@pytest.mark.cluster
def test_a_worker_that_is_stopped_is_named_and_the_run_goes_on(pictures, tmp_path):
    job = train(pictures, tmp_path, "--cluster.num_workers", "2", "--cluster.cpus_per_worker", "1")
    try:
        job.wait_for(lambda: newest_tick(tmp_path / "run") >= 2, 240)
        stop_one(job, "ray::RayTrainWorker")
        line = next(line for line in job.text().splitlines() if line.startswith("fault: no progress"))
        assert re.search(r"worker [01] \(process \d+ on [\d.]+\) has not answered for \d+ s", line)
        assert "waited for the others in" in line and f"{HANGS}/" in line
        found = stacks(tmp_path)
        assert set(found) >= {"worker-0.txt", "worker-1.txt"}
        assert sum("heartbeat" in text and "run_phase" in text for text in found.values()) >= 1
        rows = [json.loads(row) for row in (tmp_path / "run" / FAULTS).read_text().splitlines()]
        assert [row["kind"] for row in rows if "fault" in row] == ["hang"]
    finally:
        job.kill()


@pytest.mark.cluster
def test_a_decoder_that_is_stopped_is_named_and_the_run_goes_on(pictures, tmp_path):
    job = train(pictures, tmp_path, "--cluster.num_workers", "1")
    try:
        job.wait_for(lambda: newest_tick(tmp_path / "run") >= 2, 240)
        stopped = stop_one(job, "ray::ReadReals")
        line = next(line for line in job.text().splitlines() if line.startswith("fault: no progress"))
        assert re.search(r"worker 0 .* waited for images from process \d+ \(sample position \d+\)", line)
        assert any(re.fullmatch(r"decoder-\d+-of-worker-0\.txt", name) for name in stacks(tmp_path))
        assert stopped not in processes_of(job, "ray::ReadReals")
    finally:
        job.kill()
