"""The sink of TensorBoard: scalars, metrics, images and histograms of weights over cur_nimg."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore
from torch import Tensor

from stylegan_ray.config import RunConfig
from stylegan_ray.jsonl import nimg_of_row, tick_rows
from stylegan_ray.report.histograms import histogram_edges
from stylegan_ray.report.spool import Spool
from stylegan_ray.run_folder import TENSORBOARD, TICKS
from stylegan_ray.storage import Storage

MAX_IMAGE_WIDTH = 2048
MAX_EVENT_BYTES = 16 << 20
"""Bytes after which a new event file begins where files are uploaded whole."""


class TensorBoard:
    """Writes event files to the run's folder tensorboard/."""

    def __init__(self, cfg: RunConfig) -> None:
        self.cfg = cfg
        self.spool: Spool | None = None
        self._events: EventFile | None = None

    def begin(self, run: Storage, nimg: int) -> None:
        """Begins an event file that hides what older ones hold of later ticks; `run_folder.cut` comes first."""
        self._drop()
        rows = tick_rows(run, TICKS)
        first_step = nimg_of_row(rows[-1]) + 1 if rows else 0
        self.spool = Spool(run.folder(TENSORBOARD))
        self._events = EventFile(self.spool.folder, first_step)
        self._events.add(summary.text("config", f"```\n{self.cfg.to_yaml()}```"), first_step)

    def tick(self, row: Mapping[str, Any]) -> None:
        """Adds the scalars of a tick."""
        for key, value in row.items():
            if value is not None and key != "Timing/timestamp":  # each event has its own
                self.events.add(summary.scalar(key, value), nimg_of_row(row))
        self.events.flush()
        if self.spool is not None and self.spool.is_copy and self.events.num_bytes > MAX_EVENT_BYTES:
            self.events.close()
            self.spool.finish(self.events.name)
            self._events = EventFile(self.spool.folder, nimg_of_row(row) + 1)

    def metric(self, row: Mapping[str, Any]) -> None:
        """Adds the value of a metric as Metrics/NAME."""
        if row.get("value") is not None:
            self.events.add(summary.scalar(f"Metrics/{row['metric']}", row["value"]), round(row["kimg"] * 1000))
            self.events.flush()

    def images(self, name: str, grid: Tensor, nimg: int) -> None:
        """Adds a uint8 grid [C,H,W] at a width of 2048 pixels at most, under its name without the kimg."""
        factor = math.ceil(grid.shape[2] / MAX_IMAGE_WIDTH)
        small = torch.nn.functional.avg_pool2d(grid.float(), factor).round().to(torch.uint8)
        self.events.add(summary.image(re.sub(r"[\d.]+$", "", name), small.numpy()), nimg)

    def histograms(self, name: str, values: Tensor, nimg: int) -> None:
        """Adds the histogram of a tensor of finite values."""
        self.events.add(summary.histogram(name, values.numpy(), histogram_edges(values)), nimg)

    def message(self, text: str) -> None:
        """Messages are not shown."""

    def sync(self) -> None:
        """Brings the storage up to date. May be called in any thread."""
        if self._events is not None and self.spool is not None:
            self._events.flush()
            self.spool.sync()

    def close(self) -> None:
        """Brings the storage up to date and ends the event file."""
        self.sync()
        self._drop()

    @property
    def events(self) -> EventFile:
        assert self._events is not None, "begin comes first"
        return self._events

    def _drop(self) -> None:
        if self._events is not None and self.spool is not None:
            with suppress(OSError):  # `sync` has reported it
                self._events.close()
            self.spool.delete()
        self._events = self.spool = None


class EventFile:
    """A TensorBoard file that is written by the calling thread, so that a checkpoint finds in it all that was added.

    Its session starts at `first_step`: TensorBoard hides what older files hold from there on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # EventsWriter names files by the second; nanoseconds keep two starts within one second apart.
        ending = f".{time.time_ns()}"
        self.writer = EventsWriter(str(folder / "events"), ending)
        (self.name,) = (path.name for path in folder.iterdir() if path.name.endswith(ending))
        self.num_bytes = 0
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, content: Any, step: int) -> None:
        """Writes a summary."""
        self._write(Event(step=step, summary=content))

    def flush(self) -> None:
        """Writes to disk what was added; what a full disk refuses stays in the file's buffer."""
        self.writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self.writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.num_bytes += event.ByteSize()
        self.writer.write_event(event)
