"""The doctor of a cluster without one: nodes that do not answer, and a storage that cannot be opened."""

import pytest

pytest.importorskip("ray")

from stylegan_ray.cluster.machines import Group, about_same_storage, examine
from stylegan_ray.cluster.nodes import Node
from stylegan_ray.cluster.pinned import Failure
from stylegan_ray.machine.command import DoctorOptions


class Silent(Group):
    """Nodes of which none answers."""

    def ask(self, method, *words, timeout_sec=0.0):
        return [Failure("does not answer") for _ in self.nodes]


def test_a_cluster_in_which_no_node_answers_has_a_line_for_each(tmp_path, capsys):
    nodes = [Node(f"id{i}", f"10.0.0.{i}", {"CPU": 2}) for i in range(2)]
    report = tmp_path / "doctor.json"
    assert examine(Silent(nodes, [None, None]), DoctorOptions(storage=str(tmp_path), json=str(report))) == 1
    said = capsys.readouterr().out
    assert all(f"problem  10.0.0.{i}  does not answer" in said for i in range(2)), said
    assert "2 problems: something prevents training on this cluster" in said and report.exists()


@pytest.mark.parametrize("address", ["nonsense://KEY:SECRET@x", "http://KEY:SECRET@x/y"])
def test_a_storage_that_cannot_be_opened_is_a_problem(address):
    found = about_same_storage(Silent([], []), address)
    assert (found.level, found.subject) == ("problem", "same storage") and "SECRET" not in found.text
