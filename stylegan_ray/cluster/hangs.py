"""Runs that hang: finding out that no worker makes progress, saying which one it is, and ending the workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError

from stylegan_ray.cluster.channel import Beat
from stylegan_ray.cluster.faults import FaultLog
from stylegan_ray.cluster.heartbeat import sec_between_beats
from stylegan_ray.cluster.pinned import call_on_nodes
from stylegan_ray.cluster.stacks import end_process, stacks_of
from stylegan_ray.config import ClusterConfig
from stylegan_ray.run_folder import hang_folder, stacks_name
from stylegan_ray.storage import Storage

BEATS_MISSED = 3
"""A worker that misses so many beats does not answer."""
SEC_TO_LOOK = 40.0
"""How long a node may take to read the stacks of its workers."""
Beats = Sequence[tuple[Beat, float]]
"""What each worker said last, and how many seconds ago."""


class Progress:
    """Whether any worker makes progress, from what they say."""

    def __init__(self, hang_sec: float, silent_sec: float) -> None:
        self.hang_sec, self.silent_sec = hang_sec, silent_sec
        self._parts: dict[tuple[str, int, int | None], int] = {}
        self._since = -math.inf

    def hangs(self, beats: Beats, now: float) -> bool:
        """Whether no worker has begun a part of a step for too long. `now` is a clock in seconds.

        A worker that answers, neither trains nor waits for others, makes progress: it starts, compiles, computes
        metrics, draws images or waits for the storage.
        """
        parts = {beat.process: beat.num_parts for beat, _ in beats}
        is_busy = any(not beat.trains and not beat.waits_in and not self.is_silent(age) for beat, age in beats)
        if parts != self._parts or is_busy or not beats:
            self._parts, self._since = parts, now
        return now - self._since >= self.hang_sec

    def is_silent(self, age_sec: float) -> bool:
        """Whether a worker that said something so long ago does not answer any more."""
        return age_sec > self.silent_sec

    def describe(self, beats: Beats) -> str:
        """What the workers do and wait for; those that wait for others come last."""
        ordered = sorted(beats, key=lambda item: (item[0].waits_in is not None, not self.is_silent(item[1])))
        kimg = max((beat.nimg for beat, _ in beats), default=0) / 1000
        minutes = f"{self.hang_sec / 60:g} min"
        return f"no progress for {minutes} at {kimg:g} kimg: {'; '.join(map(self._describe_one, ordered))}"

    def _describe_one(self, item: tuple[Beat, float]) -> str:
        beat, age = item
        who = f"worker {beat.rank} (process {beat.pid} on {beat.address})"
        silence = f"has not answered for {age:.0f} s; before that it " if self.is_silent(age) else ""
        return f"{who} {silence}{describe_part(beat)}"


def describe_part(beat: Beat) -> str:
    """What a worker does."""
    if beat.waits_in is not None:
        return f"waited for the others in {beat.waits_in}"
    if beat.part == "data":
        decoders = ", ".join(f"process {decoder.pid} (sample position {decoder.position})" for decoder in beat.decoders)
        return f"waited for images from {decoders or 'a decoding task of which there is no trace'}"
    if beat.part is not None:
        return f"computed {beat.part}"
    return "was between two parts of a step" if beat.trains else "was outside of the training loop"


class HangGuard:
    """Ends the workers of a run that hangs, so that Ray Train starts them again. Works in the driver."""

    def __init__(self, cluster: ClusterConfig, channel: Any, run: Storage, faults: FaultLog) -> None:
        self.channel, self.run, self.faults = channel, run, faults
        every_sec = sec_between_beats(cluster)
        self.progress = Progress((cluster.hang_minutes or math.inf) * 60, BEATS_MISSED * every_sec)
        self.every_sec = every_sec
        self._look_at = -math.inf

    def look(self) -> str | None:
        """Looks at the workers now and then; returns a message about a hang that it has recorded and ended."""
        now = time.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + self.every_sec
        try:
            beats: Beats = ray.get(self.channel.beats.remote())
        except ActorUnavailableError:
            return None  # its process died and restarts
        return self._end(beats) if self.progress.hangs(beats, now) else None

    def _end(self, beats: Beats) -> str | None:
        """Stores the stacks of all workers and ends them: those that answer do both by themselves."""
        silent = [beat for beat, age in beats if self.progress.is_silent(age)]
        stacks = on_their_nodes(silent, stacks_of)
        if len(silent) == len(beats) and not any(stacks):
            self.channel.forget_beats.remote()  # they have ended, and others have not started so far
            return None
        folder, text = hang_folder(time.time()), self.progress.describe(beats)
        self.faults.add_hang(text)
        self.channel.end_workers.remote(folder)
        for beat, content in zip(silent, stacks, strict=True):
            with suppress(OSError):
                self.run.write(stacks_name(folder, f"worker {beat.rank}"), f"{content or 'it has ended'}\n".encode())
        if len(silent) < len(beats):
            time.sleep(self.every_sec)  # the others store their stacks before Ray Train ends them
        on_their_nodes(silent, end_process)
        self.progress.hangs([], time.monotonic())
        return f"fault: {text}; stacks are in {folder} of the run; the workers start again"


def on_their_nodes(beats: Sequence[Beat], function: Callable[[int, int | None], Any]) -> list[Any]:
    """What a function of a process returns on the node of each worker."""
    return call_on_nodes([(beat.node_id, function, (beat.pid, beat.started)) for beat in beats], SEC_TO_LOOK)
