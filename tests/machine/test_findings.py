"""From facts to findings: each mistake of a machine has a line and a way out, and a good one has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stylegan_ray.machine.disks import Disk
from stylegan_ray.machine.facts import Facts, Token
from stylegan_ray.machine.findings import findings, format_findings, verdict, worst
from stylegan_ray.machine.gpus import Gpu, Gpus
from stylegan_ray.machine.processor import Processor, instructions

GIB = 1 << 30
STORAGE = Disk("/shared/runs", "nfs4", 300.0, 500.0, 900 * GIB, 1000 * GIB, 0.0)
CPU = Processor("Xeon", 64, 8, None, ("AVX2", "AVX-512", "bfloat16"))
GOOD = Facts(
    host="node", system="Linux 6.1 x86_64", package="0.1.0", python="3.11.9", software={"torch": "2.13.0"}, unmet=[],
    extras={"video": True, "serve": False}, processor=CPU, gpus=Gpus(), memory=64 * GIB, memory_available=60 * GIB,
    shared_memory=32 * GIB, open_files=65536, interfaces={"lo": "127.0.0.1", "eth0": "10.0.0.2"}, taken_ports={},
    token=Token(None, None), storage=STORAGE, temporary=Disk("/tmp", "ext4", free=50 * GIB, total=100 * GIB),
    in_container=False,
)  # fmt: skip
H200 = Gpu("H200", 139 * GIB, 138 * GIB, "9.0")


def test_a_good_machine_has_only_good_lines():
    found = findings(GOOD)
    assert worst(found) == "OK" and not [finding.way_out for finding in found if finding.way_out]
    assert verdict(found, "this machine") == "Nothing prevents training on this machine"
    assert "installed: video" in format_findings(found) and "serve" in format_findings(found)


CASES = [
    ({"unmet": ["torch 2.8.0 (needs <3,>=2.11)"]}, "problem", "software", ["torch 2.8.0", ">=2.11", "pip install"]),
    ({"processor": replace(CPU, limit=2.0)}, "warning", "processor", ["8 of 64", "2", "taskset -c 0-1", "--cpuset"]),
    ({"processor": replace(CPU, limit=0.5)}, "warning", "processor", ["0.5", "taskset -c 0-0"]),
    ({"processor": replace(CPU, instructions=())}, "warning", "instructions", ["no AVX2"]),
    ({"gpus": Gpus(hardware=2)}, "warning", "GPUs", ["2 of NVIDIA", "build for CPUs", "pytorch.org"]),
    ({"gpus": Gpus((), "13.0", 1, "no driver")}, "warning", "GPUs", ["no driver", "nvidia-smi", "--gpus all"]),
    ({"gpus": Gpus(problem="torch cannot be imported: x")}, "problem", "GPUs", ["imported: x", "reinstall"]),
    ({"gpus": Gpus((H200, H200), "13.0", 2, sum_said="it failed: y")}, "problem", "NCCL", ["failed: y", "NCCL_DEBUG"]),
    ({"memory": 2 * GIB}, "warning", "memory", ["2.0 GiB", "3.0 GiB", "--dry-run"]),
    ({"memory_available": 0}, "warning", "memory", ["0 MiB available", "end other programs"]),
    ({"memory_available": GIB}, "warning", "memory", ["1.0 GiB available", "end other programs"]),
    ({"shared_memory": 64 << 20}, "warning", "shared memory", ["64 MiB", "--shm-size=20g"]),
    ({"open_files": 256}, "warning", "open files", ["256", "ulimit -n 65536"]),
    ({"taken_ports": {6379: "redis-server (process 7)"}}, "warning", "ports", ["redis-server", "--port=6380"]),
    ({"token": Token("disabled", None)}, "warning", "token", ["RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token"]),
    ({"token": Token("token", None)}, "warning", "token", ["no token", "get-auth-token --generate"]),
    ({"token": Token(None, "/home/a/.ray/auth_token", False)}, "warning", "token", ["chmod 600 /home/a"]),
    ({"temporary": replace(GOOD.temporary, free=4 * GIB)}, "problem", "Ray's folder", ["95%", "RAY_TMPDIR"]),
    ({"temporary": Disk("/no", problem="not there")}, "problem", "Ray's folder", ["/no: not there", "RAY_TMPDIR"]),
    ({"storage": Disk("/runs", problem="read-only")}, "problem", "storage", ["/runs", "read-only", "--run.storage"]),
    ({"storage": Disk("/runs", problem="does not answer within 10 s")}, "problem", "storage", ["its server", "df"]),
    ({"storage": replace(STORAGE, free=GIB)}, "warning", "storage", ["1.0 GiB free", "delete old runs"]),
    ({"storage": replace(STORAGE, write_mb_s=3.0)}, "warning", "storage", ["writes 3 MB/s", "checkpoints"]),
    ({"storage": replace(STORAGE, clock_sec=-90.0)}, "warning", "storage", ["-90 s", "NTP"]),
    ({"storage": replace(STORAGE, kind="overlay"), "in_container": True}, "warning", "storage", ["lost", "-v /data"]),
]


@pytest.mark.parametrize(("change", "level", "subject", "words"), CASES)
def test_what_is_wrong_has_a_line_and_a_way_out(change, level, subject, words):
    found = findings(replace(GOOD, **change))
    (wrong,) = (finding for finding in found if finding.level != "OK")
    assert (wrong.level, wrong.subject) == (level, subject)
    said = format_findings([wrong])
    assert wrong.way_out and all(word in said for word in words), said
    assert verdict(found, "it").startswith(f"1 {level}: " if level == "problem" else "Nothing prevents")


def test_what_is_no_mistake_is_told():
    def line(subject, **change):
        (finding,) = (finding for finding in findings(replace(GOOD, **change)) if finding.subject == subject)
        assert finding.level == "OK"
        return finding.text

    assert "a Ray head runs here" in line("ports", taken_ports={6379: "gcs_server (process 7)"})
    assert "1: H200 139.0 GiB (capability 9.0)" in line("GPUs", gpus=Gpus((H200,), "13.0", 1))
    assert "12.5 GB/s" in line("NCCL", gpus=Gpus((H200, H200), "13.0", 2, sum_gb_s=12.5))
    assert "s3://b (s3): writes 300 MB/s" in line("storage", storage=Disk("s3://b", "s3", 300.0, 40.0))
    assert "RAY_AUTH_MODE=token" in line("token", token=Token(None, "/home/a/.ray/auth_token"))


def test_flags_of_processors():
    assert instructions(["avx2", "avx512f", "avx512_bf16", "amx_tile"]) == ("AVX2", "AVX-512", "bfloat16", "AMX")
    assert instructions(["asimd", "sve", "bf16"]) == ("bfloat16", "SVE")
    assert instructions(["sse4_2"]) == ()
