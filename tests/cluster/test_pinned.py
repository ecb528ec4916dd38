"""Work on given nodes: what is said of a task and of an actor that fail."""

from __future__ import annotations

from os.path import getsize

import pytest

ray = pytest.importorskip("ray")

from stylegan_ray.cluster.nodes import this_node  # noqa: E402
from stylegan_ray.cluster.pinned import Failure, call_on_nodes, results  # noqa: E402


@pytest.mark.usefixtures("ray_local")
def test_a_task_that_fails_cannot_run_this_package_and_an_actor_cannot_answer(tmp_path):
    class Summer:
        def sum(self):
            raise ValueError("the sum is wrong")

    (tmp_path / "seven").write_bytes(b"1234567")
    found = call_on_nodes([(this_node(), getsize, (str(tmp_path / name),)) for name in ("seven", "none")], 60)
    assert found[0] == 7
    assert isinstance(found[1], Failure) and found[1].startswith("cannot run this package: ")
    actor = ray.remote(num_cpus=0)(Summer).remote()
    try:
        assert results([actor.sum.remote()], 60) == ["cannot answer: the sum is wrong"]
    finally:
        ray.kill(actor)
