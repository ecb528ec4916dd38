"""What follows from the facts of a machine: for each subject a line, and a way out where something is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stylegan_ray.machine.disks import NO_ANSWER, Disk
from stylegan_ray.machine.facts import Facts
from stylegan_ray.machine.memory import gib
from stylegan_ray.machine.network import PORTS

Level = Literal["OK", "warning", "problem"]
"""A problem prevents training; a warning costs time, room or safety."""
MEMORY_FOR_TRAINING = 3 << 30
"""Available memory below which a warning is given: Ray's processes, a worker and the stream of reals share it."""
STORE_SHARE = 0.3
"""Share of a machine's memory that Ray's object store takes, where nobody chose."""
FREE_FOR_RUNS = 5 << 30
"""Room for some checkpoints of networks of 1024 pixels."""
RAY_FULL = 0.95
"""Share of the disk of Ray's folder from which on Ray refuses to put objects there."""
SLOW_MB_S = 20.0
MOST_SKEW_SEC = 2.0
FEW_OPEN_FILES = 1024
GCS = ("gcs_server", "ray")
VANISHING = {"overlay": "the container", "aufs": "the container", "tmpfs": "the machine's next start"}
"""File systems, and with what their files go."""
INSTALL_GPU_TORCH = "install a build of torch for its CUDA (https://pytorch.org/get-started)"


@dataclass(frozen=True)
class Finding:
    """A line about one subject."""

    level: Level
    subject: str
    text: str
    way_out: str = ""


def findings(facts: Facts) -> list[Finding]:
    """The findings about a machine, in the order in which a training needs things."""
    return [finding for about in ABOUT for finding in [about(facts)] if finding is not None]


def about_software(facts: Facts) -> Finding:
    versions = ", ".join(f"{name} {version}" for name, version in facts.software.items() if name in SHOWN)
    text = f"python {facts.python}, {versions}"
    if facts.unmet:
        way_out = "pip install -c constraints.txt . in the repository, or pip install --upgrade stylegan-ray"
        return Finding("problem", "software", f"{', '.join(facts.unmet)}; {text}", way_out)
    return Finding("OK", "software", text)


SHOWN = ("torch", "ray", "numpy", "pillow", "pyarrow")


def about_extras(facts: Facts) -> Finding | None:
    if not facts.extras:
        return None
    there = [name for name, is_met in facts.extras.items() if is_met]
    missing = [name for name in facts.extras if name not in there]
    text = f"installed: {', '.join(there) or 'none'}"
    more = f"; pip install 'stylegan-ray[...]' adds {', '.join(missing)}" if missing else ""
    return Finding("OK", "extras", text + more)


def about_processor(facts: Facts) -> Finding:
    has = facts.processor
    text = f"{has.usable} of {has.cores} cores of {has.model}"
    if has.limit is not None and has.limit < has.usable:
        cores = max(math.floor(has.limit), 1)
        way_out = (
            f"let it see as many as it gets: taskset -c 0-{cores - 1} stylegan-ray ..., or docker run --cpuset-cpus "
            f"instead of --cpus; or give it more"
        )
        return Finding(
            "warning", "processor", f"{text}, whose time is limited to that of {has.limit:g} (control group)", way_out
        )
    return Finding("OK", "processor", text)


def about_instructions(facts: Facts) -> Finding:
    has = facts.processor.instructions
    if not {"AVX2", "SVE"} & set(has) and "x86_64" in facts.system:
        return Finding("warning", "instructions", "no AVX2: training is many times slower", "use another machine")
    text = ", ".join(has) or "none that this command knows"
    pays = "bfloat16 networks (--model.num_lowp_res) are fast on the CPU"
    return Finding("OK", "instructions", f"{text}; {pays}" if "bfloat16" in has else f"{text}; float32 only is fast")


def about_gpus(facts: Facts) -> Finding:
    has = facts.gpus
    if not has.devices and has.problem.startswith("torch cannot"):
        return Finding("problem", "GPUs", has.problem, "pip install --force-reinstall torch, in a new environment")
    if has.devices:
        kinds = ", ".join(f"{gpu.name} {gib(gpu.total)} (capability {gpu.capability})" for gpu in has.devices)
        return Finding("OK", "GPUs", f"{len(has.devices)}: {kinds}; torch for CUDA {has.built_for}")
    if not has.hardware:
        return Finding("OK", "GPUs", "none: training runs on the CPU")
    there = f"{has.hardware} of NVIDIA on the bus"
    if has.built_for is None:
        return Finding("warning", "GPUs", f"{there}, but torch is a build for CPUs", INSTALL_GPU_TORCH)
    why = f" ({has.problem})" if has.problem else ""
    way_out = f"see whether nvidia-smi works; docker run --gpus all; or {INSTALL_GPU_TORCH}"
    return Finding("warning", "GPUs", f"{there}, but torch for CUDA {has.built_for} sees none{why}", way_out)


