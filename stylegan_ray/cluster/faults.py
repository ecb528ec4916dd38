"""Faults of a run: which errors may pass, what happened in one line, and the file that counts them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
import torch.distributed as dist
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train import UserCallback

from stylegan_ray.cluster.out_of_memory import ADVICE, OUT_OF_MEMORY, describe_kill, is_out_of_memory
from stylegan_ray.distributed import LostPeerError
from stylegan_ray.jsonl import jsonl_line, rows_so_far
from stylegan_ray.run_folder import FAULTS
from stylegan_ray.storage import Storage, one_line

MOST_WITHOUT_PROGRESS = 10
"""Faults in a row without a new checkpoint between them that end a run."""
MOST_OF_MEMORY = 2
"""Deaths for lack of memory without a new checkpoint between them that end a run: the next one would end alike."""
MOST_PER_HOUR = 60
"""Faults within an hour that end a run, whatever progress it makes between them."""
MOST_OF_DEVICES_PER_HOUR = 5
"""The same for errors of a GPU: one that fails so often is broken, or the code asserts on it."""
MOST_SEC_OF_HANG = 120.0
"""How long workers that are ended because they made no progress take to end."""
SEC_OF_ONE_FAULT = 5.0
"""Ray Train repeats the errors of a group of workers until the group has ended; a new group takes longer to start."""


Kind = Literal["lost", "device", "memory", "hang"]
"""Of a fault: a worker, node or link was lost, a GPU failed, memory ran out, or nothing made progress."""


class Terminated(Exception):  # noqa: N818
    """A worker received SIGTERM; its state is saved, where the storage took it in time."""


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: lost workers, nodes, devices or storage; not errors of data or code."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        return is_transient(error.cause)
    if is_out_of_memory(error):
        return False
    return isinstance(error, (RayError, OSError, dist.DistError, LostPeerError, torch.AcceleratorError, Terminated))


def is_echo(error: BaseException) -> bool:
    """Whether an error is the consequence of what happened to another worker."""
    return isinstance(error, (LostPeerError, dist.DistError))


def describe(errors: Mapping[int, BaseException]) -> str:
    """What happened to a group of workers in one line, given the errors by rank: causes rather than consequences."""
    causes = {rank: error for rank, error in errors.items() if _death(error) or isinstance(error, Terminated)}
    causes = causes or {rank: error for rank, error in errors.items() if not is_echo(error)} or dict(errors)
    ranks: dict[str, list[int]] = {}
    for rank, error in sorted(causes.items()):
        ranks.setdefault(_describe_one(error), []).append(rank)
    return "; ".join(f"{_format_workers(of)} {text}" for text, of in ranks.items())


def _format_workers(ranks: Sequence[int]) -> str:
    return f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _death(error: BaseException) -> RayActorError | None:
    """The death of a worker's process, if that is what an error reports."""
    error = getattr(error, "health_check_failure", error)
    return error if isinstance(error, RayActorError) else None


def _describe_one(error: BaseException) -> str:
    """Words of Ray's messages choose the line here, and nothing else."""
    death = _death(error)
    if killed := describe_kill(getattr(error, "health_check_failure", error)):
        return killed
    if death is None:
        if "has been hanging" in str(error):
            return "did not respond any more"
        if is_echo(error):
            return f"lost the others: {one_line(error, 120)}"
        return str(error) if isinstance(error, Terminated) else f"failed: {type(error).__name__}: {one_line(error)}"
    text = str(death)
    pid, ip = (found[1] if (found := re.search(rf"{key}: (\S+)", text)) else "?" for key in ("pid", "ip"))
    if death.preempted:
        return f"went with its node{'' if ip == '?' else f' {ip}'}, which was preempted"
    if "node has died" in text or "node was terminated" in text or "node died" in text:
        return f"died with its node {ip}"
    return f"(process {pid} on {ip}) was killed"


