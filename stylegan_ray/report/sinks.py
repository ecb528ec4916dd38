"""What a person sees of a run: its growing files, the tick line, the progress bar and the last words."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore
from torch import Tensor

from stylegan_ray.config import RunConfig
from stylegan_ray.images.grid import png
from stylegan_ray.storage import Storage, join_address

SHARES = ("data", "G", "G_reg", "D", "D_reg", "reduce", "checkpoint")
"""Where the time goes: names in stats.jsonl under Timing/share/; the tick line drops the underscore."""
WIDEST_TENSORBOARD_PICTURE = 2048
LARGEST_EVENT_FILE = 16 << 20
"""Bytes after which a new TensorBoard file begins where files are rewritten whole."""


class RunFiles:
    """The growing files of a run, written by one process: stats.jsonl, metrics.jsonl, log.txt and tensorboard/.

    On a local disk they grow in place. Object stores cannot append: there they grow in a local folder and are
    rewritten whole at every `sync`, which belongs before each checkpoint. Lines that a full disk does not take wait
    in memory. `write` writes whole files; None: into the run's folder at once.
    """

    def __init__(self, run: Storage, cfg: RunConfig, write: Callable[[str, bytes], None] | None = None) -> None:
        self.run, self.cfg, self.write = run, cfg, write or run.write
        self.spool = None if run.is_local else tempfile.mkdtemp(prefix="stylegan_ray-")
        self.folder = Path(self.spool or run.root)
        self.events: EventFile | None = None
        self._waiting: dict[str, bytes] = {}
        self._appending = threading.Lock()
        self._synced: dict[str, tuple[int, int]] = {}

    def restore(self, num_ticks: int = 0) -> None:
        """Begins to write: cuts what belongs to ticks from `num_ticks` on, and lines that a crash has torn.

        A run from the start has 0 ticks done, a resumed one those of its checkpoint, so each tick stands once.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._waiting.clear()
        if self.events is not None:
            self.events.close()
        for name, keep in GROWING.items():
            stored = self.run.read(name) if self.run.exists(name) else None
            kept = keep(stored or b"", num_ticks)
            if self.spool or kept != stored:  # a full disk has no room for the same once more
                (Storage.at(self.folder) if self.spool else self.run).write(name, kept)
        first_step = _next_step((self.folder / "stats.jsonl").read_bytes())
        self.events = EventFile(self.folder / "tensorboard", first_step)
        self.events.add(summary.text("config", f"```\n{self.cfg.to_yaml()}```"), first_step)

    def tick(self, stats: Mapping[str, Any]) -> str:
        """Notes a tick in stats.jsonl, log.txt and TensorBoard; returns its line."""
        line = tick_line(stats)
        self._append("stats.jsonl", json.dumps({key: _plain(value) for key, value in stats.items()}))
        self._append("log.txt", line)
        assert self.events is not None, "restore comes first"
        for key, value in stats.items():
            if value is not None:
                self.events.add(summary.scalar(key, value), _nimg(stats))
        self.events.flush()
        if self.spool and self.events.num_bytes > LARGEST_EVENT_FILE:
            self.events.close()
            self.events = EventFile(self.folder / "tensorboard", _nimg(stats) + 1)
        return line

    def metric(self, row: Mapping[str, Any]) -> None:
        """Notes a row in metrics.jsonl, under the Progress/tick of its networks, and its value in TensorBoard."""
        self._append("metrics.jsonl", json.dumps({key: _plain(value) for key, value in row.items()}))
        assert self.events is not None, "restore comes first"
        if row.get("value") is not None:
            self.events.add(summary.scalar(f"Metrics/{row['metric']}", row["value"]), round(row["kimg"] * 1000))
            self.events.flush()

    def message(self, text: str) -> None:
        """Notes lines of text in log.txt."""
        self._append("log.txt", text)

    def picture(self, name: str, picture: Tensor, cur_nimg: int) -> None:
        """Writes a uint8 picture [C,H,W] to NAME.png and, at most 2048 pixels wide, to TensorBoard."""
        self.write(f"{name}.png", png(picture))
        assert self.events is not None, "restore comes first"
        every = math.ceil(picture.shape[2] / WIDEST_TENSORBOARD_PICTURE)
        small = torch.nn.functional.avg_pool2d(picture.float(), every).round().to(torch.uint8)
        self.events.add(summary.image(re.sub(r"[\d.]+$", "", name), small.numpy()), cur_nimg)

    def add(self, summaries: Iterable[Any], cur_nimg: int) -> None:
        """Notes further summaries in TensorBoard."""
        assert self.events is not None, "restore comes first"
        for content in summaries:
            self.events.add(content, cur_nimg)

    def sync(self) -> None:
        """Brings the storage up to date; raises OSError when it does not take all. May be called in a thread."""
        self._flush()
        if self.events is not None:
            self.events.flush()
        for path in sorted(self.folder.rglob("*")) if self.spool else ():
            name, stat = path.relative_to(self.folder).as_posix(), path.stat()
            if path.is_file() and self._synced.get(name) != (stat.st_size, stat.st_mtime_ns):
                self.run.write(name, path.read_bytes())
                self._synced[name] = (stat.st_size, stat.st_mtime_ns)

    def close(self) -> None:
        """Brings the storage up to date and ends writing."""
        self.sync()
        if self.events is not None:
            self.events.close()
        if self.spool:
            shutil.rmtree(self.spool, ignore_errors=True)

    def _append(self, name: str, text: str) -> None:
        with self._appending:
            self._waiting[name] = self._waiting.get(name, b"") + f"{text}\n".encode()
        with suppress(OSError):  # the next one, or the sync before a checkpoint, tries again
            self._flush()

    def _flush(self) -> None:
        with self._appending:
            for name in [name for name, text in self._waiting.items() if text]:
                # Unbuffered: a killed process leaves at most one torn line, at the end.
                with open(self.folder / name, "ab", buffering=0) as file:
                    while self._waiting[name]:
                        self._waiting[name] = self._waiting[name][file.write(self._waiting[name]) :]


