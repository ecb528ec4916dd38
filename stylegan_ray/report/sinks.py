"""Where the events of a run go: the protocol of sinks, their registry, and the fan-out to all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from stylegan_ray.config import RunConfig
from stylegan_ray.report.run_files import RunFiles
from stylegan_ray.report.tensorboard import TensorBoard
from stylegan_ray.run_folder import cut
from stylegan_ray.storage import Storage, one_line, retry

Message = Callable[[str], None]


class Sink(Protocol):
    """Takes the events of a run. Any call may raise; only RunFiles must not lose anything then."""

    def begin(self, run: Storage, nimg: int) -> None:
        """The run begins or continues at `nimg`; its folder holds nothing later. May be called again."""

    def tick(self, row: Mapping[str, Any]) -> None:
        """A tick has ended; its row of stats.jsonl."""

    def metric(self, row: Mapping[str, Any]) -> None:
        """A metric is computed; its row of metrics.jsonl."""

    def images(self, name: str, grid: Tensor, nimg: int) -> None:
        """A grid of images, uint8 [C,H,W]; its name is that of its file without .png."""

    def histograms(self, name: str, values: Tensor, nimg: int) -> None:
        """A tensor of finite float values, on the CPU, to be shown as a histogram."""

    def message(self, text: str) -> None:
        """Lines of text for people."""

    def sync(self) -> None:
        """Stores all events so far; called before each checkpoint, from the thread that writes it."""

    def close(self) -> None:
        """Stores all events and ends."""


SINKS: Mapping[str, Callable[[RunConfig], Sink | None]] = {
    "TensorBoard": TensorBoard,
}
"""Makes each sink besides RunFiles, or None where the configuration does not ask for it.

A server that shows runs is none of these: it gets what checkpoints cover, from the driver (report/trackers).
"""


class Sinks:
    """Sends every event to RunFiles and then to each other sink.

    RunFiles loses nothing: its `begin` and `close` try again for minutes, its `sync` raises, and its lines wait in
    memory. A failure of another sink is reported once, and the run goes on.
    """

    def __init__(self, files: RunFiles, others: Mapping[str, Sink], message: Message) -> None:
        self.files, self.others, self.report_message = files, others, message
        self._failed: set[str] = set()

    @classmethod
    def of(cls, cfg: RunConfig, write: Callable[[str, bytes], None], message: Message) -> Sinks:
        """The sinks of a run; `write` writes whole files in the background, `message` hears of failures."""
        made = {name: make(cfg) for name, make in SINKS.items()}
        return cls(RunFiles(write), {name: sink for name, sink in made.items() if sink is not None}, message)

    def begin(self, run: Storage, num_ticks: int, nimg: int) -> None:
        """Cuts the run's folder to a state with `num_ticks` ticks done at `nimg`, and begins all sinks there."""
        retry(lambda: cut(run, num_ticks, nimg), self.report_message)
        retry(lambda: self.files.begin(run, nimg), self.report_message)
        self._failed.clear()
        self._send(lambda sink: sink.begin(run, nimg))

    def tick(self, row: Mapping[str, Any]) -> None:
        self.files.tick(row)
        self._send(lambda sink: sink.tick(row))

    def metric(self, row: Mapping[str, Any]) -> None:
        self.files.metric(row)
        self._send(lambda sink: sink.metric(row))

    def images(self, name: str, grid: Tensor, nimg: int) -> None:
        self.files.images(name, grid, nimg)
        self._send(lambda sink: sink.images(name, grid, nimg))

    def histograms(self, name: str, values: Tensor, nimg: int) -> None:
        self.files.histograms(name, values, nimg)
        self._send(lambda sink: sink.histograms(name, values, nimg))

    def message(self, text: str) -> None:
        self.files.message(text)
        self._send(lambda sink: sink.message(text))

    def sync(self) -> None:
        """Raises OSError when the storage refuses RunFiles: then no checkpoint may be written."""
        self.files.sync()
        self._send(lambda sink: sink.sync())

    def close(self) -> None:
        retry(self.files.close, self.report_message)
        self._send(lambda sink: sink.close())

    def _send(self, event: Callable[[Sink], None]) -> None:
        for name, sink in self.others.items():
            try:
                event(sink)
            except Exception as error:  # a sink is never a reason to lose a run
                if name not in self._failed:
                    self._failed.add(name)
                    self.report_message(f"fault: {name} failed: {one_line(error)}; the training continues")