class FaultLog:
    """faults.jsonl in the run's folder, so that the count outlives every process.

    A row for each command that trains the run ("command"), for each group of workers that starts ("start" in images,
    "workers", "oom_kills" by node), for each fault ("fault" and its "kind") and rollback ("rollback", "nimg"), and one
    when no further attempt makes sense ("end", "reason").
    Faults count from the last command on: whoever gives it again wants another try. Rows that the storage does not
    take are written with the next one.
    """

    def __init__(self, run: Storage) -> None:
        self.run = run
        self._waiting: list[dict[str, Any]] = []

    def rows(self) -> list[dict[str, Any]]:
        """The rows since the last command, oldest first."""
        rows = self._waiting
        with suppress(OSError):  # storage that fails for a while
            rows = rows_so_far(self.run, FAULTS) + rows
        commands = [number for number, row in enumerate(rows) if "command" in row]
        return rows[commands[-1] + 1 :] if commands else rows

    def add_command(self, command: str) -> None:
        self._add({"command": command})

    def add_fault(self, text: str, kind: Kind = "lost") -> None:
        """Stores a fault, and the end of the run where it is one too many."""
        self._add({"fault": text, "kind": kind})
        reason = too_many(self.rows(), time.time())
        if reason:
            self.add_end("failed", reason)

    def add_hang(self, text: str) -> None:
        """Stores a fault that is about to end all workers: their deaths within MOST_SEC_OF_HANG add none."""
        self.add_fault(text, "hang")

    def is_ending_hang(self) -> bool:
        """Whether workers that die now do so because they made no progress."""
        hangs = [row["time"] for row in self.rows() if row.get("kind") == "hang"]
        return bool(hangs) and time.time() - hangs[-1] < MOST_SEC_OF_HANG

    def add_rollback(self, text: str, nimg: int) -> None:
        """Stores that the run has gone back to a checkpoint by itself, which is no fault of a machine."""
        self._add({"rollback": text, "nimg": nimg})

    def add_end(self, state: str, reason: str) -> None:
        """Stores that no further attempt makes sense: how the run ends and why."""
        self._add({"end": state, "reason": reason})

    def end(self) -> tuple[str, str] | None:
        """How the run ends and why, if no further attempt makes sense."""
        ends = [row for row in self.rows() if "end" in row]
        return (ends[0]["end"], ends[0]["reason"]) if ends else None

    def add_start(
        self,
        nimg: int,
        num_workers: int,
        description: str,
        reached_kimg: float,
        oom_kills: Mapping[str, int] | None = None,
    ) -> str:
        """Stores that a group of workers starts; returns the message about it, which names the faults before it.

        `oom_kills` says of each node how many processes its kernel has ever killed for memory. Where that grew since
        the group before, those workers died of it.
        """
        for text in deaths_of_memory(self.rows(), oom_kills or {}):
            self.add_fault(text, "memory")
        rows = self.rows()
        starts = [number for number, row in enumerate(rows) if "start" in row]
        faults = [row for row in rows[starts[-1] + 1 if starts else 0 :] if "fault" in row]
        self._add({"start": nimg, "workers": num_workers, "oom_kills": dict(oom_kills or {})})
        if faults:
            texts = "; ".join(dict.fromkeys(row["fault"] for row in faults))
            reached = f"; the run was at {reached_kimg:g} kimg" if reached_kimg else ""
            return f"fault: {texts}{reached}; {description}, {time.time() - faults[0]['time']:.0f} s later"
        if starts and rows[starts[-1]]["workers"] != num_workers:
            return f"the group goes from {rows[starts[-1]]['workers']} to {num_workers} workers; {description}"
        return description

    def _add(self, row: dict[str, Any]) -> None:
        self._waiting.append({"time": time.time(), **row})
        with suppress(OSError):
            rows = rows_so_far(self.run, FAULTS) + self._waiting
            self.run.write(FAULTS, b"".join(map(jsonl_line, rows)))
            self._waiting = []


def too_many(rows: Sequence[Mapping[str, Any]], now: float) -> str | None:
    """Why a run with these rows of faults.jsonl makes no further attempt; None where it does."""
    in_a_row, of_memory, newest = 0, 0, -1
    for row in rows:
        if row.get("start", newest) > newest:
            in_a_row = of_memory = 0
        newest = row.get("start", newest)
        in_a_row += "fault" in row
        of_memory += row.get("kind") == "memory"
    lately = [row for row in rows if "fault" in row and row["time"] > now - 3600]
    of_devices = sum(row.get("kind") == "device" for row in lately)
    bounds = {
        f"{MOST_WITHOUT_PROGRESS} faults in a row without a new checkpoint": in_a_row >= MOST_WITHOUT_PROGRESS,
        f"{MOST_OF_DEVICES_PER_HOUR} errors of a GPU within an hour": of_devices >= MOST_OF_DEVICES_PER_HOUR,
        f"{MOST_PER_HOUR} faults within an hour": len(lately) >= MOST_PER_HOUR,
    }
    last = lately[-1]["fault"] if lately else "unknown"
    if of_memory >= MOST_OF_MEMORY:
        return (
            f"the run ends after {of_memory} deaths for lack of memory at one checkpoint; the last one: {last}. "
            f"{ADVICE}; then the same command continues from the newest checkpoint"
        )
    for bound, is_reached in bounds.items():
        if is_reached:
            return (
                f"the run ends after {bound}; the last one: {last}. Remove its cause, or take its node out; the same "
                f"command continues from the newest checkpoint"
            )
    return None


def deaths_of_memory(rows: Sequence[Mapping[str, Any]], oom_kills: Mapping[str, int]) -> list[str]:
    """What happened to nodes whose kernel has killed processes since the newest start among the rows."""
    before = next((row.get("oom_kills", {}) for row in reversed(rows) if "start" in row), {})
    grown = {node: num - before[node] for node, num in oom_kills.items() if num > before.get(node, num)}
    return [f"node {node} ran out of memory, and its kernel killed {num} processes" for node, num in grown.items()]


def kind_of(errors: Iterable[BaseException], text: str) -> Kind:
    """The kind of what happened to a group of workers, given their errors and its description."""
    if OUT_OF_MEMORY in text:
        return "memory"
    return "device" if any(isinstance(error, torch.AcceleratorError) for error in errors) else "lost"


class FaultCallback(UserCallback):
    """Stores why a group of workers ended; runs in the controller of Ray Train, on the driver's node.

    `group_ended` is called each time.
    """

    def __init__(self, log: FaultLog, group_ended: Callable[[], object] = lambda: None) -> None:
        self.log, self.group_ended = log, group_ended
        self._last, self._seen_at = "", 0.0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        text, now = describe(worker_exceptions), time.monotonic()
        is_new = text != self._last or now - self._seen_at > SEC_OF_ONE_FAULT
        self._last, self._seen_at = text, now
        self.group_ended()
        if is_new and not self.log.is_ending_hang():
            self.log.add_fault(text, kind_of(worker_exceptions.values(), text))
