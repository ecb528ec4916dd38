"""What one process writes of a run: its growing files, picture grids and network snapshots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from stylegan_ray.config import RunConfig
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.images.grid import choose_latents, choose_reals, grid_shape, image_grid, snapshot_fakes
from stylegan_ray.interop.native import save_network
from stylegan_ray.metrics.names import is_better
from stylegan_ray.metrics.rows import Row, read_rows
from stylegan_ray.report.histograms import save_graph, weight_histograms
from stylegan_ray.report.sinks import RunFiles, kimg_name
from stylegan_ray.storage import Storage, retry
from stylegan_ray.train.background_writer import Outbox
from stylegan_ray.train.checkpoint import Snapshot
from stylegan_ray.train.loop import Pause
from stylegan_ray.train.schedule import training_schedule
from stylegan_ray.train.state import TrainState


class Recorder:
    """Belongs to rank 0; the other ranks write nothing. Whole files go by way of the outbox."""

    def __init__(self, run: Storage, cfg: RunConfig, dataset: Dataset, state: TrainState, outbox: Outbox) -> None:
        self.cfg, self.state, self.dataset, self.outbox = cfg, state, dataset, outbox
        self.files = RunFiles(run, cfg, outbox.file)
        self.cols, self.rows = grid_shape(cfg.train.grid_size, dataset.resolution)
        self.shown = choose_reals(dataset, cfg.train.grid_layout, cfg.run.seed, (self.cols, self.rows))
        self.grid_z = choose_latents(cfg.run.seed, len(self.shown), state.G.z_dim)
        self.rows_of_metrics: list[Row] = []
        """What metrics.jsonl holds."""
        self.grid_labels = torch.from_numpy(dataset.labels(self.shown)) if dataset.label_size else None

    def begin(self) -> None:
        """Cuts the files to what the state knows; a new run gets its first pictures."""
        retry(lambda: self.files.restore(self.state.tick), self.outbox.say)
        self.rows_of_metrics = read_rows(Storage.at(self.files.folder), "metrics.jsonl")
        if self.state.iteration == 0:
            reals = torch.stack([torch.from_numpy(self._real(index)) for index in self.shown.tolist()])
            self.files.picture("reals", image_grid(reals, self.cols, self.rows), 0)
            self._fakes("fakes_init", self._lod_now())
            if self.cfg.train.save_tf_graph:
                save_graph(self.files.folder / "tensorboard", self.state.G, self.state.D)

    def at_pause(self, pause: Pause) -> None:
        """Writes what is due: the tick's row, pictures, networks, and the final network."""
        if pause.stats is None:
            return
        self.files.tick(pause.stats)
        tick, name, train = pause.stats["Progress/tick"], kimg_name(self.state.cur_nimg), self.cfg.train
        if pause.done or _due(tick, train.image_snapshot_ticks):
            self._fakes(f"fakes{name}", self.state.prev_lod)
        if _due(tick, train.network_snapshot_ticks) or pause.done:
            self.keep(f"network-snapshot-{name}.safetensors")
            if train.save_weight_histograms:
                self.files.add(weight_histograms({"G": self.state.G, "D": self.state.D}), self.state.cur_nimg)
        if pause.done:
            self.keep("network-final.safetensors")

    def has_metrics(self, tick: int) -> bool:
        """Whether metrics.jsonl has rows of a tick."""
        return any(row["Progress/tick"] == tick for row in self.rows_of_metrics)

    def metrics(self, rows: Sequence[Row], keep: Callable[[str], None] | None = None) -> None:
        """Notes rows of metrics. A network that is the best one so far is kept as best-METRIC.safetensors.

        `keep` keeps the network that the rows are of under a name; null: it is the present one.
        """
        for row in rows:
            name, value = row["metric"], row["value"]
            before = [r["value"] for r in self.rows_of_metrics if r["metric"] == name and r["value"] is not None]
            if value is not None and all(is_better(name, value, than) for than in before):
                (keep or self.keep)(f"best-{name}.safetensors")
            self.files.metric(row)
            self.rows_of_metrics.append(row)

    def save(self) -> None:
        """Puts a checkpoint on its way, with the growing files brought up to date before it."""
        self.outbox.checkpoint(Snapshot.of(self.state, self.cfg), before=self.files.sync)

    def keep(self, name: str) -> None:
        """Puts the present network on its way to a file."""
        self.outbox.file(name, self.network())

    def network(self) -> bytes:
        """G, D and G_ema as a .safetensors file."""
        state = self.state
        lod = max(state.prev_lod, 0.0)
        return save_network(state.G, state.D, state.G_ema, self.cfg, state.cur_nimg, lod=lod)

    def _lod_now(self) -> float:
        """The lod that the next group will have."""
        return training_schedule(self.cfg, self.state.cur_nimg, math.log2(max(self.dataset.resolution))).lod

    def _fakes(self, name: str, lod: float) -> None:
        cfg = self.cfg
        fakes = snapshot_fakes(
            self.state.G_ema, self.grid_z, self.grid_labels, cfg.schedule.minibatch_gpu, cfg.train.drange_net, lod
        )
        self.files.picture(name, image_grid(fakes, self.cols, self.rows), self.state.cur_nimg)

    def _real(self, index: int):
        """A picture of the data set; a bad one is shown as black where the policy is to skip it."""
        from stylegan_ray.data.errors import BadImage

        try:
            return self.dataset.read(index)
        except BadImage:
            if self.cfg.data.on_bad_image == "error":
                raise
            return torch.zeros(self.dataset.num_channels, *self.dataset.resolution, dtype=torch.uint8).numpy()


def _due(tick: int, every: int | None) -> bool:
    """Whether something that happens every so many ticks happens at this one; None: at the first only."""
    return tick % every == 0 if every else tick == 0
