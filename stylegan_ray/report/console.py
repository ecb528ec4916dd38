"""The progress of a run on the console of the driver: tick lines, one progress bar, a closing message."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO

from stylegan_ray.config import RunConfig
from stylegan_ray.credentials import without_credentials
from stylegan_ray.run_folder import REALS, REPORT, TENSORBOARD, images_of, newest_network, newest_nimg
from stylegan_ray.storage import Storage, join_address
from stylegan_ray.train.stats import TIMED_PARTS


class ConsoleView:
    """Shows a run on a terminal or in a job log: one bar below the messages, or a line per tick."""

    def __init__(self, total_kimg: float, stream: TextIO | None = None) -> None:
        self.total_kimg, self.stream = total_kimg, stream or sys.stdout
        self.is_live = is_terminal(self.stream)
        self.row: Mapping[str, Any] | None = None
        self.tick_at = time.monotonic()

    def tick(self, row: Mapping[str, Any]) -> None:
        """Moves the bar, or prints the line of a tick."""
        self.row, self.tick_at = row, time.monotonic()
        if self.is_live:
            self.refresh()
        else:
            print(tick_line(row), file=self.stream, flush=True)

    def metric(self, row: Mapping[str, Any]) -> None:
        """Prints nothing: a message holds the values."""

    def message(self, text: str) -> None:
        """Prints lines of text; the bar stays below them."""
        clear = "\r\x1b[2K" if self.is_live else ""
        print(f"{clear}{without_credentials(text)}", file=self.stream, flush=True)
        self.refresh()

    def refresh(self) -> None:
        """Updates the times in the bar between ticks; may be called at any time."""
        if self.is_live and self.row is not None:
            # The cursor returns to the start of the line, so that output of others overwrites the bar.
            self.stream.write(f"\r\x1b[2K{self._bar(shutil.get_terminal_size().columns - 1)}\r")
            self.stream.flush()

    def close(self) -> None:
        """Leaves the bar as it is and moves below it."""
        if self.is_live and self.row is not None:
            self.refresh()
            print(file=self.stream, flush=True)
        self.row = None

    def _bar(self, width: int) -> str:
        assert self.row is not None, "a bar needs a tick"
        kimg, since = self.row["Progress/kimg"], time.monotonic() - self.tick_at
        done = min(kimg / self.total_kimg, 1.0) if self.total_kimg else 1.0
        left_sec = (1 - done) * self.total_kimg * self.row.get("Timing/sec_per_kimg", 0)
        texts = [
            f"{kimg:.1f} / {self.total_kimg:g} kimg",
            format_time(self.row.get("Timing/total_sec", 0) + since),
            f"{format_time(max(left_sec - since, 0))} left" if done < 1 else "",
            f"{self.row.get('Timing/sec_per_kimg', 0):.2f} sec/kimg",
            _losses(self.row),
        ]
        texts = [text for text in texts if text]
        while len(texts) > 1 and len("  ".join(texts)) + 18 > width:
            texts.pop()
        text = "  ".join(texts)
        length = max(min(width - len(text) - 8, 40), 0)
        return f"{100 * done:3.0f}%  {self._line(done, length)}  {text}" if length > 2 else text[:width]

    def _line(self, done: float, length: int) -> str:
        full = round(done * length)
        if "utf" not in (self.stream.encoding or "").lower():
            return "#" * full + "-" * (length - full)
        if "NO_COLOR" in os.environ:
            return "━" * full + "─" * (length - full)
        return f"\x1b[32m{'━' * full}\x1b[0;2m{'─' * (length - full)}\x1b[0m"


class ProgressLine:
    """Counts long work before the training: one line that is updated in a terminal, a few lines in a job log."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.is_live = is_terminal(self.stream)
        self.shown_at, self.shown = -math.inf, False

    def __call__(self, done: int, total: int, what: str) -> None:
        """Shows `what done / total`, at most ten times a second in a terminal and every ten seconds in a log."""
        now = time.monotonic()
        if now - self.shown_at < (0.1 if self.is_live else 10.0) and done < total:
            return
        self.shown_at, self.shown = now, True
        line = f"{what} {done} / {total}"
        self.stream.write(f"\r\x1b[2K{line}\r" if self.is_live else f"{line}\n")
        self.stream.flush()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.is_live and self.shown:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()


