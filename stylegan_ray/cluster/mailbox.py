"""Messages between the driver and rank 0: what the run says, and whether it should stop."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.exceptions import RayError

SAY, TICK, FAIL, BEGIN = "say", "tick", "fail", "begin"


@ray.remote(num_cpus=0, max_restarts=-1)
class Mailbox:
    """Lives as long as the driver."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self.stopping = False

    def post(self, kind: str, content: Any) -> None:
        self.items.append((kind, content))

    def take(self) -> list[tuple[str, Any]]:
        """What was posted since the last call."""
        items, self.items = self.items, []
        return items

    def stop(self) -> None:
        """Asks the run to save and stop."""
        self.stopping = True

    def is_stopping(self) -> bool:
        return self.stopping


class Line:
    """The worker's end: posting never waits for the driver, and goes on when the driver is gone."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox
        self.question: ray.ObjectRef | None = None

    def post(self, kind: str, content: Any) -> None:
        self.mailbox.post.remote(kind, content)

    def post_and_wait(self, kind: str, content: Any) -> None:
        """For last words: returns when the driver can read them, or after ten seconds."""
        try:
            ray.get(self.mailbox.post.remote(kind, content), timeout=10)
        except RayError:
            pass  # a dead driver reads nothing

    def is_stopping(self) -> bool:
        """What the driver answered to the question asked the last time."""
        answer = False
        if self.question is not None:
            ready, _ = ray.wait([self.question], timeout=0)
            if not ready:
                return False
            try:
                answer = ray.get(self.question)
            except RayError:
                answer = False
        self.question = self.mailbox.is_stopping.remote()
        return answer


class LogToDriver(logging.Handler):
    """Sends what this package logs in a worker to the driver."""

    def __init__(self, line: Line) -> None:
        super().__init__(logging.WARNING)
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        self.line.post(SAY, f"{record.levelname.lower()}: {record.getMessage()}")
