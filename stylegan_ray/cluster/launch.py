"""From a configuration to a finished run: data, storage, cluster, TorchTrainer, last words."""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from stylegan_ray.cluster.nodes import code_checksum, version_of
from stylegan_ray.cluster.preflight import Clearance, checked_nodes
from stylegan_ray.cluster.resources import Say, Share, joined, share_of_cluster
from stylegan_ray.config import ConfigError, RunConfig, differences
from stylegan_ray.data import open_dataset
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.report.console import ConsoleView, ProgressLine, closing_message
from stylegan_ray.report.graph import check_graph
from stylegan_ray.run_folder import (
    CHECKPOINTS,
    CONFIG,
    FINAL_NETWORK,
    RAY_LIST,
    RUN_FILE,
    WRITABLE,
    checkpoint_nimg,
    complete_checkpoints,
    delete_leftovers,
    refuse_relative_paths,
    storage_address,
)
from stylegan_ray.storage import Storage, join_address, one_line
from stylegan_ray.train.metrics import check_metrics
from stylegan_ray.train.resume import check_start
from stylegan_ray.train.schedule import check_growing

RAY_DEFAULTS = {
    # Ray Train looks at its workers this often; the one report of a run waits for one look.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # A worker that does not answer for so long is taken for dead.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "300",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "20",
}
PAUSES_SEC = (1.0, 5.0, 15.0, 30.0, 60.0)
"""Before Ray Train is started anew after a failure that it does not retry itself; the last one repeats."""


@dataclass
class Run:
    """One run, as the driver sees it."""

    cfg: RunConfig
    """Complete: data path, resolution and channels are filled in."""
    dataset: Dataset
    address: str
    resume_from: str | None = None
    clearance: Clearance | None = None
    """What the preflight has seen."""
    command: str | None = None
    """What was typed; null: what this process was started by."""

    @property
    def storage(self) -> Storage:
        return Storage.at(self.address)

    @property
    def cur_nimg(self) -> int:
        """Where the newest complete checkpoint stands."""
        names = complete_checkpoints(self.storage.folder(CHECKPOINTS))
        return checkpoint_nimg(names[-1]) or 0 if names else 0

    @property
    def is_finished(self) -> bool:
        return self.storage.exists(FINAL_NETWORK) and self.cur_nimg >= self.cfg.train.total_kimg * 1000


def train(cfg: RunConfig, resume_from: str | None = None) -> int:
    """Trains a run, or continues it; returns the exit status."""
    use_ray_defaults()
    run = prepare(cfg, resume_from)
    view = ConsoleView(run.cfg.train.total_kimg)
    if run.is_finished:
        view.message(
            f"Run {run.address} is finished at {run.cur_nimg / 1000:g} kimg; a larger train.total_kimg continues it."
        )
        view.message(closing_message(run.address, run.cfg, "done", spoken_command()))
        return 0
    with joined(run.cfg, view.message):
        share = share_of_cluster(run.cfg, view.message)
        cut_off = was_cut_off(run)
        with checked_nodes(run.cfg, run.dataset, run.address, share, view.message) as run.clearance:
            write_beginnings(run, share)
            view.message(f"Run {run.address}\nStarting {share.spoken()}")
            return fit(run, share, view, cut_off)


def use_ray_defaults() -> None:
    """Sets the variables that Ray Train reads, where nobody has set them."""
    os.environ.update({key: value for key, value in RAY_DEFAULTS.items() if key not in os.environ})


def prepare(cfg: RunConfig, resume_from: str | None = None) -> Run:
    """Opens data and storage and checks that the run may begin or go on; raises ConfigError before anything starts."""
    complete, dataset = completed(cfg, resume_from)
    assert complete.run.name is not None and complete.run.storage is not None
    run = Run(complete, dataset, join_address(complete.run.storage, complete.run.name), resume_from)
    check_writable(run.storage)
    check_continues(run)
    if resume_from is not None and not run.cur_nimg:
        check_start(complete, dataset.resolution, dataset.num_channels, dataset.label_size, resume_from)
    return run


def completed(cfg: RunConfig, resume_from: str | None = None) -> tuple[RunConfig, Dataset]:
    """The configuration with name, storage, data path, resolution and channels filled in, and the data opened."""
    refuse_relative_paths(cfg, resume_from)
    with ProgressLine() as progress:
        dataset = open_dataset(cfg.data, cfg.run.seed, progress)
    check_growing(cfg, dataset.resolution)
    check_metrics(cfg, dataset)
    check_graph(cfg)
    if cfg.data.path not in (None, "openmoji") and "://" not in cfg.data.path:
        cfg = cfg.with_overrides({"data.path": str(Path(cfg.data.path).expanduser().absolute())})
    height, width = dataset.resolution
    complete = cfg.with_overrides(
        {
            "run.name": cfg.run.name or default_name(cfg),
            "run.storage": storage_address(cfg.run.storage),
            "data.resolution": height if height == width else (height, width),
            "data.channels": dataset.num_channels,
        }
    )
    return complete, dataset


