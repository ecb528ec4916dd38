"""From a configuration to a finished run: data, storage, cluster, TorchTrainer, closing message."""

from __future__ import annotations

import json
import os
import shlex
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, LoggingConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer

from stylegan_ray.cluster.faults import FaultCallback, FaultLog
from stylegan_ray.cluster.gauges import Gauges
from stylegan_ray.cluster.origin import command_line, data_entry, provenance
from stylegan_ray.cluster.preflight import Clearance, checked_nodes
from stylegan_ray.cluster.process_group import WorkerSetup
from stylegan_ray.cluster.resources import Share, joined, share_of_cluster
from stylegan_ray.cluster.signals import stop_on_signals
from stylegan_ray.cluster.source import Source, stored_source
from stylegan_ray.cluster.supervise import Outcome, Supervisor, View
from stylegan_ray.cluster.worker import Observer, WorkerConfig, train_worker
from stylegan_ray.config import ConfigError, RunConfig, differences
from stylegan_ray.credentials import clean, without_credentials
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.lease import Claim, Lease, held
from stylegan_ray.report.console import ConsoleView, ProgressLine, closing_message
from stylegan_ray.report.graph import check_graph
from stylegan_ray.report.page import try_to_write_page
from stylegan_ray.report.trackers import About, Deliveries, check_trackers
from stylegan_ray.run_folder import (
    CHECKPOINTS,
    CONFIG,
    FINAL_NETWORK,
    METRICS,
    RAY_FOLDER,
    RUN_FILE,
    WRITABLE,
    checkpoint_nimg,
    complete_checkpoints,
    delete_leftovers,
    networks_of,
    nimg_of_row,
    ray_folder,
    read_config,
    read_jsonl,
    read_run_file,
    refuse_relative_paths,
    storage_address,
)
from stylegan_ray.storage import Storage, join_address, one_line
from stylegan_ray.train.auto import with_choices
from stylegan_ray.train.memory import Subject
from stylegan_ray.train.metrics import check_metrics
from stylegan_ray.train.schedule import check_growing
from stylegan_ray.train.stop_when import check_stop_when, why_to_stop
from stylegan_ray.train.transfer import check_start

RAY_DEFAULTS = {
    # How often Ray Train polls its workers: how soon it notices their end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # A worker that does not answer for so long counts as dead.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "20",
}
RAY_DEFAULTS_FOR_GPUS = {
    # Where NCCL tells that its operations do not get on, the workers restart. Not tried: no GPU was there.
    "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR": "1",
    "RAY_TRAIN_NCCL_RAS_ACTION": "fail",
}
NEWEST_TRIED_RAY = (2, 60)
RUN_CLAIM = "run"
"""What train and tune claim in a folder: all but what evaluate writes there."""
LONGEST_NAME = 60
"""Characters of the data's name in the name of a run, at most."""
SEC_BETWEEN_RESIZES = 20.0
"""How often an elastic group looks for new nodes at most."""


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
    first_words: str | None = None
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
        nimg = self.cur_nimg
        if not self.storage.exists(FINAL_NETWORK):
            return False
        if nimg >= self.cfg.train.total_nimg:
            return True
        return self.stops_early and networks_of(self.storage)[FINAL_NETWORK] == nimg

    @property
    def stops_early(self) -> bool:
        """Whether train.stop_when ends the run at its newest checkpoint."""
        if self.cfg.train.stop_when is None or not self.storage.exists(METRICS):
            return False
        rows = [row for row in read_jsonl(self.storage, METRICS) if nimg_of_row(row) <= self.cur_nimg]
        return why_to_stop(self.cfg, rows) is not None


def train(cfg: RunConfig, resume_from: str | None = None, observer: Observer | None = None) -> int:
    """Trains a run, or continues it; returns the exit status. `observer` wraps the minibatches of each worker."""
    use_ray_defaults()
    run = prepare(cfg, resume_from)
    run.observer = observer
    view, before = ConsoleView(run.cfg.train.total_kimg), run.newest_checkpoint
    if run.is_finished:
        view.message(f"Run {run.address} is finished at {run.cur_nimg / 1000:g} kimg; {way_on(run)} continues it.")
        view.message(closing_message(run.address, run.cfg, "done", command_line(), run.cur_nimg / 1000))
        deliveries_of(run, view.message).finish("done")
        return 0
    warn_of_new_ray(ray.__version__, view.message)
    with run_lease(run.address, "train", view.message), joined(run.cfg, view.message):
        share = share_of_cluster(run.cfg, view.message)
        with checked_nodes(run.cfg, run.dataset, run.address, share, view.message) as run.clearance:
            view.message("\n".join(filter(None, [
                f"Run {run.address}", run.dataset.describe_labels(), run.first_words, f"Starting {share.format()}",
            ])))  # fmt: skip
            with stop_on_signals(view.message) as stop_requested:
                outcome = train_run(run, share, view, stop_requested)
            view.close()
            if outcome.reason or outcome.state in ("diverged", "failed"):
                why = outcome.reason or f"the run {outcome.state}; Ray's logs may say why"
                print(f"error: {without_credentials(why)}", file=sys.stderr, flush=True)
                return 1
            has_saved = run.newest_checkpoint != before
            state = "done" if outcome.state == "done" else "stopped" if has_saved else "unchanged"
            view.message(closing_message(run.address, run.cfg, state, command_line()))
            return 130 if stop_requested() else 0


