"""Supervises the attempts of a run: shows what its workers send, passes on a stop request, restarts Ray Train."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.train import WorkerGroupError
from ray.util.placement_group import remove_placement_group

from stylegan_ray.cluster.channel import ENDED, GROUP, MESSAGE, METRIC, TICK, open_channel
from stylegan_ray.cluster.faults import FaultLog
from stylegan_ray.cluster.hangs import HangGuard
from stylegan_ray.cluster.out_of_memory import describe_kill
from stylegan_ray.cluster.signals import STOP_SEC
from stylegan_ray.config import ClusterConfig
from stylegan_ray.run_folder import STOP, is_asked_to_stop
from stylegan_ray.storage import Storage, one_line

PAUSES_SEC = (1.0, 5.0, 15.0, 30.0, 60.0)
"""Before Ray Train is restarted after a failure that it does not retry itself; the last one repeats."""
IMPORT_ERROR = re.compile(r"^\s*(?:ImportError|ModuleNotFoundError|SyntaxError): .*", re.MULTILINE)
"""The last line of a traceback that Ray passes on as text."""
LOOK_SEC = 0.5
"""How often the channel is read and a stop request is looked for."""


class View(Protocol):
    """Shows what a run does."""

    def tick(self, row: Mapping[str, Any], /) -> None:
        """The row of a tick."""

    def metric(self, values: Mapping[str, Any], /) -> None:
        """Values of metrics under Metrics/<name>, with Progress/tick and Progress/kimg."""

    def message(self, text: str) -> None:
        """Lines of text."""

    def refresh(self) -> None:
        """Runs twice a second."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: Literal["done", "stopped", "diverged", "failed"]
    reason: str = ""
    """Why, for a run that diverged or failed."""


class Attempt(threading.Thread):
    """One call of Ray Train's fit(), in a thread of its own: on the main thread it would replace the SIGINT handler."""

    def __init__(self, fit: Callable[[], Outcome]) -> None:
        super().__init__(daemon=True, name="fit")
        self.fit = fit
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.outcome = self.fit()
        except BaseException as error:
            self.error = error


def import_error(error: BaseException | None) -> str | None:
    """The message of an error of an import, which each attempt would meet again; None for other errors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, (ImportError, SyntaxError)):
            return one_line(error, 500)
        if isinstance(error, (RayError, WorkerGroupError)) and (match := IMPORT_ERROR.search(str(error))):
            return one_line(match[0], 500)
        failures = getattr(error, "worker_failures", {}).values()
        causes = [*failures, getattr(error, "controller_failure", None), getattr(error, "cause", None), error.__cause__]
        error = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    return None


class Supervisor:
    """Makes attempts until one ends the run. Works in a driver and in an actor, in any thread.

    Ray Train restarts its workers by itself. What it gives up on (its controller died, a storage that does not let it
    begin) is tried again here, until faults.jsonl says that it makes no sense any more.
    """

    def __init__(
        self,
        run: Storage,
        faults: FaultLog,
        view: View,
        stop_requested: Callable[[], bool],
        cluster: ClusterConfig,
        most_failures: int = -1,
    ) -> None:
        self.run, self.faults, self.view, self.stop_requested = run, faults, view, stop_requested
        self.most_failures = most_failures
        """Attempts that may fail before the run does; -1: any number, which leaves the decision to `faults`."""
        self.channel = open_channel()
        self.hangs = HangGuard(cluster, self.channel, run, faults)
        self.group: Any = None
        """Placement group of the workers, as rank 0 tells it."""
        self._stop_written = False
        self._look_for_stop_at = -math.inf
        self._trains = False
        """Whether there are workers that have begun to train."""

    def outcome_of(self, fit: Callable[[], Outcome]) -> Outcome:
        """Calls `fit`, again where it fails for a reason that may pass; returns how the run ended."""
        num_failed = 0
        while True:
            self._free_group()
            attempt, self._trains = Attempt(fit), False
            attempt.start()
            lost = self._watch(attempt)
            if lost is not None:
                return lost
            if attempt.error is None:
                return attempt.outcome or Outcome("failed", "Ray Train ended without a result")
            if ended := self._end_after(attempt.error):
                return ended
            if num_failed == self.most_failures:
                return Outcome("failed", one_line(attempt.error))
            self._pause(PAUSES_SEC[min(num_failed, len(PAUSES_SEC) - 1)])
            num_failed += 1

    def _pause(self, seconds: float) -> None:
        """Waits before the next attempt, or until a stop is requested."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not self.stop_requested():
            self.view.refresh()
            time.sleep(LOOK_SEC)

    def _end_after(self, error: BaseException) -> Outcome | None:
        """How the run ends after Ray Train gave up with an error; None for another attempt."""
        if end := self.faults.end():
            return Outcome(*end)  # type: ignore[arg-type]
        if text := import_error(error):
            return Outcome("failed", f"the workers cannot import what they need: {text}")
        if isinstance(error, WorkerGroupError):  # the workers failed more often than cluster.max_failures allows
            return Outcome("failed", str(error))
        if self.stop_requested():
            return Outcome("stopped")
        killed = describe_kill(error)
        text = f"Ray Train ended: {killed or one_line(getattr(error, 'cause', None) or error)}"
        self.faults.add_fault(text, "memory" if killed else "lost")
        end = self.faults.end()
        return Outcome(*end) if end else None  # type: ignore[arg-type]

    def _free_group(self) -> None:
        """Frees what the workers reserved: where their controller died, Ray keeps it until this job ends."""
        if self.group is not None:
            with suppress(RayError, ValueError):
                remove_placement_group(self.group)
        self.group = None

    def _watch(self, attempt: Attempt) -> Outcome | None:
        """Shows what the workers send until the attempt ends; an outcome where the cluster is lost."""
        while True:
            is_alive = attempt.is_alive()
            try:
                items = ray.get(self.channel.take.remote())
            except ActorUnavailableError:
                items = []  # its process died and restarts
            except RayError as error:
                reason = f"the Ray cluster no longer responds: {one_line(error)}; the same command continues"
                return Outcome("failed", reason)
            for kind, content in items:
                self._show(kind, content)
            if not is_alive:
                return None
            if not self._trains and (self.stop_requested() or self._stop_file_is_there()):
                return Outcome("stopped")  # there is nothing to save while no workers are up
            self._pass_on_stop()
            if text := self._look_for_hang():
                self.view.message(text)
            self.view.refresh()
            attempt.join(LOOK_SEC)

    def _look_for_hang(self) -> str | None:
        with suppress(RayError):  # what is lost is found out by the next look at the channel
            return self.hangs.look()

    def _show(self, kind: str, content: Any) -> None:
        if kind == TICK:
            self.view.tick(content)
        elif kind == METRIC:
            self.view.metric(content)
        elif kind == MESSAGE:
            self.view.message(content)
        elif kind == GROUP:
            self.group, self._trains = content, True
        elif kind == ENDED:
            self._trains = False

    def _stop_file_is_there(self) -> bool:
        """Whether somebody has written the STOP file, for which workers look where there are any."""
        now = time.monotonic()
        if now < self._look_for_stop_at:
            return False
        self._look_for_stop_at = now + STOP_SEC
        return is_asked_to_stop(self.run)

    def _pass_on_stop(self) -> None:
        """Writes the STOP file that the workers look for, again where the storage fails."""
        if not self._stop_written and self.stop_requested():
            with suppress(OSError):
                self.run.write(STOP, b"")
                self._stop_written = True
