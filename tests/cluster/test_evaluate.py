"""Metrics in Ray tasks: the same values for any number of tasks, whichever process dies."""

import os
import signal
import sys

import pytest
import torch
from support import measured, toy
from support.measured import Pictures, numbers
from support.toy import toy_config, toy_state

ray = pytest.importorskip("ray")

from stylegan_ray.cluster.evaluate import RayRunner  # noqa: E402
from stylegan_ray.metrics.compute import evaluate  # noqa: E402
from stylegan_ray.metrics.detectors import read_weights  # noqa: E402
from stylegan_ray.metrics.reals_cache import RealsCache  # noqa: E402

for module in (sys.modules[__name__], measured, toy):
    ray.cloudpickle.register_pickle_by_value(module)
pytestmark = pytest.mark.usefixtures("ray_local")

NAMES = ["fid600_tiny", "kid300_tiny", "is100_tiny", "ppl0.1k_wend_tiny"]


class Fatal(Pictures):
    """Its first read kills the reading process; appends process ids to a file."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def read(self, index, level=0):
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(self.log.read_text().split()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


class Broken(Pictures):
    def read(self, index, level=0):
        raise RuntimeError("no way to read")


@pytest.fixture(scope="module")
def network():
    return toy_state(toy_config()).G_ema


def rows(network, dataset, run=None, names=NAMES):
    weights = {"tiny": read_weights("tiny")}
    available = {name: found.build() for name, found in weights.items()}, {}
    ways = {"run": RayRunner(weights, run)} if run else {}
    return evaluate(network, dataset, names, repeat=1, available=available, cache=RealsCache(), **ways)


@pytest.fixture(scope="module")
def here(network):
    """Rows computed by one thread of this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield rows(network, Pictures())
    torch.set_num_threads(threads)


@pytest.mark.parametrize("num_tasks", [pytest.param(1, marks=pytest.mark.cluster), 3])
def test_any_number_of_tasks_gives_the_same_bits(network, here, num_tasks):
    assert numbers(rows(network, Pictures(), num_tasks)) == numbers(here)


@pytest.mark.cluster
def test_a_task_whose_process_is_killed_runs_again(network, here, tmp_path):
    log = tmp_path / "log"
    found = rows(network, Fatal(log), 2)
    assert numbers(found) == numbers(here)
    assert len(set(log.read_text().split())) == 2, "no process was killed"


def test_an_error_comes_out_as_it_was_raised(network):
    with pytest.raises(RuntimeError, match=r"^no way to read$"):
        rows(network, Broken(), 2, ["fid100_tiny"])
