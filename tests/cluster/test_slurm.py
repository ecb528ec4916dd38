"""slurm.sbatch with an `srun` and a `scontrol` of our own: two hosts, each with its network and its processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import namespaces
from support.jobs import ROOT, rows_without_times, small_model

SCRIPT = ROOT / "slurm.sbatch"

SRUN = """#!/bin/bash
# Runs a command on one host or on both, as `srun` does; the status is the largest.
hosts="1 2"
while [[ $1 == --* ]]; do
    [[ $1 == --nodelist=host* ]] && hosts=${1#--nodelist=host}
    shift
done
pids=""
for host in $hosts; do
    mkdir -p "$RAY_TMPDIR"
    ip netns exec host$host unshare -m -p -f --mount-proc --kill-child bash -c '
        mount --bind FOLDER/tmp'$host' "$RAY_TMPDIR"
        exec "$@"' bash "$@" &
    pids="$pids $!"
done
worst=0
for pid in $pids; do wait "$pid" || worst=$?; done
exit $worst
"""
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then echo host1; sleep 0.5; echo host2; else echo "$@" >> FOLDER/scontrol; fi
"""


def lines() -> list[str]:
    return SCRIPT.read_text().splitlines()


def test_every_line_for_slurm_stands_before_the_first_command():
    """Slurm reads no line after it."""
    first = next(i for i, line in enumerate(lines()) if line and not line.startswith("#"))
    marks = [i for i, line in enumerate(lines()) if line.startswith("#SBATCH")]
    assert len(marks) >= 8 and max(marks) < first
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True).returncode == 0


@pytest.mark.cluster
def test_its_options_are_those_of_ray_and_the_token_is_asked_for():
    pytest.importorskip("ray")
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    text = SCRIPT.read_text()
    command = re.search(r"ray symmetric-run (.*?) -- ", text.replace("\\\n", ""), re.DOTALL)
    assert command is not None
    words = {word.partition("=")[0] for word in command[1].split() if word.startswith("--")}
    known = {option for param in (*start.params, *symmetric_run.params) for option in param.opts}
    assert {"--address", "--min-nodes"} <= words <= known
    assert "export RAY_AUTH_MODE=token" in text and "get-auth-token --generate" in text


def setup(folder: Path) -> str:
    """Two hosts on a bridge."""
    return f"""
        {namespaces.two_hosts(folder)}
        {sys.executable} -m ray.scripts.scripts get-auth-token --generate > /dev/null
    """


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if not namespaces.are_allowed():
        pytest.skip(namespaces.WHY_NOT)
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / "bin" / name).write_text(text.replace("FOLDER", str(folder)))
        (folder / "bin" / name).chmod(0o755)
    code = namespaces.copy_of_code(folder)
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "host[1-2]"}
    env = namespaces.clean_environment(
        folder, PATH=path, PYTHONPATH=str(code), PYTHONUNBUFFERED="1", SLURM_CPUS_PER_TASK="1", **job
    )
    del env["RAY_AUTH_MODE"]
    hosts = namespaces.Namespaces(folder, setup(folder), env, cwd=code)
    try:
        hosts.wait_until_ready()
        yield hosts
    finally:
        hosts.kill()


@pytest.mark.cluster
def test_trains_on_two_hosts_stops_before_its_time_is_up_and_continues(slurm, pictures):
    run, options = slurm.folder / "storage" / "run", " ".join(f"'{word}'" for word in small_model())
    workers = "--cluster.num_workers 2 --cluster.cpus_per_worker 1 --train.checkpoint_ticks 1"
    command = f"exec bash {SCRIPT} run config-f {pictures} {options} {workers}"
    pid = slurm.folder / "pid"
    log = slurm.start("first", f"echo $$ > {pid}; {command}")
    slurm.wait_for((run / "checkpoints" / "ckpt-000000000080" / "COMPLETE").exists, 600, while_running="first")
    assert slurm.run("signal", f"kill -USR1 $(cat {pid})")[0] == 0
    slurm.wait_for(lambda: slurm.status("first") is not None, 600)
    said = log.read_text()
    assert slurm.status("first") == 0 and "2 workers on CPU" in said and "Stopped as requested" in said, said
    assert (slurm.folder / "scontrol").read_text().startswith("requeue "), said
    assert not (run / "network-final.safetensors").exists(), "the stop came too late to mean anything"
    status, said = slurm.run("second", command, 900)
    assert status == 0 and (run / "network-final.safetensors").exists(), said
    ticks = [row["Progress/tick"] for row in rows_without_times(run)]
    assert ticks == list(range(len(ticks))), "each tick stands once"
    assert not list((slurm.folder / "home").glob(".stylegan_ray-*"))


@pytest.mark.cluster
def test_a_wrong_option_is_the_status_of_the_job(slurm):
    status, said = slurm.run("wrong", f"exec bash {SCRIPT} run config-f --no.such_key 1", 600)
    assert status == 2 and "unknown option '--no.such_key'" in said, said