def about_sum(facts: Facts) -> Finding | None:
    has = facts.gpus
    if len(has.devices) < 2:
        return None
    if has.sum_gb_s is not None:
        return Finding("OK", "NCCL", f"all-reduce over the GPUs of this machine: {has.sum_gb_s:g} GB/s")
    if has.sum_said.startswith("not tried"):
        return Finding("OK", "NCCL", f"all-reduce {has.sum_said}")
    way_out = "see NCCL_DEBUG=INFO; NCCL_P2P_DISABLE=1 where GPUs of a virtual machine cannot reach each other"
    return Finding("problem", "NCCL", f"all-reduce over the GPUs of this machine: {has.sum_said}", way_out)


def about_memory(facts: Facts) -> Finding:
    available = facts.memory_available
    text = gib(facts.memory) + (f", {gib(available)} available" if available is not None else "")
    if min(facts.memory, facts.memory if available is None else available) < MEMORY_FOR_TRAINING:
        way_out = "end other programs, or raise the limit of the container; train ... --dry-run tells the need"
        return Finding(
            "warning",
            "memory",
            f"{text}; less than {gib(MEMORY_FOR_TRAINING)} is little for Ray and training",
            way_out,
        )
    return Finding("OK", "memory", f"{text}; stylegan-ray train ... --dry-run says what training needs")


def about_shared_memory(facts: Facts) -> Finding:
    if facts.shared_memory is None:
        return Finding("OK", "shared memory", "this system has no /dev/shm; Ray uses files")
    text, wanted = f"{gib(facts.shared_memory)} in /dev/shm", STORE_SHARE * facts.memory
    if facts.shared_memory < wanted:
        size = math.ceil(wanted / 2**30)
        way_out = f"docker run --shm-size={size}g, or a memory volume on Kubernetes (rayjob.yaml)"
        why = f"less than the {gib(wanted)} of Ray's object store, which will be on disk"
        return Finding("warning", "shared memory", f"{text}: {why}", way_out)
    return Finding("OK", "shared memory", text)


def about_open_files(facts: Facts) -> Finding:
    text = f"{facts.open_files} for each process" if facts.open_files >= 0 else "without a limit"
    if 0 <= facts.open_files < FEW_OPEN_FILES:
        return Finding("warning", "open files", text, "ulimit -n 65536, or docker run --ulimit nofile=65536:65536")
    return Finding("OK", "open files", text)


def about_network(facts: Facts) -> Finding:
    others = {name: address for name, address in facts.interfaces.items() if not address.startswith("127.")}
    text = ", ".join(f"{name} {address}" for name, address in others.items())
    return Finding("OK", "network", text or "loopback only: no other machine can be reached")


def about_ports(facts: Facts) -> Finding:
    taken = {port: by for port, by in facts.taken_ports.items() if not by.startswith(GCS)}
    heads = [port for port, by in facts.taken_ports.items() if by.startswith(GCS[0])]
    free = ", ".join(str(port) for port in PORTS if port not in facts.taken_ports)
    head = f"a Ray head runs here (--cluster.address auto joins it, port {heads[0]}); " if heads else ""
    text = f"{head}free: {free or 'none of ' + ', '.join(map(str, PORTS))}"
    if not taken:
        return Finding("OK", "ports", text)
    said = ", ".join(f"{port} is taken by {by}" for port, by in taken.items())
    options = ", ".join(f"{PORTS[port]}={port + 1}" for port in taken)
    return Finding(
        "warning", "ports", f"{said}; {text}", f"choose others where a cluster or page needs them: {options}"
    )


