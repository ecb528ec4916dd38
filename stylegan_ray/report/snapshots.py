"""What rank 0 reports and stores at the pauses of a run: ticks, grids of images, networks, metrics and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from stylegan_ray.config import RunConfig
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.data.errors import BadImage
from stylegan_ray.images.grid import choose_latents, choose_reals, grid_shape, image_grid, snapshot_fakes
from stylegan_ray.interop.native import Networks, pack
from stylegan_ray.jsonl import dated_metric_rows, nimg_of_row
from stylegan_ray.metrics.names import is_new_best
from stylegan_ray.metrics.rows import Row
from stylegan_ray.report.graph import graph_file
from stylegan_ray.report.histograms import finite_weights
from stylegan_ray.report.sinks import Sinks
from stylegan_ray.run_folder import (
    FINAL_NETWORK,
    FIRST_FAKES,
    METRICS,
    REALS,
    best_name,
    fakes_name,
    snapshot_name,
)
from stylegan_ray.train.background_writer import BackgroundWriter
from stylegan_ray.train.checkpoint import Snapshot
from stylegan_ray.train.loop import Pause, is_multiple
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.state import TrainState


class Snapshots:
    """Owned by rank 0. Rows and images go to the sinks, networks and checkpoints to the background writer."""

    def __init__(self, cfg: RunConfig, dataset: Dataset, state: TrainState, writer: BackgroundWriter) -> None:
        self.cfg, self.state, self.dataset, self.writer = cfg, state, dataset, writer
        self.sinks = Sinks.of(cfg, writer.write, writer.message)
        self.cols, self.rows = grid_shape(cfg.train.grid_size, dataset.resolution)
        self.indices = choose_reals(dataset, cfg.train.grid_layout, cfg.run.seed, (self.cols, self.rows))
        """Of the reals in the grid; the fakes have their labels."""
        self.z = choose_latents(cfg.run.seed, len(self.indices), state.G.z_dim)
        self.labels = torch.from_numpy(dataset.labels(self.indices)) if dataset.label_size else None
        self.metric_rows: list[Row] = []
        """The rows of metrics.jsonl."""

    def begin(self) -> None:
        """Cuts the run's folder to the state; a new run gets its first images."""
        self.sinks.begin(self.writer.run, self.state.tick, self.state.cur_nimg)
        self.metric_rows = dated_metric_rows(self.writer.run, METRICS)
        if self.state.iteration == 0:
            reals = torch.stack([torch.from_numpy(self._real(index)) for index in self.indices.tolist()])
            self.sinks.images(REALS, image_grid(reals, self.cols, self.rows), 0)
            self._save_fakes(FIRST_FAKES, self._next_lod())
            if self.cfg.train.save_tf_graph:
                name, content = graph_file(self.state.G, self.state.D)
                self.writer.write(name, content)

    def at_pause(self, pause: Pause) -> None:
        """Reports a tick that has ended, and saves the images and networks that are due."""
        if pause.stats is None:
            return
        self.sinks.tick(pause.stats)
        tick, nimg, train = pause.stats["Progress/tick"], self.state.cur_nimg, self.cfg.train
        if pause.done or _is_due(tick, train.image_snapshot_ticks):
            self._save_fakes(fakes_name(nimg), self.state.prev_lod)
        if pause.done or _is_due(tick, train.network_snapshot_ticks):
            self.save_network(snapshot_name(nimg))
            if train.save_weight_histograms:
                for name, values in finite_weights({"G": self.state.G, "D": self.state.D}):
                    self.sinks.histograms(name, values, nimg)
        if pause.done:
            self.save_network(FINAL_NETWORK)

    def finish(self, tick: int | None) -> None:
        """Saves what the end of a run saves, after a tick that `at_pause` did not know to be the last.

        None: in the middle of a tick, where nothing is saved yet.
        """
        nimg, train = self.state.cur_nimg, self.cfg.train
        if tick is None or not _is_due(tick, train.image_snapshot_ticks):
            self._save_fakes(fakes_name(nimg), self.state.lod(self.cfg))
        if tick is None or not _is_due(tick, train.network_snapshot_ticks):
            self.save_network(snapshot_name(nimg))
        self.save_network(FINAL_NETWORK)

    def has_metrics(self, tick: int, nimg: int) -> bool:
        """Whether metrics.jsonl has rows of a tick at a clock value: tick 0 has those of the start and of its end."""
        return any((row["Progress/tick"], nimg_of_row(row)) == (tick, nimg) for row in self.metric_rows)

    def add_metrics(self, rows: Sequence[Row], save: Callable[[str], None] | None = None) -> None:
        """Reports rows of metrics; a network with the best value so far is saved as best-METRIC.safetensors.

        `save` saves the network of the rows under a name; None: the current one.
        """
        for row in rows:
            name, value = row["metric"], row["value"]
            before = [r["value"] for r in self.metric_rows if r["metric"] == name and r["value"] is not None]
            if value is not None and is_new_best(name, value, before):
                (save or self.save_network)(best_name(name))
            self.sinks.metric(row)
            self.metric_rows.append(row)

    def save_checkpoint(self) -> None:
        """Saves the state in the background, after the sinks have stored all that it knows of."""
        snapshot = Snapshot.of(self.state, self.cfg, self.writer.take_spare())
        self.writer.write_checkpoint(snapshot, before=self.sinks.sync)

    def save_network(self, name: str) -> None:
        """Saves the current networks to a file, in the background."""
        state = self.state
        p = state.augment_p if self.cfg.augment.mode == "ada" else None
        networks = Networks(
            state.G, state.D, state.G_ema, self.cfg, cur_nimg=state.cur_nimg, lod=state.lod(self.cfg), augment_p=p
        )
        self.writer.write(name, pack(networks).content)

    def _next_lod(self) -> float:
        """The lod of the next group."""
        return training_schedule(self.cfg, self.state.cur_nimg, self.state.resolution_log2).lod

    def _save_fakes(self, name: str, lod: float) -> None:
        fakes = snapshot_fakes(self.state.G_ema, self.z, self.labels, self.cfg.train.drange_net, lod)
        self.sinks.images(name, image_grid(fakes, self.cols, self.rows), self.state.cur_nimg)

    def _real(self, index: int) -> np.ndarray:
        """An image of the data set; a bad one is black where data.on_bad_image allows it."""
        try:
            return self.dataset.read(index)
        except BadImage:
            if self.cfg.data.on_bad_image == "error":
                raise
            return np.zeros((self.dataset.num_channels, *self.dataset.resolution), np.uint8)


def _is_due(tick: int, every: int | None) -> bool:
    """Whether something that is saved every so many ticks, and at the first one, is saved at this one."""
    return tick == 0 or is_multiple(tick, every)
