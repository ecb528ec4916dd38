"""What the workers of a run have reserved is freed, even where whoever led them died."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

ray = pytest.importorskip("ray")

from ray.train import ScalingConfig  # noqa: E402

from stylegan_ray.cluster.ray_private import NotedWorkers, free_workers  # noqa: E402

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Leader:
    """Reserves as the controller of a run does."""

    def reserve(self, run: str) -> bool:
        workers = object.__new__(NotedWorkers)
        workers._train_run_context = SimpleNamespace(get_run_config=lambda: SimpleNamespace(name=run))
        wanted = SimpleNamespace(
            resources_per_worker={"CPU": 1}, num_workers=2, placement_strategy="PACK", label_selector=None
        )
        return workers._create_placement_group(ScalingConfig(num_workers=2), wanted).wait(30)


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0)


def wait_for_cpus(number: float) -> None:
    deadline = time.monotonic() + 30
    while free_cpus() != number:
        assert time.monotonic() < deadline, f"{free_cpus():g} CPUs are free"
        time.sleep(0.1)


@pytest.mark.usefixtures("ray_local")
def test_the_next_attempt_frees_what_a_dead_leader_had_reserved():
    wait_for_cpus(2)
    leader = ray.remote(num_cpus=0)(Leader).remote()
    assert ray.get(leader.reserve.remote("faces"))
    wait_for_cpus(0)
    ray.kill(leader)
    time.sleep(1)
    assert free_cpus() == 0, "Ray frees it by itself: free_workers is needless"
    free_workers("another run")
    assert free_cpus() == 0
    free_workers("faces")
    wait_for_cpus(2)
    free_workers("faces")  # it is no matter that nothing is there any more
