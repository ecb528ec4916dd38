"""The stream of reals: exact, in order, bounded, idle when nobody takes, and unharmed by the death of a decoder."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ray = pytest.importorskip("ray")

from stylegan_ray.cluster import decoding, reals  # noqa: E402
from stylegan_ray.cluster.decoding import ChunkDatasource, MicroBatchPlan, arrays_of, block_of, positions_of  # noqa: E402
from stylegan_ray.config import load_config  # noqa: E402
from stylegan_ray.data import BadImage, open_dataset  # noqa: E402
from stylegan_ray.data.reals import RealsSource  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Numbers:
    """Pictures that show their position; labels that tell which process made them. Notes what it decodes in a file."""

    def __init__(self, log: Path | None = None, bad: int | None = None, fatal: int | None = None) -> None:
        self.log, self.bad, self.fatal = log, bad, fatal

    def micro_batch(self, positions, level=0):
        if self.bad in positions:
            raise BadImage("cats/7.png", "ends early", self.bad)
        if self.fatal in positions:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{positions[0]}\n")
        images = np.empty((len(positions), 1, 4 >> level, 4 >> level), np.uint8)
        images[:] = positions[:, None, None, None] % 251
        return images, np.stack([positions, np.full(len(positions), os.getpid())], 1).astype(np.float32)


def line(start=0, count=2, micro_batches=2, minibatches=2):
    """An endless line of chunks of `minibatches` minibatches."""
    size = count * micro_batches
    for nimg in itertools.count(start, size * minibatches):
        begins = [nimg + i * size for i in range(minibatches)]
        yield tuple(tuple(MicroBatchPlan(b + j * count, count) for j in range(micro_batches)) for b in begins)


def stream(source, *, read_ahead=4, start=0):
    return reals.RealsStream(source, line(start), 16, 2 * read_ahead)


def positions(micro_batches) -> list[int]:
    for images, labels in micro_batches:
        assert (images[:, 0, 0, 0] == labels[:, 0] % 251).all()
    return [int(p) for _, labels in micro_batches for p in labels[:, 0]]


def decoder(micro_batches) -> int:
    """The process that decoded a minibatch."""
    return int(micro_batches[0][1][0, 1])


def cpu_sec(stats: list[str]) -> float:
    """CPU seconds of processes or threads, from their stat files."""
    fields = [Path(stat).read_text().rsplit(")", 1)[1].split() for stat in stats]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def executor_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


def wait_until(condition, sec=60.0):
    end = time.monotonic() + sec
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def short_segments(monkeypatch):
    """Segments of 5 and more chunks in tasks of 3 or fewer, so that a test passes many seams."""
    monkeypatch.setattr(reals, "MAX_CHUNKS_PER_TASK", 3)
    monkeypatch.setattr(reals, "FIRST_SEGMENT_CHUNKS", 5)
    monkeypatch.setattr(reals, "MAX_SEGMENT_CHUNKS", 7)


@pytest.mark.parametrize("level", [0, 1])
def test_block_holds_pictures_and_labels(level):
    chunk = ((MicroBatchPlan(5, 2, level), MicroBatchPlan(9, 2, level)), (MicroBatchPlan(20, 3, level),))
    start, images, labels = arrays_of(block_of(Numbers(), chunk))
    assert start == 5 and positions_of(chunk).tolist() == [5, 6, 9, 10, 20, 21, 22]
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


def test_large_groups_are_handed_over_minibatch_by_minibatch():
    group = next(line(minibatches=3, count=4))
    assert reals.decoded_bytes(group, 100) == 3 * 2 * 4 * 100
    assert reals.handy(group, 100) == [group]
    assert reals.handy(group, 3 << 19) == [(minibatch,) for minibatch in group]
    reduced = tuple(tuple(MicroBatchPlan(plan.start, plan.count, level=2) for plan in part) for part in group)
    assert reals.handy(reduced, 3 << 19) == [reduced]


@pytest.mark.usefixtures("ray_local", "short_segments")
def test_streams_are_exact_and_in_order():
    with stream(Numbers()) as one, stream(Numbers(), start=1000) as two:
        for i in range(50):
            assert positions(next(one)) == list(range(4 * i, 4 * i + 4))
            assert positions(next(two)) == list(range(1000 + 4 * i, 1004 + 4 * i))


@pytest.mark.usefixtures("ray_local")
def test_stream_runs_where_workers_have_taken_all_cpus():
    worker = ray.remote(num_cpus=2)(threading.Event).remote()
    ray.get(worker.is_set.remote())
    assert ray.available_resources().get("CPU", 0) == 0
    with stream(Numbers()) as reals_stream:
        for i in range(10):
            assert positions(next(reals_stream)) == list(range(4 * i, 4 * i + 4))
    ray.kill(worker)


@pytest.mark.usefixtures("ray_local", "short_segments")
def test_stream_of_a_configuration_equals_its_source_over_many_passes(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    cfg = load_config("tiny", {"data.path": str(tmp_path), "data.resolution": 16, "data.mirror_augment": True})
    dataset = open_dataset(cfg.data)
    source = RealsSource(dataset, seed=3, mirror_augment=True)
    threaded = RealsSource(dataset, seed=3, mirror_augment=True, threads=2)
    with reals.stream_of_reals(cfg, threaded, cur_nimg=64, resolution_log2=4, rank=1, world_size=2) as stream:
        for nimg in range(64, 64 + 32 * 12, 32):
            plain = [source.micro_batch(np.arange(nimg + j * 8, nimg + j * 8 + 8)) for j in (1, 3)]
            for (images, labels), (plain_images, plain_labels) in zip(next(stream), plain, strict=True):
                assert np.array_equal(images, plain_images) and np.array_equal(labels, plain_labels)


@pytest.mark.usefixtures("ray_local")
def test_decoding_stops_and_sleeps_while_nobody_takes(tmp_path):
    log = tmp_path / "decoded"
    with stream(Numbers(log), read_ahead=4) as reals_stream:
        pids = {decoder(next(reals_stream)) for _ in range(8)}  # four chunks
        wait_until(lambda: len(log.read_text().split()) >= 4 + 4)
        time.sleep(0.5)
        executor = [f"/proc/self/task/{thread.native_id}/stat" for thread in executor_threads()]
        decoders = [f"/proc/{pid}/stat" for pid in pids]
        before = cpu_sec(executor), cpu_sec(decoders)
        time.sleep(2)
        assert cpu_sec(executor) - before[0] <= 0.04, "the executor of Ray Data spins"
        assert cpu_sec(decoders) - before[1] <= 0.1, "a decoding process spins"
        assert len(log.read_text().split()) <= 4 + 4


def test_a_stopped_task_that_left_logging_locked_does_not_hold_the_next_ones_threads_up(monkeypatch):
    class Logs(Numbers):
        def micro_batch(self, positions, level=0):
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(logging._lock.acquire, timeout=5).result(), "a thread waits for logging"
                pool.submit(logging._lock.release).result()
            return super().micro_batch(positions, level)

    monkeypatch.setattr(decoding, "_opened", lambda source: source)
    monkeypatch.setattr(decoding, "task_attempt", lambda: 0)
    logging._lock.acquire()  # as an interrupt leaves it
    assert decoding.arrays_of(next(decoding.decode(Logs(), [next(line())])))[0] == 0
    assert not logging._lock._is_owned()


@pytest.mark.usefixtures("ray_local")
def test_close_ends_tasks_and_threads():
    reals_stream = stream(Numbers())
    pid = decoder(next(reals_stream))
    reals_stream.close()
    assert not executor_threads()
    wait_until(lambda: "ReadReals" not in Path(f"/proc/{pid}/cmdline").read_text(), sec=10)
    with pytest.raises(StopIteration):
        next(reals_stream)


@pytest.mark.usefixtures("ray_local")
def test_bad_picture_is_one_clear_error(caplog, capfd):
    with stream(Numbers(bad=30)) as reals_stream:
        with pytest.raises(BadImage, match=r"'cats/7.png' \(sample position 30\): ends early") as caught:
            for _ in range(7):  # the chunk of positions 24 to 31 is lost as a whole
                next(reals_stream)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.usefixtures("ray_local")
def test_killed_decoder_changes_nothing_and_is_named_once(caplog):
    with stream(Numbers()) as reals_stream:
        pid = decoder(next(reals_stream))
        os.kill(pid, signal.SIGKILL)
        pids = set()
        for i in range(1, 30):
            micro_batches = next(reals_stream)
            assert positions(micro_batches) == list(range(4 * i, 4 * i + 4))
            pids.add(decoder(micro_batches))
    assert len(pids - {pid}) == 1
    faults = [record.getMessage() for record in caplog.records if record.getMessage().startswith("fault: ")]
    assert len(faults) == 1 and "a decoding process died" in faults[0]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_local")
def test_picture_that_crashes_the_decoder_ends_the_stream(monkeypatch):
    monkeypatch.setattr(reals, "MAX_RETRIES", 1)
    with (
        stream(Numbers(fatal=30)) as reals_stream,
        pytest.raises(RuntimeError, match=r"from sample position 24 on.*picture may crash the decoder"),
    ):
        for _ in range(10):
            next(reals_stream)


@pytest.mark.usefixtures("ray_local")
def test_source_is_not_pickled_into_tasks():
    big = Numbers()
    big.names = [f"picture {i}" for i in range(100_000)]
    chunks = list(itertools.islice(line(), 64))
    (task,) = ChunkDatasource(ray.put(big), [chunks]).get_read_tasks(1)
    read = task.read_fn
    assert len(pickle.dumps(read.args[1:])) < 10_000 and isinstance(read.args[0], ray.ObjectRef)
