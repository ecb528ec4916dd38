"""Collectives of a group that loses a worker."""

import gc
import json
import os
import pickle
import platform
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.processes import spawn
from support.toy import toy_config

from stylegan_ray import distributed
from stylegan_ray.distributed import LostPeerError, prepare_process


def page_faults_of_tensors():
    """How often the system had to give this process a page while tensors of 32 MB come and go, after the first one."""
    counts = []
    for _ in range(11):
        torch.ones(8, 1 << 20)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[0]


def count_page_faults(_, path):
    before = page_faults_of_tensors()
    prepare_process(toy_config(), 1)
    page_faults_of_tensors()  # the first ones after it need pages
    Path(path).write_text(json.dumps([before, page_faults_of_tensors()]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_of_freed_tensors_is_kept_for_the_next(tmp_path):
    spawn(count_page_faults, (tmp_path / "faults.json",), nprocs=1)
    before, after = json.loads((tmp_path / "faults.json").read_text())
    assert before > 10 * (1 << 20) * 32 // (resource.getpagesize() * 2 * 512)  # even with pages of 2 MB
    assert after < before / 10


def memory_of_threads(_, path):
    prepare_process(toy_config(), 1)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

    def fill():
        blocks = [torch.ones(1 << 14) for _ in range(4000)]  # 250 MB in blocks of 64 kB
        del blocks[:-1]

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fill).result()
    kept = resident()
    distributed.return_freed_memory()
    Path(path).write_text(json.dumps([kept, resident()]))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_freed_memory_of_a_thread_that_has_ended_is_returned(tmp_path):
    spawn(memory_of_threads, (tmp_path / "mb.json",), nprocs=1)
    kept, left = json.loads((tmp_path / "mb.json").read_text())
    assert kept - left > 100


def count_garbage(rank, folder):
    """How many objects that nobody can reach any more are left of 100,000, in a process that holds 500,000."""
    held = [[] for _ in range(500_000)]
    if rank == 0:
        distributed.freeze_objects()
    else:
        gc.collect()
    before = len(gc.get_objects())
    for _ in range(5):
        cycles = [[] for _ in range(20_000)]  # for so long that all are old
        for cycle in cycles:
            cycle.append(cycle)
        del cycles, cycle
    Path(folder, f"{rank}.json").write_text(json.dumps([len(held), len(gc.get_objects()) - before]))


def test_garbage_does_not_wait_for_what_lives_forever(tmp_path):
    spawn(count_garbage, (tmp_path,), nprocs=2)
    (_, frozen), (_, other) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert frozen < 30_000 < other


def worker(rank, folder):
    """Two workers sum once; then one ends, and the other goes on calling collectives."""
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {"sum": distributed.sum_over_ranks(torch.ones(3)).tolist()}
    if rank == 1:
        os._exit(0)
    calls = {
        "sum_over_ranks": lambda: distributed.sum_over_ranks(torch.ones(3)),
        "largest_over_ranks": lambda: distributed.largest_over_ranks(1),
        "from_rank0": lambda: distributed.from_rank0("x"),
        "from_all_ranks": lambda: distributed.from_all_ranks(torch.ones(3)),
        "to_rank0": lambda: distributed.to_rank0("x"),
        "objects_from_all_ranks": lambda: distributed.objects_from_all_ranks("x"),
    }
    for name, call in calls.items():
        try:
            call()
        except LostPeerError as error:
            found[name] = error.operation
    Path(folder, "found.json").write_text(json.dumps(found))
    os._exit(0)


def test_every_collective_that_loses_its_peer_raises_lost_peer_error(tmp_path):
    spawn(worker, (str(tmp_path),), nprocs=2)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("sum") == [2.0] * 3
    assert len(found) == 6 and all(operation == name for name, operation in found.items())


def patient(rank, folder):
    """Two workers whose collectives may take a second wait longer for rank 0."""
    torch.set_num_threads(1)
    distributed.STEP_SEC = 0.2
    store = dist.FileStore(os.path.join(folder, "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=1))
    begin = time.monotonic()

    def step(sec):
        time.sleep(sec)
        return time.monotonic() - begin > 2.5

    found = [distributed.until_rank0(step, 60), distributed.until_rank0(lambda sec: time.sleep(sec) or False, 0.5)]
    Path(folder, f"found-{rank}.json").write_text(json.dumps([*found, time.monotonic() - begin]))


def test_rank_0_may_take_longer_than_a_collective(tmp_path):
    spawn(patient, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        in_time, late, sec = json.loads((tmp_path / f"found-{rank}.json").read_text())
        assert in_time is True and late is False and sec > 2.5


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("memory"), ValueError("value")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)), distributed.collective("sum_over_ranks"):
        raise error


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(LostPeerError("sum_over_ranks", "connection closed")))
    assert error.operation == "sum_over_ranks" and "connection closed" in str(error)
