"""The actor of a run: its messages between the driver and rank 0, and the controller of its workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stylegan_ray.cluster.logbook import Logbook

SAY, TICK, METRIC, FAIL = "say", "tick", "metric", "fail"
"""What rank 0 posts: words for a person, a tick's row, values of metrics (Metrics/<name>, Progress/...), the end."""
MOST_FAULTS = 10
"""In a row, without a new checkpoint between them: then the run ends."""
LOOK_SEC = 0.25
FIT = "fit"


class Mailbox:
    """Lives on the driver's node and as long as the driver; one process, because each costs time and memory."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self.log: list[str] = []
        self.num_logged = 0
        """Lines that stand in log.txt and are here no more."""
        self.book = Logbook()
        self.stopping = False

    @ray.method(concurrency_group=FIT)
    def fit(self, work: Callable[[], Any], environment: Mapping[str, str]) -> Any:
        """Does long work beside the messages: leads the workers, with what the driver's environment says of them."""
        os.environ.update(environment)
        return work()

    def post(self, kind: str, content: Any) -> None:
        self.items.append((kind, content))
        if kind == TICK:
            self.book.kimg = content["Progress/kimg"]
        elif kind != METRIC:
            self.log.append(content)

    def take(self) -> list[tuple[str, Any]]:
        """What was posted since the last call."""
        items, self.items = self.items, []
        return items

    def fault(self, text: str) -> None:
        """Something has ended the group of workers; one that repeats without progress ends the run."""
        if self.book.fault(text) and self.book.num_without_progress >= MOST_FAULTS:
            what = f"{MOST_FAULTS} faults in a row without a new checkpoint between them, the last one: {text}"
            self.post(FAIL, f"{what}; the same command tries again from the newest checkpoint")

    def begins(self, nimg: int, came_from: str, num_workers: int) -> None:
        """A group of workers begins to train."""
        self.post(SAY, self.book.begins(nimg, came_from, num_workers))

    def stop(self) -> None:
        """Asks the run to save and stop."""
        self.stopping = True

    def news(self, num_logged: int) -> tuple[bool, int, list[str]]:
        """For rank 0, which has so many lines in log.txt: whether to stop, number of the first line here, the lines."""
        done = max(num_logged - self.num_logged, 0)
        self.log, self.num_logged = self.log[done:], self.num_logged + done
        return self.stopping, self.num_logged, self.log


def mailbox_here() -> Any:
    """A mailbox on this node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"max_restarts": -1, "concurrency_groups": {FIT: 1}, "scheduling_strategy": here}
    return ray.remote(num_cpus=0, **options)(Mailbox).remote()


class Line:
    """The worker's end: posting never waits for the driver, and goes on when the driver is gone."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox
        self.is_stopping = False
        self._log: list[str] = []
        self._num_heard = self._num_logged = 0
        self._question: ray.ObjectRef | None = None
        self._asked_at = 0.0

    def post(self, kind: str, content: Any) -> None:
        self.mailbox.post.remote(kind, content)

    def say(self, text: str) -> None:
        self.post(SAY, text)

    def post_and_wait(self, kind: str, content: Any) -> None:
        """For last words: returns when the driver can read them, or after ten seconds."""
        try:
            ray.get(self.mailbox.post.remote(kind, content), timeout=10)
        except RayError:
            pass  # a dead driver reads nothing

    def begins(self, nimg: int, came_from: str, num_workers: int) -> None:
        """Rank 0 says where its group begins."""
        self.mailbox.begins.remote(nimg, came_from, num_workers)

    def look(self) -> None:
        """Reads the answer to the last question, if it is there, and asks again; a few times a second at most."""
        if self._question is not None:
            ready, _ = ray.wait([self._question], timeout=0)
            if not ready:
                return
            self._read()
        if time.monotonic() - self._asked_at >= LOOK_SEC:
            self._ask()

    def log(self, wait: bool = False) -> list[str]:
        """Lines for log.txt that have come in; all that were said before, when asked to wait."""
        for _ in range(2 if wait else 0):
            if self._question is None:
                self._ask()
            self._read(timeout=10)
        log, self._log, self._num_logged = self._log, [], self._num_heard
        return log

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        self._question = self.mailbox.news.remote(self._num_logged)

    def _read(self, timeout: float | None = None) -> None:
        assert self._question is not None, "ask first"
        try:
            self.is_stopping, first, log = ray.get(self._question, timeout=timeout)
            self._log += log[max(self._num_heard - first, 0) :]
            self._num_heard = first + len(log)
        except RayError:
            pass  # asked again soon
        self._question = None


class LogToDriver(logging.Handler):
    """Sends what this package logs in a worker to the driver."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.WARNING)
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.line.say(text if text.startswith("fault: ") else f"{record.levelname.lower()}: {text}")