class EventFile:
    """A TensorBoard file, written at once and not by a thread, so that a checkpoint finds in it all that it was given.

    Its session starts at `first_step`: TensorBoard forgets what older files hold from there on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # File names are made of seconds: two starts within one would meet.
        self.writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self.num_bytes = 0
        self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, content: Any, step: int) -> None:
        """Writes a summary."""
        self._write(Event(step=step, summary=content))

    def flush(self) -> None:
        """Brings to disk what was added; what a full disk does not take stays in the file's buffer."""
        with suppress(OSError):
            self.writer.flush()

    def close(self) -> None:
        """Ends the file."""
        with suppress(OSError):
            self.writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self.num_bytes += event.ByteSize()
        with suppress(OSError):
            self.writer.write_event(event)


def keep_rows(content: bytes, num_ticks: int) -> bytes:
    """The lines of a .jsonl file that are whole and whose Progress/tick is below num_ticks."""
    kept = []
    for line in content.splitlines(keepends=True):
        try:
            tick = json.loads(line)["Progress/tick"]
        except (ValueError, KeyError, TypeError):
            continue
        if tick < num_ticks and line.endswith(b"\n"):
            kept.append(line)
    return b"".join(kept)


def keep_log(content: bytes, num_ticks: int) -> bytes:
    """The whole lines of a log without the lines of ticks from num_ticks on; what was said beside them stays."""
    kept = []
    for line in content.splitlines(keepends=True):
        tick = re.match(rb"tick (\d+) ", line)
        if line.endswith(b"\n") and not (tick and int(tick[1]) >= num_ticks):
            kept.append(line)
    return b"".join(kept)


GROWING = {"stats.jsonl": keep_rows, "metrics.jsonl": keep_rows, "log.txt": keep_log}
"""The files that grow, and what a restart keeps of them."""


def kimg_name(cur_nimg: int) -> str:
    """Thousands of images as file names spell them: 000012, or 000000.250 where they are not whole."""
    kimg, rest = divmod(cur_nimg, 1000)
    return f"{kimg:06d}.{rest:03d}" if rest else f"{kimg:06d}"


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


def tick_line(stats: Mapping[str, Any]) -> str:
    """The line of a tick: the original's fields, then where the time went, then losses."""
    get = {key.partition("/")[2]: value for key, value in stats.items()}.get
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
        " ".join(f"{part.replace('_', '')} {100 * get(f'share/{part}', 0):.0f}%" for part in SHARES) + " ",
        _losses(stats),
    ]
    if stats.get("Progress/augment_p"):
        fields.insert(-1, f"augment {stats['Progress/augment_p']:.3f} ")
    if stats.get("nonfinite"):
        fields.append(f" nonfinite {stats['nonfinite']}")
    return " ".join(fields).rstrip()


