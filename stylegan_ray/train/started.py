"""Where a run is stored, and what it keeps from when it started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stylegan_ray.config import ConfigError, RunConfig, differences
from stylegan_ray.credentials import without_credentials
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.jsonl import dated_metric_rows, nimg_of_row
from stylegan_ray.run_folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS,
    checkpoint_nimg,
    complete_checkpoints,
    final_nimg,
    read_config,
    read_run_file,
    storage_address,
)
from stylegan_ray.storage import Storage, absolute, join_address
from stylegan_ray.train.auto import with_choices
from stylegan_ray.train.stop_when import why_to_stop
from stylegan_ray.untrusted import printable

LONGEST_NAME = 60
"""Characters of the data's name in the name of a run, at most."""


@dataclass
class RunProgress:
    """How far the run at an address has come."""

    cfg: RunConfig
    address: str

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


def placed(cfg: RunConfig) -> RunConfig:
    """The configuration with name, storage and the absolute path of its data filled in."""
    if cfg.data.path not in (None, "openmoji"):
        cfg = cfg.with_overrides({"data.path": absolute(cfg.data.path)})
    name = cfg.run.name or default_name(cfg)
    return cfg.with_overrides({"run.name": name, "run.storage": storage_address(cfg.run.storage)})


def address_of(cfg: RunConfig) -> str:
    """The address of the run of a placed configuration."""
    assert cfg.run.name is not None and cfg.run.storage is not None
    return join_address(cfg.run.storage, cfg.run.name)


def default_name(cfg: RunConfig) -> str:
    """<preset>-<data>-<8 hex digits of the configuration>."""
    path = "openmoji" if cfg.data.path is None else without_credentials(cfg.data.path)
    data = Path(path.partition("?")[0].rstrip("/") if "://" in path else path.rstrip("/")).stem
    kept = "".join(character if character.isprintable() and character not in "/\\?#" else "_" for character in data)
    return f"{cfg.run.preset}-{kept[:LONGEST_NAME]}-{cfg.digest()}"


def with_values(cfg: RunConfig, resolution: Sequence[int], address: str) -> RunConfig:
    """The configuration with the keys in train.auto chosen, or as they were when the run at this address started."""
    stored = stored_config(address) if cfg.train.auto else None
    return with_choices(cfg, resolution) if stored is None else with_stored(cfg, stored)


def with_stored(cfg: RunConfig, stored: RunConfig) -> RunConfig:
    """The configuration with the keys in train.auto as they are stored."""
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


def with_shape(cfg: RunConfig, data: Dataset) -> RunConfig:
    """The configuration with resolution and channels of the data."""
    height, width = data.resolution
    resolution = height if height == width else (height, width)
    return cfg.with_overrides({"data.resolution": resolution, "data.channels": data.num_channels})


def check_continues(cfg: RunConfig, data: Dataset, resume_from: str | None = None) -> None:
    """Raises ConfigError when the run of a complete configuration was started with another one, or on other data."""
    address = address_of(cfg)
    run = Storage.at(address)
    if not run.exists(CONFIG):
        return
    changed, stored = differences(read_config(run), cfg), read_run_file(run)
    if changed:
        lines = [f"  {key}: {before!r} then, {after!r} now" for key, (before, after) in changed.items()]
        source = stored.get("source")
        old_values = "give the old values"
        if isinstance(source, dict) and resume_from is None:  # it changes the defaults of some keys
            old_values = f"give --resume-from {printable(source.get('given'))} as before, or the old values"
        raise ConfigError(
            f"run {address} was started with another configuration:",
            *lines,
            f"{old_values}, or another --run.name for a new run",
        )
    kept = stored.get("data")
    before = kept.get("fingerprint") if isinstance(kept, dict) else None
    if before != data.fingerprint:
        raise ConfigError(
            f"run {address} was started on other data: fingerprint {before} then, {data.fingerprint} now "
            f"({data.path}); restore the images, or give another --run.name for a new run"
        )


def check_total(run: RunProgress) -> None:
    """Raises ConfigError when a started run has gone beyond train.total_kimg and did not end where it is."""
    total, reached = run.cfg.train.total_kimg, f"{run.cur_nimg / 1000:.12g}"
    if run.cur_nimg > run.cfg.train.total_nimg and not run.is_finished:
        raise ConfigError(
            f"train.total_kimg={total:g} must be at least {reached}, which run {run.address} has reached; "
            f"--train.total_kimg {reached} ends it there, a larger value trains it further"
        )


def has_source(address: str) -> bool:
    """Whether the run at an address started from other networks."""
    try:
        return read_run_file(Storage.at(address)).get("source") is not None
    except (OSError, ValueError):
        return False
