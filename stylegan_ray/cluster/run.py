"""A run, as the driver sees it: its configuration, data and folder; what must hold before it starts or continues."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from stylegan_ray.cluster.origin import command_line, provenance
from stylegan_ray.cluster.preflight import Clearance
from stylegan_ray.cluster.resources import Share
from stylegan_ray.cluster.worker import Observer
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.credentials import clean
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.report.console import ProgressLine
from stylegan_ray.report.graph import check_graph
from stylegan_ray.report.trackers import check_trackers
from stylegan_ray.run_folder import (
    CONFIG,
    RAY_FOLDER,
    RUN_FILE,
    WRITABLE,
    delete_leftovers,
    read_run_file,
    refuse_relative_paths,
)
from stylegan_ray.storage import Storage
from stylegan_ray.train.checks import check_new, check_subject, check_with_data, notes
from stylegan_ray.train.source import Source, stored_source
from stylegan_ray.train.started import (
    RunProgress,
    address_of,
    check_continues,
    check_total,
    placed,
    with_shape,
    with_values,
)
from stylegan_ray.train.transfer import check_start


@dataclass
class Run(RunProgress):
    """One run, as the driver sees it. Its configuration has data path, resolution and channels filled in."""

    dataset: Dataset
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


def prepare(cfg: RunConfig, resume_from: str | None = None) -> Run:
    """Opens data and storage; raises ConfigError when the run cannot start or continue."""
    complete, dataset = complete_config(cfg, resume_from)
    run = Run(complete, address_of(complete), dataset)
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