def run_lease(address: str, command: str, say: Callable[[str], None]) -> AbstractContextManager[Lease]:
    """Inside, this command alone writes the run or sweep at an address."""
    way_out = f"wait for its end, end it with stylegan-ray stop {shlex.quote(address)}, or give another --run.name"
    return held(address, command, [Claim(RUN_CLAIM)], way_out, say, "run.storage")


def train_run(run: Run, share: Share, view: View, stop_requested: Callable[[], bool] = lambda: False) -> Outcome:
    """Trains a run that the preflight has cleared, in this process's Ray; returns how it ended.

    Works in a driver and in an actor, in any thread. `stop_requested` is called twice a second; when it returns true,
    or when a STOP file appears in the run's folder, the run saves its state and stops.
    """
    was_lost = run.cur_nimg > 0 and not has_ended(run.storage)
    write_start(run, share)
    faults = FaultLog(run.storage)
    faults.add_command(run.command or command_line())
    if was_lost:
        faults.add_fault("the driver or the whole cluster was lost")
    most_failures = run.cfg.cluster.max_failures if run.in_process else -1  # Ray Train counts those of its workers
    view = Gauges(view, run.storage, run.cfg.run.name or "")
    supervisor = Supervisor(run.storage, faults, view, stop_requested, run.cfg.cluster, most_failures)
    deliveries = deliveries_of(run, view.message)
    deliveries.start()
    outcome = Outcome("failed", "interrupted")
    try:
        outcome = supervisor.outcome_of(partial(fit_once, run, share, supervisor.channel, faults))
    finally:
        write_end(run, f"failed: {one_line(outcome.reason)}" if outcome.reason else outcome.state)
    if run.group is None:  # a sweep has its own report
        try_to_write_page(run.storage, view.message)
    deliveries.end(outcome.state)
    return outcome


def way_on(run: Run) -> str:
    """What continues a finished run."""
    if run.cur_nimg < run.cfg.train.total_nimg:
        return f"another train.stop_when than {run.cfg.train.stop_when}"
    return "a larger train.total_kimg"


def deliveries_of(run: Run, say: Callable[[str], None]) -> Deliveries:
    """What brings the run to the trackers of its configuration."""
    about = About(run.cfg, run.command or command_line(), clean(data_entry(run.dataset)), run.group)
    return Deliveries(run.cfg, run.storage, about, say)


def fit_once(run: Run, share: Share, channel: Any, faults: FaultLog) -> Outcome:
    """Calls Ray Train once; returns what rank 0 returned, or raises what Ray Train gave up with."""
    folder = ray_folder(uuid.uuid4().hex[:8])
    try:
        result: Any = trainer_of(run, share, channel, faults, join_address(run.address, folder)).fit()
    finally:
        with suppress(OSError):
            run.storage.delete_folder(folder)
    return Outcome(*result.return_value)


