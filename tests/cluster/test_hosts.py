"""Two hosts with addresses of their own train together; the link between them is cut, and the run gets over it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import namespaces
from support.jobs import Job, rows_without_times, small_model

pytestmark = pytest.mark.cluster

OPTIONS = [*small_model(), "--run.name", "run", "--cluster.num_workers", "2", "--cluster.cpus_per_worker", "1"]
HEAD, OTHER = "10.77.0.1", "10.77.0.2"
HEALTH = '{"health_check_initial_delay_ms":5000,"health_check_period_ms":2000,"health_check_failure_threshold":5}'


def network(folder: Path) -> str:
    """Two hosts on a bridge: each has its network and its /tmp/ray; the second does not see one of our folders."""
    return f"""
        {namespaces.two_hosts(folder)}
        mkdir {folder}/private
        on() {{
            local host=$1; shift
            ip netns exec host$host unshare -m bash -c '
                mount --bind {folder}/tmp'$host' /tmp/ray
                [ '$host' = 1 ] || mount -t tmpfs tmpfs {folder}/private
                exec "$@"' bash "$@"
        }}
        export -f on
        on 1 {sys.executable} -m ray.scripts.scripts get-auth-token --generate > /dev/null
        {start_ray(1, f"--head --port=6379 --dashboard-port=8265 --system-config='{HEALTH}'")}
        {start_ray(2, f"--address={HEAD}:6379")}
    """


def start_ray(host: int, words: str) -> str:
    common = f"--node-ip-address=10.77.0.{host} --num-cpus=1 --object-store-memory=150000000 --disable-usage-stats"
    return f"on {host} {sys.executable} -m ray.scripts.scripts start {words} {common}"


def train(pictures: Path, *words: str) -> str:
    """The command on the first host."""
    command = ["jobs/train.py", "config-f", str(pictures), *OPTIONS, *words]
    quoted = " ".join(f"'{word}'" for word in command)
    return f"on 1 env RAY_ADDRESS={HEAD}:6379 PYTHONUNBUFFERED=1 {sys.executable} {quoted}"


def wait_for_nodes(num: int) -> str:
    """Ends when the head counts so many living nodes."""
    code = f"""
import ray, time
ray.init(address="{HEAD}:6379", logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) != {num}:
    time.sleep(0.5)
print("alive", {num})
"""
    return f"on 1 {sys.executable} -c '{code}'"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pictures):
    """The run of two workers on one host."""
    storage = tmp_path_factory.mktemp("undisturbed")
    job = Job("train", "config-f", str(pictures), *OPTIONS, storage=storage, log=storage / "log")
    assert job.wait(400) == 0, job.text()
    return storage / "run"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    if not namespaces.are_allowed():
        pytest.skip(namespaces.WHY_NOT)
    folder = tmp_path_factory.mktemp("hosts")
    # Ray Train gives up waiting for a node after this long, and asks again.
    code = namespaces.copy_of_code(folder)
    env = namespaces.clean_environment(folder, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="15", PYTHONPATH=str(code))
    hosts = namespaces.Namespaces(folder, network(folder), env, cwd=code)
    try:
        hosts.wait_until_ready()
        yield hosts
    finally:
        hosts.kill()


def test_a_folder_that_only_one_host_sees_is_refused(hosts, pictures):
    status, said = hosts.run("private", train(pictures, "--run.storage", f"{hosts.folder}/private"))
    assert status == 2, said
    assert f"error: run.storage={hosts.folder}/private: node {OTHER} does not see the run's folder" in said
    assert "every node sees the same" in said and "Traceback" not in said


def test_the_doctor_sees_both_hosts_and_what_only_one_sees(hosts):
    doctor = f"on 1 {sys.executable} jobs/doctor.py --address {HEAD}:6379 --json {hosts.folder}/doctor.json"
    status, said = hosts.run("doctor", doctor)
    assert status == 0 and "Traceback" not in said, said
    for words in ("2 nodes reach each other", "over 2 nodes with gloo", "the same everywhere", f"\n{OTHER} "):
        assert words in said, said
    report = json.loads((hosts.folder / "doctor.json").read_text())
    assert set(report["nodes"]) == {HEAD, OTHER}
    assert report["nodes"][OTHER]["facts"]["interfaces"]["eth0"] == OTHER
    status, said = hosts.run("private-doctor", f"{doctor} --storage {hosts.folder}/private")
    assert status == 1 and f"{OTHER} see another {hosts.folder}/private than this node" in said, said


def test_an_interface_that_no_host_has_is_refused(hosts, pictures):
    status, said = hosts.run("interface", train(pictures, "--cluster.interface", "ib7"))
    assert status == 2, said
    assert f"cluster.interface=ib7: node {OTHER} has no ib7, but lo (127.0.0.1), eth0 ({OTHER})" in said


def test_a_cut_link_costs_time_and_nothing_else(undisturbed, hosts, pictures):
    """No interface is named: the hosts' own name resolves to loopback, and gloo still takes the link between them."""
    run = hosts.folder / "storage" / "run"
    log = hosts.start("train", train(pictures))
    hosts.wait_for(lambda: (run / "checkpoints" / "ckpt-000000000080" / "COMPLETE").exists(), while_running="train")
    assert "2 workers on CPU" in log.read_text()
    assert hosts.run("cut", "ip link set link2 down")[0] == 0
    assert not (run / "network-final.safetensors").exists(), "the cut came too late to mean anything"
    assert "alive 1" in hosts.run("count", wait_for_nodes(1))[1]
    mend = "kill -9 $(ip netns pids host2); ip link set link2 up; sleep 1; "
    assert hosts.run("mend", mend + start_ray(2, f"--address={HEAD}:6379"))[0] == 0
    hosts.wait_for(lambda: hosts.status("train") is not None)
    said = log.read_text()
    assert hosts.status("train") == 0, said
    assert OTHER in next(line for line in said.splitlines() if line.startswith("fault: ")), said
    expected = load_file(undisturbed / "network-final.safetensors")
    for name, value in load_file(run / "network-final.safetensors").items():
        assert value.equal(expected[name]), name
    assert rows_without_times(run) == rows_without_times(undisturbed)