def default_name(cfg: RunConfig) -> str:
    """<preset>-<data>-<8 hex digits of the configuration>."""
    data = "openmoji" if cfg.data.path is None else Path(cfg.data.path.rstrip("/")).stem
    return f"{cfg.run.preset}-{data}-{cfg.digest()}"


def check_writable(storage: Storage) -> None:
    """Raises ConfigError when the run's folder cannot be written."""
    try:
        storage.write(WRITABLE, b"")
        storage.filesystem.delete_file(storage.path(WRITABLE))
    except OSError as error:
        raise ConfigError(
            f"run.storage: {storage.path()} cannot be written: {error}; give another with --run.storage, or set "
            f"STYLEGAN_RAY_STORAGE"
        ) from error


def check_continues(run: Run) -> None:
    """Raises ConfigError when the folder holds a run that this configuration or data does not continue."""
    if not run.storage.exists(CONFIG) or not complete_checkpoints(run.storage.folder(CHECKPOINTS)):
        return
    old = load_config_text(run.storage.read(CONFIG).decode())
    changed = differences(old, run.cfg)
    if changed:
        lines = "\n".join(f"  {key}: {before!r} then, {after!r} now" for key, (before, after) in changed.items())
        raise ConfigError(
            f"run {run.address} was begun with another configuration:\n{lines}\n"
            f"give the old values, or another --run.name for a new run"
        )
    before = json.loads(run.storage.read(RUN_FILE))["data"]["fingerprint"]
    if before != run.dataset.fingerprint:
        raise ConfigError(
            f"run {run.address} was begun on other data: fingerprint {before} then, {run.dataset.fingerprint} now "
            f"({run.dataset.path}); put the pictures back as they were, or give another --run.name for a new run"
        )


def load_config_text(text: str) -> RunConfig:
    """The configuration of a saved config.yaml."""
    import yaml

    from stylegan_ray.config import validated

    return validated(yaml.safe_load(text))


def was_cut_off(run: Run) -> bool:
    """Whether the last command that trained this run had no chance to say how it ended."""
    try:
        return run.cur_nimg > 0 and json.loads(run.storage.read(RUN_FILE))["ended"] is None
    except (FileNotFoundError, ValueError, KeyError):
        return False


def write_beginnings(run: Run, share: Share) -> None:
    """config.yaml and run.json; forgets an old STOP, what Ray Train remembers of checkpoints, and unfinished files."""
    storage = run.storage
    delete_leftovers(storage)
    storage.write(CONFIG, run.cfg.to_yaml().encode())
    storage.write(RUN_FILE, json.dumps(provenance(run, share), indent=1).encode())


def write_end(run: Run, state: str) -> None:
    """Notes in run.json how the command ended; a storage that fails changes nothing about that."""
    with suppress(OSError, ValueError):
        told = json.loads(run.storage.read(RUN_FILE))
        run.storage.write(RUN_FILE, json.dumps(told | {"ended": state}, indent=1).encode())


def provenance(run: Run, share: Share) -> dict[str, Any]:
    """What run.json says: versions, host, command, and where the data is from."""
    packages = ("stylegan-ray", "torch", "ray", "numpy", "pillow", "pyarrow")
    data = run.dataset
    return {
        "name": run.cfg.run.name,
        "command": run.command or spoken_command(),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in packages} | {"stylegan_ray": code_checksum()},
        "workers": share.describe(),
        "resume_from": run.resume_from,
        "ended": None,
        "data": {
            "path": data.path,
            "fingerprint": data.fingerprint,
            "num_images": data.num_images,
            "resolution": list(data.resolution),
            "num_channels": data.num_channels,
            "label_size": data.label_size,
            "attribution": data.attribution,
        },
    }


def spoken_command() -> str:
    """The command as it was typed."""
    return shlex.join(["python" if sys.argv[0].endswith(".py") else "", *sys.argv]).removeprefix("'' ")


