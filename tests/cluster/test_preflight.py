"""The preflight: what it finds out about a node, what it refuses, and the messages."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from support.jobs import write_pictures

ray = pytest.importorskip("ray")

from stylegan_ray.cluster import preflight, resources  # noqa: E402
from stylegan_ray.cluster.nodes import (  # noqa: E402
    MARKER,
    Findings,
    Missing,
    Node,
    Probe,
    alive_nodes,
    findings,
    findings_on,
    readable_image,
)
from stylegan_ray.cluster.preflight import (  # noqa: E402
    Clearance,
    check_memory,
    check_shared_memory,
    checked_nodes,
    problems,
)
from stylegan_ray.cluster.resources import Share, TooSmallError, join, share_of_cluster, share_of_nodes  # noqa: E402
from stylegan_ray.config import ConfigError, load_config  # noqa: E402
from stylegan_ray.data import open_dataset  # noqa: E402
from stylegan_ray.machine.network import interface_address, interfaces  # noqa: E402
from stylegan_ray.machine.software import code_checksum, software  # noqa: E402
from stylegan_ray.storage import Storage  # noqa: E402

GOOD = Findings({"torch": "2.13.0", "stylegan_ray": "abc"}, "token", None, "sha", 1 << 30, {"eth0": "10.0.0.2"})
NODE = Node("id", "10.0.0.2", {"CPU": 4, "GPU": 2, "object_store_memory": 1 << 30})
TWO_ON_CPU = Share(2, 1.0, 0, 1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("pictures"))
    return open_dataset(load_config("config-f", {"data.path": str(folder)}).data)


def config(**keys):
    return load_config("config-f", {"run.name": "run", "run.storage": "/shared", "data.path": "/pictures", **keys})


def said_of(found: Findings | str, **keys) -> str:
    clearance = Clearance(config(**keys), Probe("/shared/run", config().data, 0), GOOD, frozenset())
    return "\n".join(problems(NODE, found, clearance))


def test_a_node_like_the_driver_has_no_problems():
    assert said_of(GOOD) == ""
    assert said_of(GOOD, **{"cluster.interface": "eth0"}) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"software": {"torch": "2.11.0", "stylegan_ray": "abc"}},
            ["10.0.0.2 has torch 2.11.0", "2.13.0", "job submit"],
        ),
        ({"software": {"torch": "2.13.0", "stylegan_ray": "old"}}, ["stylegan_ray old", "driver has abc"]),
        (
            {"marker": Missing("no file of the driver there")},
            ["/shared: node 10.0.0.2", "no file", "network file"],
        ),
        ({"marker": "another token"}, ["another folder of the same name", "s3://"]),
        ({"write": Missing("no way to write there: read-only")}, ["run.storage=/shared", "read-only", "rights"]),
        (
            {"image": Missing("no way to read it: missing")},
            ["data.path=/pictures", "missing", "every node"],
        ),
        ({"image": "another sha"}, ["data.path=/pictures", "other pixels"]),
    ],
)
def test_every_difference_names_key_node_and_way_out(change, words):
    said = said_of(replace(GOOD, **change))
    assert said.count("\n") == 0
    assert all(word in said for word in words), said


def test_a_silent_node_and_a_missing_interface_are_named():
    assert "node 10.0.0.2 did not answer within 180 s" in said_of("did not answer within 180 s")
    said = said_of(GOOD, **{"cluster.interface": "ib0"})
    assert "cluster.interface=ib0: node 10.0.0.2 has no ib0, but eth0 (10.0.0.2)" in said


def test_interface_keys_are_checked():
    with pytest.raises(ConfigError, match=r"cluster\.interface"):
        config(**{"cluster.interface": "eth0; rm -rf /"})
    assert config(**{"cluster.interface": "eth0,ib0.2"}).cluster.interface == "eth0,ib0.2"


def test_findings_of_this_machine(dataset, tmp_path):
    storage = Storage.at(tmp_path)
    storage.write(MARKER, b"token")
    probe = Probe(str(tmp_path), config(**{"data.path": dataset.path}).data, readable_image(dataset))
    found = findings(probe, dataset)
    assert found.marker == "token" and found.write is None and len(found.image) == 64
    assert found.software["ray"] == ray.__version__ and found.software["stylegan_ray"] == code_checksum()
    assert storage.names() == [MARKER], "what was written to try is gone"
    assert interface_address("lo") == "127.0.0.1" and interfaces()["lo"] == "127.0.0.1"
    gone = findings(replace(probe, run_address=str(tmp_path / "elsewhere")), dataset)
    assert gone.marker == "no file of the driver there"


def test_a_missing_picture_is_found(dataset, tmp_path):
    moved = open_dataset(load_config("config-f", {"data.path": str(write_pictures(tmp_path / "in"))}).data)
    (tmp_path / "in").rename(tmp_path / "out")
    found = findings(Probe(str(tmp_path), config(**{"data.path": "in"}).data, 0), moved)
    assert found.image.startswith("no way to read it: ")


def test_code_checksum_sees_a_changed_file(monkeypatch, tmp_path):
    package = tmp_path / "stylegan_ray"
    (package / "machine").mkdir(parents=True)
    (package / "machine" / "software.py").write_text("one")
    monkeypatch.setattr("stylegan_ray.machine.software.__file__", str(package / "machine" / "software.py"))
    before = code_checksum()
    (package / "machine" / "software.py").write_text("two")
    assert code_checksum() != before


@pytest.mark.usefixtures("ray_local")
def test_tasks_pinned_to_nodes_find_out_about_them(dataset, tmp_path):
    storage = Storage.at(tmp_path)
    storage.write(MARKER, b"token")
    probe = Probe(str(tmp_path), config(**{"data.path": dataset.path}).data, 0)
    (here,) = alive_nodes()
    gone = Node("a" * 56, "10.9.9.9", {})
    found = findings_on([here, gone], probe, dataset, timeout_sec=60)
    assert found[here.id] == findings(probe, dataset)
    assert str(found[gone.id]).startswith("cannot run tasks: ")


@pytest.mark.usefixtures("ray_local")
def test_workers_check_nodes_that_joined_after_the_preflight(dataset, tmp_path):
    cfg = config(**{"run.storage": str(tmp_path), "data.path": dataset.path})
    address = str(tmp_path / "run")
    with checked_nodes(cfg, dataset, address, TWO_ON_CPU, print) as clearance:
        assert Storage.at(address).names() == [MARKER]
        clearance.check_here(dataset)
        late = replace(clearance, nodes=frozenset())
        late.check_here(dataset)
        with pytest.raises(ConfigError, match=r"run\.storage=.*another folder of the same name"):
            replace(late, expected=replace(late.expected, marker="another")).check_here(dataset)
    assert Storage.at(address).names() == []


def test_memory_for_the_stream(dataset):
    said: list[str] = []
    cfg = config(**{"schedule.minibatch_size": 8, "schedule.minibatch_gpu": 4})
    group = preflight.group_bytes(cfg, dataset)
    assert group == 8 * 4 * 3 * 8 * 8

    def node(store: int) -> Node:
        return Node("id", "10.0.0.2", {"CPU": 4, "object_store_memory": store})

    check_memory(cfg, dataset, TWO_ON_CPU, [node(10 * group)], said.append)
    assert said == []
    check_memory(cfg, dataset, TWO_ON_CPU, [node(3 * group)], said.append)
    assert "cluster.read_ahead=4" in said[0] and "10.0.0.2" in said[0]
    with pytest.raises(ConfigError, match=r"minibatch_repeats=4.*--object-store-memory"):
        check_memory(cfg, dataset, TWO_ON_CPU, [node(group // 2)], said.append)
    check_memory(cfg, dataset, TWO_ON_CPU, [Node("id", "head", {"CPU": 0, "object_store_memory": 1})], said.append)


def test_an_object_store_on_disk_is_a_warning():
    said: list[str] = []
    check_shared_memory(NODE, GOOD, said.append)
    assert said == []
    check_shared_memory(NODE, replace(GOOD, shared_memory=64 << 20), said.append)
    assert "64 MiB" in said[0] and "shm-size" in said[0] and "10.0.0.2" in said[0]


GPU_NODE = {"CPU": 8.0, "GPU": 4.0}


def test_shares_of_a_cluster():
    two = share_of_nodes(config(**{"cluster.num_workers": 8}), [{"CPU": 0.0}, GPU_NODE, GPU_NODE])
    assert two == Share(8, 2.0, 1, 2), "the head without CPUs is no host"
    elastic = share_of_nodes(config(**{"cluster.num_workers": "1:4"}), [{"CPU": 2.0}])
    assert elastic.num_workers == (1, 4) and elastic.gpus == 0
    with pytest.raises(TooSmallError, match="0 workers fit on a cluster of 0 CPUs"):
        share_of_nodes(config(**{"cluster.num_workers": 1}), [{"GPU": 4.0}])  # Ray leaves out what a node has none of
    with pytest.raises(TooSmallError, match=r"needs 8 GPUs, and the cluster has 4;.*wait_minutes"):
        share_of_nodes(config(**{"cluster.num_workers": 8}), [GPU_NODE])
    with pytest.raises(TooSmallError, match=r"cpus_per_worker=3: 4 workers fit"):
        share_of_nodes(
            config(**{"cluster.num_workers": 5, "cluster.cpus_per_worker": 3, "cluster.gpus_per_worker": 0}),
            [GPU_NODE, GPU_NODE],
        )


def test_a_run_waits_for_nodes_of_a_growing_cluster(monkeypatch):
    cluster, asked, said = [{"Alive": True, "Resources": {"CPU": 0.0}}], [], []

    def grow(bundles):
        asked.append(bundles)
        cluster.append({"Alive": True, "Resources": GPU_NODE})

    monkeypatch.setattr(resources.ray, "nodes", lambda: cluster)
    monkeypatch.setattr(resources, "request_resources", grow)
    monkeypatch.setattr(resources, "SEC_BETWEEN_LOOKS", 0.01)
    cfg = config(**{"cluster.num_workers": 8, "cluster.wait_minutes": 1.0})
    assert share_of_cluster(cfg, said.append).gpus == 1
    assert asked == [[{"CPU": 1}] * 8, [{"CPU": 1, "GPU": 1}] * 8, []], "the last one takes the request back"
    assert len(said) == 1
    with pytest.raises(TooSmallError, match="needs 8 GPUs, and the cluster has 0"):
        del cluster[1:]
        share_of_cluster(config(**{"cluster.num_workers": 8, "cluster.gpus_per_worker": 1}), said.append)


@pytest.mark.parametrize("end", [TooSmallError, KeyboardInterrupt])
def test_a_request_for_nodes_does_not_outlive_the_wait(monkeypatch, end):
    """Ray's autoscaler keeps to the last request, and would start nodes that nobody uses."""
    asked = []

    def interrupt(sec):
        if end is KeyboardInterrupt:
            raise end

    monkeypatch.setattr(resources.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 0.0}}])
    monkeypatch.setattr(resources, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(resources.time, "sleep", interrupt)
    with pytest.raises(end):
        share_of_cluster(config(**{"cluster.num_workers": 8, "cluster.wait_minutes": 0.001}), lambda _text: None)
    assert asked[0] == [{"CPU": 1}] * 8 and asked[-1] == []


def test_a_driver_elsewhere_is_told_to_submit(monkeypatch):
    for address in ("http://head:8265", "ray://head:10001"):
        given = ["tiny", "--cluster.address", address, f"--cluster.address={address}", "--run.name", "run"]
        monkeypatch.setattr(sys, "argv", ["jobs/train.py", *given])
        with pytest.raises(ConfigError, match=r"http://head:8265 --working-dir \. -- python jobs/train\.py tiny --run"):
            join(address, "--cluster.address", {})
        monkeypatch.setattr(sys, "argv", ["/usr/bin/stylegan-ray", "train", *given])
        with pytest.raises(ConfigError, match=r"http://head:8265 -- stylegan-ray train tiny --run\.name run;"):
            join(address, "--cluster.address", {})


def test_software_names_what_numbers_depend_on():
    assert {"python", "torch", "ray", "numpy", "pillow", "stylegan_ray"} <= set(software())
