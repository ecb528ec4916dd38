"""The channel of a run: an actor that carries messages, ticks and metrics from its workers to whoever drives it.

Everything that must survive is stored in the run's folder: the stop request (STOP), the faults (faults.jsonl), rows and
messages (stats.jsonl, metrics.jsonl, log.txt). An actor that dies loses at most what the console has not shown yet,
and messages of a group of workers that died with them before they were in log.txt.
Imports no torch, so that its process starts quickly.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from stylegan_ray.cluster.pinned import on_node

MESSAGE, TICK, METRIC, GROUP, ENDED = "message", "tick", "metric", "group", "ended"
"""What is posted: a message, the row of a tick, values of metrics, the placement group of workers, their end."""

RECOVER_SEC = 10.0
"""How long a worker that starts waits for the messages of those before it."""


class DecodingProcess(NamedTuple):
    """A process that decodes images."""

    pid: int
    started: int | None
    """When it started, in ticks of the system, which tells it from a later process with the same id."""
    position: int
    """The sample position that it decodes from."""


@dataclass(frozen=True)
class Beat:
    """What a worker does, as a thread of it says every few seconds."""

    rank: int
    node_id: str
    address: str
    pid: int
    started: int | None
    """When its process started, in ticks of the system."""
    nimg: int
    """Images shown."""
    trains: bool
    """Whether its training loop runs; false at its start and while metrics, images or compiled code are made."""
    part: str | None
    """The part of the training step that runs, as in Timing/share."""
    num_parts: int
    """How many parts have begun."""
    waits_in: str | None
    """The function of `distributed` in which it waits for the other workers."""
    decoders: tuple[DecodingProcess, ...]
    """What decodes for it, where it waits for images."""

    @property
    def process(self) -> tuple[str, int, int | None]:
        """What tells its process from all others."""
        return self.node_id, self.pid, self.started


class Channel:
    """Keeps what was posted until the driver takes it, messages until they are in log.txt, and the newest beats."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self.messages: list[str] = []
        self.newest: dict[int, tuple[Beat, float]] = {}
        self.ending: dict[tuple[str, int, int | None], str] = {}

    def beat(self, beat: Beat) -> str | None:
        """Stores a heartbeat; returns the folder for its stacks if this worker must exit, else None."""
        known = self.newest.get(beat.rank)
        if known is not None and known[0].process != beat.process:
            self.forget_beats()  # a new group of workers
        self.newest[beat.rank] = beat, time.monotonic()
        return self.ending.get(beat.process)

    def beats(self) -> list[tuple[Beat, float]]:
        """What each worker said last, and how many seconds ago."""
        now = time.monotonic()
        return [(beat, now - at) for _, (beat, at) in sorted(self.newest.items())]

    def end_workers(self, folder: str) -> None:
        """Makes these workers, and none that come after them, store their stacks in a folder of the run and end."""
        self.ending = {beat.process: folder for beat, _ in self.newest.values()}

    def end_group(self) -> None:
        """A group of workers has ended, and another one may take long to start."""
        self.forget_beats()
        self.post(ENDED, None)

    def forget_beats(self) -> None:
        """Drops the heartbeats of workers that have exited."""
        self.newest = {}

    def post(self, kind: str, content: Any) -> None:
        self.items.append((kind, content))
        if kind == MESSAGE:
            self.messages.append(content)

    def unlogged(self) -> list[str]:
        """Messages that are not in log.txt yet."""
        return self.messages

    def note_logged(self, messages: list[str]) -> None:
        """These messages are in log.txt."""
        for message in messages:
            if message in self.messages:
                self.messages.remove(message)

    def take(self) -> list[tuple[str, Any]]:
        """What was posted since the last call, oldest first."""
        items, self.items = self.items, []
        return items


def open_channel() -> Any:
    """Handle of a new channel on this node, which lives as long as this process; its process restarts when it dies."""
    here = on_node(ray.get_runtime_context().get_node_id())
    options: dict[str, Any] = {"max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(num_cpus=0, **options)(Channel).remote()


class Sender:
    """A worker's end of the channel. Posting never waits, and does not fail when the driver is gone."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._messages: list[str] = []
        self._lock = threading.Lock()

    def post(self, kind: str, content: Any) -> None:
        self.channel.post.remote(kind, content)

    def message(self, text: str) -> None:
        """Sends lines of text to the console, and keeps them for log.txt; any thread may call it."""
        with self._lock:
            self._messages.append(text)
        self.post(MESSAGE, text)

    def recover_messages(self) -> None:
        """Takes over messages that earlier workers had not logged when they died; rank 0 calls it at its start."""
        with suppress(RayError):
            found = ray.get(self.channel.unlogged.remote(), timeout=RECOVER_SEC)
            with self._lock:
                self._messages[:0] = found

    def note_logged(self, messages: list[str]) -> None:
        """Says which messages are in log.txt."""
        self.channel.note_logged.remote(messages)

    @property
    def has_messages(self) -> bool:
        """Whether there are messages since the last call of `take_messages`."""
        return bool(self._messages)

    def take_messages(self) -> list[str]:
        """Messages since the last call, for log.txt."""
        with self._lock:
            messages, self._messages = self._messages, []
        return messages


class ChannelHandler(logging.Handler):
    """Sends the warnings that this package logs in a worker as messages."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(logging.WARNING)
        self.sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.sender.message(text if text.startswith("fault: ") else f"{record.levelname.lower()}: {text}")
