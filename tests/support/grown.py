"""The folder of a run that grows tick by tick, as rank 0 writes it."""

from __future__ import annotations

import json
import os

import torch
from support.reports import nimg_after, row

from stylegan_ray.config import load_config
from stylegan_ray.images.grid import png
from stylegan_ray.jsonl import append_jsonl
from stylegan_ray.report.trackers import About, Deliveries
from stylegan_ray.run_folder import checkpoint_name, cut, fakes_name
from stylegan_ray.storage import Storage

DATA = {"path": "pictures", "num_images": 20, "fingerprint": "ab12", "attribution": "Painted by nobody, CC0"}
STARTED = 1_790_000_000.0


class GrowingRun:
    """Ticks of 4 kimg, a value of a metric and a grid of images every second tick."""

    def __init__(self, folder, **keys):
        self.folder = Storage.at(folder)
        self.cfg = load_config("tiny", {"run.name": "growing", "metrics.names": ["fid5k_tiny"], **keys})
        self.about = About(self.cfg, "stylegan-ray train tiny", DATA)
        self.num_ticks = 0

    @property
    def nimg(self):
        return nimg_after(self.num_ticks)

    def add_ticks(self, num, checkpoint=True, loss=None):
        """Appends ticks; by default the last one has a checkpoint."""
        for tick in range(self.num_ticks, self.num_ticks + num):
            own = {"Loss/D/loss": float(tick) if loss is None else loss, "Timing/timestamp": STARTED + 10 * tick}
            append_jsonl(self.folder, "stats.jsonl", [row(tick, **own)])
            self.num_ticks = tick + 1
            if tick % 2 == 0:
                self.add_metric(tick, 100.0 - tick)
                grid = torch.full((3, 8, 16), 8 * tick, dtype=torch.uint8)
                self.folder.write(f"{fakes_name(self.nimg)}.png", png(grid))
        if checkpoint:
            self.complete()

    def add_metric(self, tick, value):
        """Appends a value of the metric for the end of a tick."""
        when = {"kimg": nimg_after(tick + 1) / 1000, "time": "2026-09-21T14:13:20Z"}
        row = {"Progress/tick": tick, "metric": "fid5k_tiny", "value": value, **when}
        append_jsonl(self.folder, "metrics.jsonl", [row])

    def complete(self):
        """A checkpoint of all ticks so far is complete."""
        self.folder.write(f"checkpoints/{checkpoint_name(self.nimg)}/COMPLETE", b"")

    def lose(self, num):
        """A crash and a resume: the last ticks are cut."""
        self.folder.write("log.txt", b"")
        self.num_ticks -= num
        cut(self.folder, self.num_ticks, self.nimg)


def deliver(run, state="done"):
    """One command drives the run to an end; returns what it said."""
    said = []
    deliveries = Deliveries(run.cfg, run.folder, run.about, said.append)
    deliveries.start()
    deliveries.end(state)
    return said


def memory_of(folder, name):
    """What a run's folder remembers of a tracker."""
    with open(os.path.join(folder, f"tracker-{name}.json")) as file:
        return json.load(file)
