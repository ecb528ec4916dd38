"""Workers stop hearing each other while Ray's own network goes on: the run hangs, says so, and goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import namespaces
from support.jobs import newest_tick, small_model

from stylegan_ray.run_folder import HANGS

pytestmark = pytest.mark.cluster

HEAD = "10.77.0.1"
OPTIONS = [
    *small_model(), "--run.name", "run", "--cluster.num_workers", "2", "--cluster.cpus_per_worker", "1",
    "--cluster.interface", "eth1", "--cluster.hang_minutes", "1", "--train.total_kimg", "2",
    "--train.checkpoint_ticks", "1",
]  # fmt: skip
WAITS = "waited for the others in sum_over_ranks"


def network(folder: Path) -> str:
    """Two hosts with two networks: Ray has the first one, the workers the second one."""
    start = f"{sys.executable} -m ray.scripts.scripts start --num-cpus=1 --object-store-memory=150000000"
    return f"""
        {namespaces.two_hosts(folder)}
        ip link add br1 type bridge && ip link set br1 up
        for host in 1 2; do
            ip link add second$host type veth peer name eth1 netns host$host
            ip link set second$host master br1 up
            ip -n host$host addr add 10.78.0.$host/24 dev eth1
            ip -n host$host link set eth1 up
        done
        on() {{
            local host=$1; shift
            ip netns exec host$host unshare -m bash -c '
                mount --bind {folder}/tmp'$host' /tmp/ray
                exec "$@"' bash "$@"
        }}
        export -f on
        on 1 {sys.executable} -m ray.scripts.scripts get-auth-token --generate > /dev/null
        on 1 {start} --head --port=6379 --node-ip-address={HEAD} --disable-usage-stats
        on 2 {start} --address={HEAD}:6379 --node-ip-address=10.77.0.2 --disable-usage-stats
    """


def test_a_run_whose_workers_do_not_hear_each_other_restarts(pictures, tmp_path):
    if not namespaces.are_allowed():
        pytest.skip(namespaces.WHY_NOT)
    code = namespaces.copy_of_code(tmp_path)
    env = namespaces.clean_environment(tmp_path, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="15", PYTHONPATH=str(code))
    hosts = namespaces.Namespaces(tmp_path, network(tmp_path), env, cwd=code)
    run = tmp_path / "storage" / "run"
    try:
        hosts.wait_until_ready()
        words = " ".join(f"'{word}'" for word in ["jobs/train.py", "config-f", str(pictures), *OPTIONS])
        log = hosts.start("train", f"on 1 env RAY_ADDRESS={HEAD}:6379 PYTHONUNBUFFERED=1 {sys.executable} {words}")
        hosts.wait_for(lambda: newest_tick(run) >= 2, while_running="train")
        assert hosts.run("cut", "ip link set second2 nomaster")[0] == 0
        hosts.wait_for(lambda: WAITS in log.read_text(), while_running="train")
        assert hosts.run("mend", "ip link set second2 master br1")[0] == 0
        hosts.wait_for(lambda: hosts.status("train") is not None, 500)
        said = log.read_text()
        assert hosts.status("train") == 0, said
        line = next(line for line in said.splitlines() if WAITS in line)
        for rank in (0, 1):
            assert f"worker {rank} (process" in line, line
        assert line.startswith("fault: no progress for 1 min at"), line
        assert {path.name for path in (run / HANGS).glob("*/*.txt")} >= {"worker-0.txt", "worker-1.txt"}
    finally:
        hosts.kill()
