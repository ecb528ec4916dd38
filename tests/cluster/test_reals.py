"""The stream of real images: exact, ordered, bounded, idle while nobody reads, and unharmed when a decoder dies."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ray = pytest.importorskip("ray")

from stylegan_ray.cluster import decode_tasks, reals  # noqa: E402
from stylegan_ray.cluster.decode_tasks import (  # noqa: E402
    DecodeDatasource,
    MicroBatchPlan,
    Pace,
    Task,
    decode,
    from_block,
    positions_of,
)
from stylegan_ray.config import load_config  # noqa: E402
from stylegan_ray.data import BadImage, open_dataset  # noqa: E402
from stylegan_ray.data.reals import RealsSource  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Numbers:
    """Images that show their position; labels that name the process. Appends what it decodes to a file.

    It waits at the position `gate` until a file of that name and ending .open exists.
    """

    def __init__(self, log: Path | None = None, bad: int | None = None, fatal: int | None = None, gates=()) -> None:
        self.log, self.bad, self.fatal, self.gates = log, bad, fatal, gates

    def micro_batch(self, positions, level=0):
        if self.bad in positions:
            raise BadImage("cats/7.png", "ends early", self.bad)
        if self.fatal in positions:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{positions[0]} {os.getpid()}\n")
            for gate in self.gates:
                while gate in positions and not self.log.with_name(f"{gate}.open").exists():
                    time.sleep(0.01)
        images = np.empty((len(positions), 1, 4 >> level, 4 >> level), np.uint8)
        images[:] = positions[:, None, None, None] % 251
        return images, np.stack([positions, np.full(len(positions), os.getpid())], 1).astype(np.float32)


def line(start=0, count=2, micro_batches=2, minibatches=2):
    """An endless line of chunks of `minibatches` minibatches."""
    size = count * micro_batches
    for nimg in itertools.count(start, size * minibatches):
        begins = [nimg + i * size for i in range(minibatches)]
        yield tuple(tuple(MicroBatchPlan(b + j * count, count) for j in range(micro_batches)) for b in begins)


def stream(source, *, chunks_ahead=4, start=0):
    return reals.RealsStream(source, line(start), 16, 2 * chunks_ahead)


def positions(micro_batches) -> list[int]:
    for images, labels in micro_batches:
        assert (images[:, 0, 0, 0] == labels[:, 0] % 251).all()
    return [int(p) for _, labels in micro_batches for p in labels[:, 0]]


def decoder(micro_batches) -> int:
    """The process that decoded a minibatch."""
    return int(micro_batches[0][1][0, 1])


def decoded(log: Path) -> list[tuple[int, int]]:
    """First position and process of each chunk that was begun."""
    rows = log.read_text().splitlines() if log.exists() else []
    return [(int(position), int(pid)) for position, pid in map(str.split, rows)]


def cpu_sec(stats: list[str]) -> float:
    """CPU seconds of processes or threads, from their stat files."""
    fields = [Path(stat).read_text().rsplit(")", 1)[1].split() for stat in stats]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def stream_threads() -> list[threading.Thread]:
    names = ("StreamingExecutor", "reals")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


def wait_until(condition, sec=60.0):
    end = time.monotonic() + sec
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def fault_lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("fault: ")]


@pytest.fixture
def short_executions(monkeypatch):
    """Executions of 5 chunks and more in tasks of 3 or fewer, so that a test passes many seams."""
    monkeypatch.setattr(reals, "MAX_CHUNKS_PER_TASK", 3)
    monkeypatch.setattr(reals, "FIRST_CHUNKS", 5)
    monkeypatch.setattr(reals, "MAX_CHUNKS", 7)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.usefixtures("ray_local")
def test_block_holds_images_and_labels(level):
    chunk = ((MicroBatchPlan(5, 2, level), MicroBatchPlan(9, 2, level)), (MicroBatchPlan(20, 3, level),))
    pace = Pace(chunks_ahead=2)
    ((start, attempt, images, labels),) = map(from_block, decode(ray.put(Numbers()), Task(0, [chunk]), pace, 3))
    pace.close()
    assert (start, attempt) == (5, 1)
    assert positions_of(chunk).tolist() == [5, 6, 9, 10, 20, 21, 22]
    assert images.shape == (7, 1, 4 >> level, 4 >> level) and labels[:, 0].tolist() == [5, 6, 9, 10, 20, 21, 22]
    first, second = reals.minibatches_of(chunk, images, labels)
    assert [len(images) for images, _ in first] == [2, 2] and [len(images) for images, _ in second] == [3]
    assert not np.shares_memory(first[0][0].numpy(), images), "the object store would be written to"


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_every_minibatch(world_size):
    cfg = load_config("tiny", {"schedule.minibatch_size": 20, "schedule.minibatch_gpu": 4})
    lines = [reals.groups_of_rank(cfg, 0, 5.0, rank, world_size) for rank in range(world_size)]
    chunks = [list(itertools.islice(line, 3)) for line in lines]
    for group in range(3):
        assert [len(chunks[rank][group]) for rank in range(world_size)] == [cfg.schedule.minibatch_repeats] * world_size
        everything = np.sort(np.concatenate([positions_of(chunks[rank][group]) for rank in range(world_size)]))
        span = 20 * cfg.schedule.minibatch_repeats
        assert everything.tolist() == list(range(group * span, (group + 1) * span))
    owners = [plan.start // 4 % 5 % world_size for plan in chunks[world_size - 1][0][0]]
    assert set(owners) == {world_size - 1}


def test_large_groups_are_decoded_minibatch_by_minibatch():
    group = next(line(minibatches=3, count=4))
    assert reals.decoded_bytes(group, 100) == 3 * 2 * 4 * 100
    assert reals.split_if_large(group, 100) == [group]
    assert reals.split_if_large(group, 3 << 19) == [(minibatch,) for minibatch in group]
    reduced = tuple(tuple(MicroBatchPlan(plan.start, plan.count, level=2) for plan in part) for part in group)
    assert reals.split_if_large(reduced, 3 << 19) == [reduced]


@pytest.mark.usefixtures("ray_local", "short_executions")
@pytest.mark.parametrize("chunks_ahead", [1, 3, 9])
def test_streams_are_exact_and_in_order(chunks_ahead):
    with stream(Numbers(), chunks_ahead=chunks_ahead) as one, stream(Numbers(), start=1000) as two:
        for i in range(50):
            assert positions(next(one)) == list(range(4 * i, 4 * i + 4))
            assert positions(next(two)) == list(range(1000 + 4 * i, 1004 + 4 * i))


@pytest.mark.usefixtures("ray_local")
def test_stream_runs_where_workers_hold_all_cpus():
    worker = ray.remote(num_cpus=2)(threading.Event).remote()
    ray.get(worker.is_set.remote())
    assert ray.available_resources().get("CPU", 0) == 0
    with stream(Numbers()) as reals_stream:
        for i in range(10):
            assert positions(next(reals_stream)) == list(range(4 * i, 4 * i + 4))
    ray.kill(worker)


@pytest.mark.usefixtures("ray_local", "short_executions")
def test_stream_of_a_configuration_equals_its_source_over_many_passes(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    overrides = {
        "data.path": str(tmp_path),
        "data.resolution": 16,
        "data.mirror_augment": True,
        "cluster.read_ahead": 2,
        "schedule.minibatch_size": 32,
        "schedule.minibatch_gpu": 8,
    }
    cfg = load_config("tiny", overrides)
    dataset = open_dataset(cfg.data)
    source = RealsSource(dataset, seed=3, mirror_augment=True)
    threaded = RealsSource(dataset, seed=3, mirror_augment=True, threads=2)
    with reals.stream_of_reals(cfg, threaded, cur_nimg=64, resolution_log2=4, rank=1, world_size=2) as stream:
        for nimg in range(64, 64 + 32 * 12, 32):
            plain = [source.micro_batch(np.arange(nimg + j * 8, nimg + j * 8 + 8)) for j in (1, 3)]
            for (images, labels), (plain_images, plain_labels) in zip(next(stream), plain, strict=True):
                assert np.array_equal(images, plain_images) and np.array_equal(labels, plain_labels)


@pytest.mark.usefixtures("ray_local")
def test_decoding_stops_and_sleeps_while_nobody_reads(tmp_path):
    log = tmp_path / "decoded"
    with stream(Numbers(log), chunks_ahead=8) as reals_stream:
        pids = {decoder(next(reals_stream)) for _ in range(16)}  # eight chunks
        wait_until(lambda: len(decoded(log)) >= 8 + 8)
        time.sleep(0.5)
        num_decoded = len(decoded(log))
        threads = [f"/proc/self/task/{thread.native_id}/stat" for thread in stream_threads()]
        decoders = [f"/proc/{pid}/stat" for pid in pids]
        before = cpu_sec(threads), cpu_sec(decoders)
        time.sleep(2)
        assert cpu_sec(threads) - before[0] <= 0.1, "a thread of the stream spins"  # Ray Data looks ten times a second
        assert cpu_sec(decoders) - before[1] <= 0.1, "a decoding process spins"
        assert len(decoded(log)) == num_decoded <= 8 + 8


@pytest.mark.usefixtures("ray_local")
def test_close_ends_tasks_and_threads():
    reals_stream = stream(Numbers())
    pid = decoder(next(reals_stream))
    reals_stream.close()
    wait_until(lambda: not stream_threads(), sec=10)
    wait_until(lambda: "ReadReals" not in Path(f"/proc/{pid}/cmdline").read_text(), sec=10)
    with pytest.raises(StopIteration):
        next(reals_stream)


@pytest.mark.usefixtures("ray_local")
def test_bad_image_is_one_clear_error(caplog, capfd):
    with stream(Numbers(bad=30)) as reals_stream:
        with pytest.raises(BadImage, match=r"cats/7.png.*sample position 30") as caught:
            for _ in range(7):  # the chunk of positions 24 to 31 is lost as a whole
                next(reals_stream)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.usefixtures("ray_local")
def test_each_death_of_a_decoder_is_one_line_and_changes_nothing(caplog, tmp_path):
    log = tmp_path / "decoded"
    with stream(Numbers(log, gates=(8, 48)), chunks_ahead=4) as reals_stream:
        for gate in (8, 48):
            wait_until(lambda gate=gate: any(position == gate for position, _ in decoded(log)))
            os.kill(decoded(log)[-1][1], signal.SIGKILL)
            (tmp_path / f"{gate}.open").touch()
            for i in range(0 if gate == 8 else 10, 10 if gate == 8 else 30):
                assert positions(next(reals_stream)) == list(range(4 * i, 4 * i + 4))
    faults = fault_lines(caplog)
    assert len(faults) == 2 and all("a decoding process died" in text for text in faults)


@pytest.mark.usefixtures("ray_local")
def test_image_that_crashes_the_decoder_ends_the_stream(monkeypatch):
    monkeypatch.setattr(decode_tasks, "MAX_RETRIES", 1)
    with (
        stream(Numbers(fatal=30)) as reals_stream,
        pytest.raises(RuntimeError, match=r"sample position 24 .*crash the decoder.*cluster.read_ahead"),
    ):
        for _ in range(10):
            next(reals_stream)


@pytest.mark.usefixtures("ray_local")
def test_source_is_not_pickled_into_tasks():
    big = Numbers()
    big.names = [f"image {i}" for i in range(100_000)]
    chunks, pace = list(itertools.islice(line(), 64)), Pace(chunks_ahead=2)
    pace.close()
    (task,) = DecodeDatasource(ray.put(big), [Task(0, chunks)], pace).get_read_tasks(1)
    read = task.read_fn
    assert len(pickle.dumps(read.args[1:])) < 10_000 and isinstance(read.args[0], ray.ObjectRef)


def test_decoding_processes_do_not_import_torch():
    modules = "stylegan_ray.cluster.decode_tasks, stylegan_ray.cluster.task_pool, stylegan_ray.data.reals"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
