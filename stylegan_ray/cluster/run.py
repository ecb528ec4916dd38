"""A run, as the driver sees it: its configuration, data and folder; what must hold before it starts or continues."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from stylegan_ray.cluster.origin import command_line, provenance
from stylegan_ray.cluster.preflight import Clearance
from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.source import Source, stored_source
from stylegan_ray.cluster.worker import Observer
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.credentials import clean
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.jsonl import dated_metric_rows, nimg_of_row
from stylegan_ray.report.console import ProgressLine
from stylegan_ray.report.graph import check_graph
from stylegan_ray.report.trackers import check_trackers
from stylegan_ray.run_folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    RAY_FOLDER,
    RUN_FILE,
    WRITABLE,
    checkpoint_nimg,
    complete_checkpoints,
    delete_leftovers,
    final_nimg,
    read_run_file,
    refuse_relative_paths,
)
from stylegan_ray.storage import Storage
from stylegan_ray.train.checks import check_new, check_subject, check_with_data, notes
from stylegan_ray.train.started import address_of, check_continues, placed, with_shape, with_values
from stylegan_ray.train.stop_when import why_to_stop
from stylegan_ray.train.transfer import check_start


@dataclass
class Run:
    """One run, as the driver sees it."""

    cfg: RunConfig
    """Complete: data path, resolution and channels are filled in."""
    dataset: Dataset
    address: str
    source: Source | None = None
    """The networks that it starts from; None: new ones."""
    clearance: Clearance | None = None
    """The result of the preflight."""
    command: str | None = None
    """The command line to continue with; None: that of this process."""
    observer: Observer | None = None
    """Wraps the minibatches of each worker."""
    first_words: str = ""
    """What to say before anything starts."""
    group: str | None = None
    """The sweep that it is a trial of, for trackers."""
    in_process: bool = False
    """Train in this process, for a single worker, instead of in workers that Ray Train starts: its local mode."""

    @property
    def storage(self) -> Storage:
        return Storage.at(self.address)

    @property
    def cur_nimg(self) -> int:
        """Images shown at the newest complete checkpoint; 0 without one."""
        return checkpoint_nimg(self.newest_checkpoint or "") or 0

    @property
    def newest_checkpoint(self) -> str | None:
        """Name of the newest complete checkpoint; None without one."""
        return next(reversed(complete_checkpoints(self.storage.folder(CHECKPOINTS))), None)

    @property
    def is_started(self) -> bool:
        """Whether there is a complete checkpoint to continue from."""
        return self.newest_checkpoint is not None

    @property
    def is_finished(self) -> bool:
        """Whether the newest checkpoint is that of an end, with its final network."""
        nimg = self.cur_nimg
        if final_nimg(self.storage) != nimg:
            return False
        return nimg >= self.cfg.train.total_nimg or self.stops_early

    @property
    def stops_early(self) -> bool:
        """Whether train.stop_when ends the run at its newest checkpoint."""
        if self.cfg.train.stop_when is None or not self.storage.exists(METRICS):
            return False
        rows = [row for row in dated_metric_rows(self.storage, METRICS) if nimg_of_row(row) <= self.cur_nimg]
        return why_to_stop(self.cfg, rows) is not None


def prepare(cfg: RunConfig, resume_from: str | None = None) -> Run:
    """Opens data and storage; raises ConfigError when the run cannot start or continue."""
    complete, dataset = complete_config(cfg, resume_from)
    run = Run(complete, dataset, address_of(complete))
    check_writable(run.address)
    words: list[str] = []
    if run.is_started:
        run.source = stored_source(run.storage, resume_from)
        check_continues(complete, dataset, resume_from)
        check_total(run)
    else:
        check_new(complete, resume_from is not None)
    if resume_from is not None and not run.is_started:
        run.source = Source.of(resume_from)
        shape = (dataset.resolution, dataset.num_channels, dataset.label_size)
        words.append(check_start(complete, *shape, run.source.address))
    run.first_words = "\n".join([*notes(complete, dataset, run.source is not None), *words])
    return run


def complete_config(cfg: RunConfig, resume_from: str | None = None) -> tuple[RunConfig, Dataset]:
    """The configuration with name, storage, data path, resolution and channels filled in, and the opened data set."""
    refuse_relative_paths(cfg, resume_from)
    with ProgressLine() as progress:
        dataset = open_dataset(cfg.data, cfg.run.seed, progress)
    check_with_data(cfg, dataset)
    check_graph(cfg)
    check_trackers(cfg)
    cfg = placed(cfg)
    complete = with_shape(with_values(cfg, dataset.resolution, address_of(cfg)), dataset)
    check_subject(complete, dataset)
    return complete, dataset


def check_writable(address: str) -> None:
    """Raises ConfigError when the run's folder at this address cannot be written."""
    try:
        storage = Storage.at(address)
        storage.write(WRITABLE, b"")
        storage.delete(WRITABLE)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"run.storage: {address} cannot be written: {error}; give another with --run.storage, or set "
            f"STYLEGAN_RAY_STORAGE"
        ) from error


def check_total(run: Run) -> None:
    """Raises ConfigError when a started run has gone beyond train.total_kimg and did not end where it is."""
    total, reached = run.cfg.train.total_kimg, f"{run.cur_nimg / 1000:.12g}"
    if run.cur_nimg > run.cfg.train.total_nimg and not run.is_finished:
        raise ConfigError(
            f"train.total_kimg={total:g} must be at least {reached}, which run {run.address} has reached; "
            f"--train.total_kimg {reached} ends it there, a larger value trains it further"
        )


def has_ended(run: Storage) -> bool:
    """Whether the last command that trained a run could store how it ended."""
    try:
        return read_run_file(run)["ended"] is not None
    except (FileNotFoundError, ValueError, KeyError):
        return True


def write_start(run: Run, share: Share) -> None:
    """Writes config.yaml and run.json; deletes an old STOP, unfinished files and the folders of Ray Train."""
    storage = run.storage
    delete_leftovers(storage)
    storage.write(CONFIG, run.cfg.to_yaml().encode())
    entry = provenance(run.cfg.run.name, run.command or command_line(), run.dataset, run.source, share)
    storage.write(RUN_FILE, json.dumps(clean(entry), indent=1).encode())


def write_end(run: Run, state: str) -> None:
    """Stores in run.json how the command ended, where the storage lets it, and deletes the folder of Ray Train."""
    with suppress(OSError, ValueError):
        content = read_run_file(run.storage)
        run.storage.write(RUN_FILE, json.dumps(content | {"ended": state}, indent=1).encode())
        run.storage.delete_folder(RAY_FOLDER)