def fit(run: Run, share: Share, view: ConsoleView, cut_off: bool) -> int:
    """Runs the TorchTrainer beside the view, anew where it fails for reasons that pass; returns the exit status."""
    import ray

    from stylegan_ray.cluster.channel import mailbox_here

    mailbox = mailbox_here()
    if cut_off:
        ray.get(mailbox.fault.remote("the driver or the whole cluster was lost"))
    with asked_to_stop(lambda: mailbox.stop.remote(), view.message) as interrupted:
        outcome, failure = keep_fitting(run, share, view, mailbox, interrupted)
    view.close()
    write_end(run, f"failed: {one_line(failure)}" if failure else outcome)
    if failure:
        print(f"error: {failure}", file=sys.stderr, flush=True)
        return 1
    view.message(closing_message(run.address, run.cfg, "done" if outcome == "done" else "stopped", spoken_command()))
    return 130 if interrupted() else 0


class View(Protocol):
    """Who hears what rank 0 says."""

    def tick(self, row: Mapping[str, Any], /) -> None: ...

    def metric(self, values: Mapping[str, Any], /) -> None: ...

    def message(self, text: str) -> None: ...

    def refresh(self) -> None: ...


def keep_fitting(
    run: Run, share: Share, view: View, mailbox: Any, interrupted: Callable[[], bool]
) -> tuple[str, str | None]:
    """Attempts until one ends the run; returns how it ended ("done" or "stopped"), and why it failed if it did.

    Ray Train restarts its workers by itself; here is what it gives up on: the set-up of the workers' network, its own
    controller, a storage that does not let it begin. The mailbox counts, and says when to give up after all.
    """
    from stylegan_ray.cluster.faults import is_final
    from stylegan_ray.cluster.ray_private import free_workers
    from stylegan_ray.cluster.trainer import fitted

    assert run.clearance is not None
    trace = os.environ.get("STYLEGAN_RAY_TRACE")
    work = partial(fitted, run.cfg, run.dataset, run.address, share, mailbox, run.resume_from, run.clearance, trace)
    num_failed = 0
    while True:
        free_workers(run.cfg.run.name)
        attempt = Attempt(work, mailbox)
        attempt.start()
        failure = watch(attempt, view, mailbox)
        if failure is not None or attempt.error is None:
            return attempt.outcome or "stopped", failure
        if is_final(attempt.error):
            return "stopped", str(attempt.error)
        if interrupted():
            return "stopped", None
        mailbox.fault.remote(f"Ray Train ended: {one_line(attempt.error)}")
        time.sleep(PAUSES_SEC[min(num_failed, len(PAUSES_SEC) - 1)])
        num_failed += 1
        with suppress(OSError):
            run.storage.delete(RAY_LIST)


class Attempt(threading.Thread):
    """The training in a thread, since the main thread shows progress and hears signals.

    Ray Train is led from an actor: from this process, where it is one, as a trial of a sweep is; else from the mailbox.
    """

    def __init__(self, work: Callable[[], Any], mailbox: Any) -> None:
        super().__init__(daemon=True, name="fit")
        self.work, self.mailbox = work, mailbox
        self.outcome: str | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        import ray

        try:
            if ray.get_runtime_context().get_actor_id() is not None:
                self.outcome = self.work()
            else:
                environment = {key: value for key, value in os.environ.items() if key.startswith("RAY_TRAIN_")}
                self.outcome = ray.get(self.mailbox.fit.remote(self.work, environment))
        except BaseException as error:
            self.error = getattr(error, "cause", None) or error


def watch(attempt: Attempt, view: View, mailbox: Any, every_sec: float = 0.5) -> str | None:
    """Shows what rank 0 says until the attempt ends; returns what makes any other attempt pointless, or None."""
    import ray
    from ray.exceptions import ActorUnavailableError, RayError

    from stylegan_ray.cluster.channel import FAIL, METRIC, SAY, TICK

    while True:
        alive = attempt.is_alive()
        try:
            items = ray.get(mailbox.take.remote())
        except ActorUnavailableError:
            items = []  # its process died and comes back
        except RayError as error:
            return f"the Ray cluster does not answer any more: {one_line(error)}; the same command continues the run"
        for kind, content in items:
            if kind == TICK:
                view.tick(content)
            elif kind == METRIC:
                view.metric(content)
            elif kind == FAIL:
                return content
            elif kind == SAY:
                view.message(content)
        if not alive:
            return None
        view.refresh()
        attempt.join(every_sec)


@contextmanager
def asked_to_stop(stop: Any, say: Say) -> Iterator[Any]:
    """Turns the first SIGINT or SIGTERM into a wish to save and stop; the second one ends the driver at once."""
    seen: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        stop()
        say("Saving, then stopping; once more to stop at once.")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