def is_terminal(stream: TextIO) -> bool:
    """Whether lines of a stream can be overwritten."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def format_time(seconds: float) -> str:
    """A duration in words: 12s, 3m 05s, 2h 00m 07s, 1d 04h 30m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 60 * 60:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 24 * 60 * 60:
        return f"{s // 3600}h {s // 60 % 60:02d}m {s % 60:02d}s"
    return f"{s // 86400}d {s // 3600 % 24:02d}h {s // 60 % 60:02d}m"


def tick_line(row: Mapping[str, Any]) -> str:
    """The line of a tick: the fields of the original, then shares of the time, then losses."""
    get = {key.partition("/")[2]: value for key, value in row.items()}.get
    fields = [
        f"tick {get('tick', 0):<5d}",
        f"kimg {get('kimg', 0):<8.1f}",
        f"lod {get('lod', 0):<5.2f}",
        f"minibatch {get('minibatch', 0):<4d}",
        f"time {format_time(get('total_sec', 0)):<12s}",
        f"sec/tick {get('sec_per_tick', 0):<7.1f}",
        f"sec/kimg {get('sec_per_kimg', 0):<7.2f}",
        f"maintenance {get('maintenance_sec', 0):<6.1f}",
        f"gpumem {get('peak_gpu_mem_gb', 0):<5.1f}",
        " ".join(f"{part.replace('_', '')} {100 * get(f'share/{part}', 0):.0f}%" for part in TIMED_PARTS) + " ",
        _losses(row),
    ]
    if row.get("Progress/augment_p"):
        fields.insert(-1, f"augment {row['Progress/augment_p']:.3f} ")
    if row.get("nonfinite"):
        fields.append(f" nonfinite {row['nonfinite']}")
    return " ".join(fields).rstrip()


def closing_message(
    address: str,
    cfg: RunConfig,
    state: Literal["done", "stopped", "unchanged"],
    command: str = "stylegan-ray train",
    kimg: float = 0.0,
) -> str:
    """What the driver prints at the end of a run: where its images are, how to make more, how to continue it.

    `kimg` is what a finished run has reached, which may be more than this command's train.total_kimg.
    """
    run = Storage.at(address)
    grids, network, folder = images_of(run), newest_network(run), shlex.quote(address.rstrip("/"))
    if state == "done" and kimg_of(run) < cfg.train.total_kimg and cfg.train.stop_when:
        command = re.sub(r"(?i) --train\.stop[-_]when[= ]\S+", "", command) + " --train.stop_when null"
    elif state == "done":
        command = re.sub(r"(?i) --train\.total[-_]kimg[= ]\S+", "", command)
        command += f" --train.total_kimg {2 * max(cfg.train.total_kimg, kimg):g}"
    lines = {
        "Images": join_address(address, grids[-1]) if grids else None,
        "Reals": join_address(address, f"{REALS}.png") if run.exists(f"{REALS}.png") else None,
        "Network": join_address(address, network) if network else None,
        "Report": join_address(address, REPORT) if run.exists(REPORT) else None,
        "Curves": f"tensorboard --logdir {shlex.quote(join_address(address, TENSORBOARD))}",
        "Metrics": f"stylegan-ray evaluate plot {folder}" if cfg.metrics.names else None,
        "Generate": f"stylegan-ray generate {folder} --seeds 0-63 --grid grid.png",
        "Continue": command,
    }
    title = {
        "done": "Done.",
        "stopped": "Stopped as requested; the state is saved.",
        "unchanged": "Stopped as requested, before there was anything new to save.",
    }[state]
    return "\n".join([title, *(f"  {label:9s} {text}" for label, text in lines.items() if text)])


def kimg_of(run: Storage) -> float:
    """Thousands of images at the newest complete checkpoint."""
    return (newest_nimg(run) or 0) / 1000


def _losses(row: Mapping[str, Any]) -> str:
    losses = {net: row.get(f"Loss/{net}/loss") for net in ("G", "D")}
    return "loss " + " ".join(f"{net} {value:.3f}" for net, value in losses.items() if value is not None)