def trainer_of(run: Run, share: Share, channel: Any, faults: FaultLog, ray_folder: str) -> TorchTrainer:
    """Workers, failure policy and a folder for Ray Train's own files, of which a run that continues needs none."""
    cfg = run.cfg
    assert run.clearance is not None
    if share.gpus:
        use_defaults(RAY_DEFAULTS_FOR_GPUS)
    worker = WorkerConfig(
        cfg.model_dump(mode="json"), run.dataset, run.address, share.threads, channel, run.clearance,
        run.source.address if run.source else None, run.observer, run.in_process,
    )  # fmt: skip
    return TorchTrainer(
        train_worker,
        train_loop_config={"worker": worker},
        torch_config=WorkerSetup(),
        scaling_config=ScalingConfig(
            num_workers=0 if run.in_process else share.num_workers,
            use_gpu=bool(share.gpus),
            resources_per_worker={"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})},
            elastic_resize_monitor_interval_s=SEC_BETWEEN_RESIZES,
        ),
        run_config=RayRunConfig(
            name=cfg.run.name,
            storage_path=ray_folder,
            # Not relax_collectives_on_preemption: from the notice on, Ray's barrier leaves out workers that train on
            # until their node goes, and the group stood still until the deadline (Ray 2.60, a notice of 120 s).
            failure_config=FailureConfig(max_failures=cfg.cluster.max_failures),
            callbacks=[FaultCallback(faults, lambda: channel.end_group.remote())],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def warn_of_new_ray(version: str, say: Callable[[str], None]) -> None:
    """Says when Ray is newer than the newest version that this package has been tried with."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) > NEWEST_TRIED_RAY:
        tried = ".".join(map(str, NEWEST_TRIED_RAY))
        say(f"warning: Ray {version} is newer than {tried}, the newest that was tried; pip install 'ray=={tried}.*'")


def use_ray_defaults() -> None:
    """Sets the variables that Ray Train reads, where nobody has set them."""
    use_defaults(RAY_DEFAULTS)


def use_defaults(defaults: Mapping[str, str]) -> None:
    """Sets variables that nobody has set."""
    os.environ.update({key: value for key, value in defaults.items() if key not in os.environ})


def prepare(cfg: RunConfig, resume_from: str | None = None) -> Run:
    """Opens data and storage; raises ConfigError when the run cannot start or continue."""
    complete, dataset = complete_config(cfg, resume_from)
    assert complete.run.name is not None and complete.run.storage is not None
    run = Run(complete, dataset, join_address(complete.run.storage, complete.run.name))
    check_writable(run.address)
    check_continues(run)
    if run.is_started:
        run.source = stored_source(run.storage, resume_from)
    elif resume_from is not None:
        run.source = Source.of(resume_from)
        run.first_words = check_start(
            complete, dataset.resolution, dataset.num_channels, dataset.label_size, run.source.address
        )
    return run


def complete_config(cfg: RunConfig, resume_from: str | None = None) -> tuple[RunConfig, Dataset]:
    """The configuration with name, storage, data path, resolution and channels filled in, and the opened data set."""
    refuse_relative_paths(cfg, resume_from)
    with ProgressLine() as progress:
        dataset = open_dataset(cfg.data, cfg.run.seed, progress)
    check_growing(cfg, dataset.resolution)
    check_metrics(cfg, dataset)
    check_stop_when(cfg)
    check_graph(cfg)
    check_trackers(cfg)
    if cfg.data.path not in (None, "openmoji") and "://" not in cfg.data.path:
        cfg = cfg.with_overrides({"data.path": str(Path(cfg.data.path).expanduser().absolute())})
    height, width = dataset.resolution
    name, storage = cfg.run.name or default_name(cfg), storage_address(cfg.run.storage)
    complete = with_values(cfg, dataset.resolution, join_address(storage, name)).with_overrides(
        {
            "run.name": name,
            "run.storage": storage,
            "data.resolution": height if height == width else (height, width),
            "data.channels": dataset.num_channels,
        }
    )
    Subject(complete, dataset.resolution, dataset.num_channels, dataset.label_size).check()
    return complete, dataset


def with_values(cfg: RunConfig, resolution: Sequence[int], address: str) -> RunConfig:
    """The configuration with the keys in train.auto chosen, or as they were when the run at this address started."""
    stored = stored_config(address) if cfg.train.auto else None
    if stored is None:
        return with_choices(cfg, resolution)
    return cfg.with_overrides({key: stored.flat()[key] for key in cfg.train.auto})


def stored_config(address: str) -> RunConfig | None:
    """The configuration of the run at an address; None where there is no run with a checkpoint."""
    try:
        run = Storage.at(address)
        if not complete_checkpoints(run.folder(CHECKPOINTS)):
            return None
        return read_config(run)
    except (OSError, ValueError):
        return None


def default_name(cfg: RunConfig) -> str:
    """<preset>-<data>-<8 hex digits of the configuration>."""
    path = "openmoji" if cfg.data.path is None else without_credentials(cfg.data.path)
    data = Path(path.partition("?")[0].rstrip("/") if "://" in path else path.rstrip("/")).stem
    kept = "".join(character if character.isprintable() and character not in "/\\?#" else "_" for character in data)
    return f"{cfg.run.preset}-{kept[:LONGEST_NAME]}-{cfg.digest()}"


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


def check_continues(run: Run) -> None:
    """Raises ConfigError when the folder holds a run of another configuration or other data."""
    if not run.storage.exists(CONFIG) or not run.is_started:
        return
    old = read_config(run.storage)
    changed = differences(old, run.cfg)
    if changed:
        lines = "\n".join(f"  {key}: {before!r} then, {after!r} now" for key, (before, after) in changed.items())
        raise ConfigError(
            f"run {run.address} was started with another configuration:\n{lines}\n"
            f"give the old values, or another --run.name for a new run"
        )
    data = read_run_file(run.storage).get("data")
    before = data.get("fingerprint") if isinstance(data, dict) else None
    if before != run.dataset.fingerprint:
        raise ConfigError(
            f"run {run.address} was started on other data: fingerprint {before} then, {run.dataset.fingerprint} now "
            f"({run.dataset.path}); restore the images, or give another --run.name for a new run"
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