def about_token(facts: Facts) -> Finding:
    token = facts.token
    if token.mode is not None and token.mode.lower() != "token":
        way_out = "unset RAY_AUTH_MODE, or RAY_AUTH_MODE=token"
        return Finding("warning", "token", f"RAY_AUTH_MODE={token.mode}: who reaches Ray can run code", way_out)
    if not token.is_private:
        way_out = f"chmod 600 {token.source}"
        return Finding("warning", "token", f"other users of this machine can read {token.source}", way_out)
    if token.source is not None:
        rest = "" if token.mode else "; other nodes and ray job submit need RAY_AUTH_MODE=token, too"
        return Finding("OK", "token", f"Ray takes it from {token.source}{rest}")
    if token.mode is not None:
        way_out = "ray get-auth-token --generate"
        return Finding("warning", "token", "RAY_AUTH_MODE=token, but there is no token to join a cluster with", way_out)
    return Finding(
        "OK", "token", "none stored: a training here makes its own; for a cluster: ray get-auth-token --generate"
    )


def about_temporary(facts: Facts) -> Finding:
    disk = facts.temporary
    if disk.problem:
        return Finding("problem", "Ray's folder", f"{disk.address}: {disk.problem}", "name another with RAY_TMPDIR")
    assert disk.free is not None and disk.total is not None
    text = f"{disk.address} has {gib(disk.free)} free of {gib(disk.total)}"
    if disk.free < (1 - RAY_FULL) * disk.total:
        why = f"Ray puts nothing on a disk that is {RAY_FULL:.0%} full"
        return Finding(
            "problem", "Ray's folder", f"{text}; {why}", "delete files there, or name another with RAY_TMPDIR"
        )
    return Finding("OK", "Ray's folder", text)


def about_storage(facts: Facts) -> Finding:
    disk, other = facts.storage, "--run.storage or STYLEGAN_RAY_STORAGE names another"
    where = f"{disk.address} ({disk.kind})" if disk.kind else disk.address
    if disk.problem.startswith(NO_ANSWER):
        way_out = f"see whether its server is reached and works: ls and df there wait, too; {other}"
        return Finding("problem", "storage", f"{where}: {disk.problem}", way_out)
    if disk.problem:
        return Finding("problem", "storage", f"{where}: {disk.problem}", f"give this user the right to write; {other}")
    text = f"{where}: writes {disk.write_mb_s:g} MB/s, reads {disk.read_mb_s:g} MB/s{_room(disk)}"
    if disk.free is not None and disk.free < FREE_FOR_RUNS:
        return Finding("warning", "storage", f"{text}: some checkpoints may not fit", f"delete old runs; {other}")
    if disk.clock_sec is not None and abs(disk.clock_sec) > MOST_SKEW_SEC:
        way_out = "let both keep time by NTP (chrony, systemd-timesyncd)"
        return Finding("warning", "storage", f"{text}; its clock is {disk.clock_sec:+g} s off this machine's", way_out)
    if min(disk.write_mb_s or 0, disk.read_mb_s or 0) < SLOW_MB_S:
        return Finding("warning", "storage", f"{text}: checkpoints will take long", other)
    if facts.in_container and disk.kind in VANISHING:
        way_out = f"mount a volume (docker run -v /data/runs:/runs); {other}"
        return Finding("warning", "storage", f"{text}: runs are lost with {VANISHING[disk.kind]}", way_out)
    return Finding("OK", "storage", text)


def _room(disk: Disk) -> str:
    return "" if disk.free is None else f", {gib(disk.free)} free"


ABOUT: Sequence[Callable[[Facts], Finding | None]] = (
    about_software, about_processor, about_instructions, about_gpus, about_sum, about_memory, about_shared_memory,
    about_open_files, about_temporary, about_storage, about_network, about_ports, about_token, about_extras,
)  # fmt: skip


def worst(found: Sequence[Finding]) -> Level:
    """The worst level among findings."""
    levels: list[Level] = ["OK", *(finding.level for finding in found)]
    return max(levels, key=("OK", "warning", "problem").index)


def format_findings(found: Sequence[Finding]) -> str:
    """A line for each finding, and another one for its way out."""
    width = max((len(finding.subject) for finding in found), default=0)
    lines = []
    for finding in found:
        lines.append(f"{finding.level:8s} {finding.subject:{width}s}  {finding.text}")
        if finding.way_out:
            lines.append(f"{'':8s} {'':{width}s}  -> {finding.way_out}")
    return "\n".join(lines)


def verdict(found: Sequence[Finding], what: str) -> str:
    """The last line: whether something prevents training."""
    num = {level: sum(finding.level == level for finding in found) for level in ("problem", "warning")}
    counts = ", ".join(f"{count} {level}{'s' * (count > 1)}" for level, count in num.items() if count)
    if num["problem"]:
        return f"{counts}: something prevents training on {what}"
    return f"Nothing prevents training on {what}" + (f"; {counts}" if counts else "")