def closing_message(
    address: str, cfg: RunConfig, state: Literal["done", "stopped"], command: str = "stylegan-ray train"
) -> str:
    """The last words of a run: where its pictures are, how to make more, how to go on with it."""
    names = Storage.at(address).names()
    grids = [name for name in names if name.startswith("fakes") and name[5:6].isdigit()]
    networks = [name for name in names if name.startswith("network-snapshot-")]
    if state == "done" and "network-final.safetensors" in names:
        networks.append("network-final.safetensors")
    if state == "done":
        command = re.sub(r" --train\.total[-_]kimg[= ]\S+", "", command)
        command += f" --train.total_kimg {2 * cfg.train.total_kimg:g}"
    lines = {
        "Pictures": join_address(address, grids[-1]) if grids else None,
        "Reals": join_address(address, "reals.png") if "reals.png" in names else None,
        "Network": join_address(address, networks[-1]) if networks else None,
        "Curves": f"tensorboard --logdir {shlex.quote(join_address(address, 'tensorboard'))}",
        "Metrics": f"stylegan-ray evaluate plot {shlex.quote(address.rstrip('/'))}" if cfg.metrics.names else None,
        "Generate": f"stylegan-ray generate {shlex.quote(address.rstrip('/'))} --seeds 0-63 --grid grid.png",
        "Go on": command,
    }
    title = {"done": "Done.", "stopped": "Stopped as asked; the state is saved."}[state]
    return "\n".join([title, *(f"  {label:9s} {text}" for label, text in lines.items() if text)])


class ConsoleView:
    """A run's progress as the driver prints it: one bar in a terminal, tick lines in a job log."""

    def __init__(self, total_kimg: float, stream: TextIO | None = None) -> None:
        self.total_kimg, self.stream = total_kimg, stream or sys.stdout
        self.is_live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.stats: Mapping[str, Any] | None = None
        self.seen_at = time.monotonic()

    def tick(self, stats: Mapping[str, Any]) -> None:
        """Shows a tick."""
        self.stats, self.seen_at = stats, time.monotonic()
        if self.is_live:
            self.refresh()
        else:
            print(tick_line(stats), file=self.stream, flush=True)

    def metric(self, values: Mapping[str, Any]) -> None:
        """Metrics are shown by the line that says them."""

    def message(self, text: str) -> None:
        """Shows lines of text; the bar stays below them."""
        clear = "\r\x1b[2K" if self.is_live else ""
        print(f"{clear}{text}", file=self.stream, flush=True)
        self.refresh()

    def refresh(self) -> None:
        """Moves the bar's clock on between ticks; may be called at any time."""
        if self.is_live and self.stats is not None:
            # The cursor waits at the line's beginning, so that what others print does not stand behind the bar.
            self.stream.write(f"\r\x1b[2K{self._bar(shutil.get_terminal_size().columns - 1)}\r")
            self.stream.flush()

    def close(self) -> None:
        """Leaves the bar where it is."""
        if self.is_live and self.stats is not None:
            self.refresh()
            print(file=self.stream, flush=True)
        self.stats = None

    def _bar(self, width: int) -> str:
        assert self.stats is not None
        kimg, since = self.stats["Progress/kimg"], time.monotonic() - self.seen_at
        done = min(kimg / self.total_kimg, 1.0) if self.total_kimg else 1.0
        left_sec = (1 - done) * self.total_kimg * self.stats.get("Timing/sec_per_kimg", 0)
        texts = [
            f"{kimg:.1f} / {self.total_kimg:g} kimg",
            format_time(self.stats.get("Timing/total_sec", 0) + since),
            f"{format_time(max(left_sec - since, 0))} left" if done < 1 else "",
            f"{self.stats.get('Timing/sec_per_kimg', 0):.2f} sec/kimg",
            _losses(self.stats),
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
    """A line that counts something long before the training: one that grows in a terminal, a few in a job log."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.is_live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
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


def _losses(stats: Mapping[str, Any]) -> str:
    losses = {net: stats.get(f"Loss/{net}/loss") for net in ("G", "D")}
    return "loss " + " ".join(f"{net} {value:.3f}" for net, value in losses.items() if value is not None)


def _nimg(stats: Mapping[str, Any]) -> int:
    return round(stats["Progress/kimg"] * 1000)


def _next_step(rows: bytes) -> int:
    """The first TensorBoard step (cur_nimg) that is still to be written."""
    last = rows.splitlines()[-1:]
    return _nimg(json.loads(last[0])) + 1 if last else 0


def _plain(value: Any) -> Any:
    """JSON has no number for infinite and undefined ones."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
