"""What a worker does, reported to the channel every few seconds by a thread of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError

from stylegan_ray import distributed
from stylegan_ray.cluster.channel import Beat, DecodingProcess
from stylegan_ray.cluster.stacks import end_process, own_stacks, stacks_of
from stylegan_ray.config import ClusterConfig
from stylegan_ray.lease import start_of
from stylegan_ray.run_folder import stacks_name
from stylegan_ray.storage import Storage
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.stats import StopWatch

MOST_SEC = 10.0
"""Between two beats."""
BEATS_PER_HANG = 6
"""The fewest beats in cluster.hang_minutes."""
SEC_TO_ANSWER = 60.0
"""How long the channel may take for a beat: its process may be starting again."""


def sec_between_beats(cluster: ClusterConfig) -> float:
    """How often each worker tells what it does."""
    minutes = cluster.hang_minutes
    return MOST_SEC if minutes is None else min(MOST_SEC, minutes * 60 / BEATS_PER_HANG)


class Heartbeat:
    """A thread that reports what this worker does; where nothing makes progress, it stores stacks and ends the process.

    The worker sets the attributes that are reported. The thread draws no random numbers and calls
    no collective operation, so results do not depend on it.
    """

    def __init__(self, channel: Any, run: Storage, cluster: ClusterConfig, watch: StopWatch) -> None:
        self.channel, self.run, self.watch = channel, run, watch
        self.every_sec = sec_between_beats(cluster)
        self.state: TrainState | None = None
        self.decoders: Callable[[], Iterable[DecodingProcess]] = tuple
        """Finds the processes that decode for this worker."""
        self._rank = ray.train.get_context().get_world_rank()
        self._node = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        self._process = os.getpid(), start_of(os.getpid())
        self._ended = threading.Event()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Inside, the thread runs."""
        thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        thread.start()
        try:
            yield
        finally:
            self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            folder: Any = None
            with suppress(RayError):  # the driver is gone, or its channel starts again
                folder = ray.get(self.channel.beat.remote(self._beat()), timeout=SEC_TO_ANSWER)
            if folder is not None:
                self._store_stacks(folder)
            self._ended.wait(self.every_sec)  # by then the other workers have stored theirs, too
            if folder is not None and not self._ended.is_set():
                self._end()

    def _beat(self) -> Beat:
        watch, state = self.watch, self.state
        compiles = state is not None and state.compiled.is_compiling
        part = watch.part
        decoders = tuple(self.decoders()) if part == "data" else ()
        return Beat(
            self._rank, *self._node, *self._process, state.cur_nimg if state else 0, watch.trains and not compiles,
            part, watch.num_parts, distributed.waits_in(), decoders,
        )  # fmt: skip

    def _store_stacks(self, folder: str) -> None:
        """Writes the stacks of this process and of its decoders to a folder of the run."""
        stacks = {f"worker {self._rank}": own_stacks()}
        for decoder in self.decoders():
            who = f"decoder {decoder.pid} of worker {self._rank}"
            stacks[who] = stacks_of(decoder.pid, decoder.started) or "it has ended\n"
        for who, text in stacks.items():
            with suppress(OSError):
                self.run.write(stacks_name(folder, who), text.encode())

    def _end(self) -> None:
        """Ends this process and its decoders, whatever they wait for: Ray Train starts the workers again."""
        for decoder in self.decoders():
            end_process(decoder.pid, decoder.started)
        os.kill(os.getpid(), signal.SIGKILL)
