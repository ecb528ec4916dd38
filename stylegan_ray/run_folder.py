"""The folder of a run: names of its files, its newest network, and finding and stopping runs.

No other module spells these names.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stylegan_ray.config import ConfigError, RunConfig, nearest, validated
from stylegan_ray.jsonl import keep_rows
from stylegan_ray.storage import PART, Storage, absolute, has_file, join_address, one_line, split_address
from stylegan_ray.untrusted import CONFIG_BYTES, BadFileError, check_size, printable, reading
from stylegan_ray.untrusted_text import parse_json, parse_yaml

DEFAULT_STORAGE = "~/stylegan_ray/runs"
RUN_FILE_BYTES = 1 << 24
"""Largest RUN_FILE, which holds the names of classes."""
HEADER_BYTES = 1 << 22
"""Largest header of a network file; that of StyleGAN2 at 1024 pixels takes 40 kB."""

CONFIG = "config.yaml"
RUN_FILE = "run.json"
"""Versions, host, command and data of the run, and how its last command ended."""
STOP = "STOP"
"""A run that finds this file saves its state and stops."""
SWEEP = "sweep.yaml"
"""In a sweep's folder: what it searches."""
WRITABLE = ".writable"
"""Written and deleted again to find out whether the folder can be written."""
TICKS, METRICS, LOG = "stats.jsonl", "metrics.jsonl", "log.txt"
"""The growing files: a row per tick, a row per metric, lines of text."""
FAULTS = "faults.jsonl"
"""Starts, faults and the end of the run, one a row."""
HANGS = "hangs"
"""The folder of stacks of processes that made no progress."""
REPORT = "report.html"
"""The page of the run."""
EVALUATIONS = "evaluations.jsonl"
"""Rows of metrics that `stylegan-ray evaluate` computes."""
TENSORBOARD = "tensorboard"
REALS, FIRST_FAKES = "reals", "fakes_init"
"""Grids of images without the ending .png, as `fakes_name` returns them too."""
FINAL_NETWORK = "network-final.safetensors"
PENDING_METRICS = "metrics-pending"
"""The folder of networks whose metrics are computed beside the training."""
CHECKPOINTS = "checkpoints"
STATE, COUNTERS, COMPLETE = "state.safetensors", "state.json", "COMPLETE"
"""The files of a checkpoint besides CONFIG; COMPLETE holds their checksums and is written last."""
PUBLISHED = "model.safetensors"
"""The network file of a folder in the Hugging Face layout."""
RAY_FOLDER = ".ray"
"""The folder for files that Ray itself writes; deleted when a command starts and ends."""
RAY_LIST = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of checkpoints, which runs of version 0.1 have in their folder."""

OUR_ENDING = ".safetensors"
"""Ending of the network files that a run writes."""
NETWORK_ENDINGS = (OUR_ENDING, ".pkl", ".pt", ".pth")
"""Endings of network files: ours, NVIDIA's and rosinality's."""


def kimg_name(nimg: int) -> str:
    """Thousands of images as file names spell them: 000012, or 000000.250 where they are not whole."""
    kimg, rest = divmod(nimg, 1000)
    return f"{kimg:06d}.{rest:03d}" if rest else f"{kimg:06d}"


def fakes_name(nimg: int) -> str:
    """The grid of generated images at a clock value, without its ending .png."""
    return f"fakes{kimg_name(nimg)}"


def hang_folder(seconds: float) -> str:
    """The folder of the stacks of a hang that was found at a time since the epoch."""
    return f"{HANGS}/{time.strftime('%Y%m%d-%H%M%S', time.gmtime(seconds))}"


def stacks_name(folder: str, who: str) -> str:
    """The file of the stacks of a process in such a folder."""
    return f"{folder}/{who.replace(' ', '-')}.txt"


def snapshot_name(nimg: int) -> str:
    """The network file that is written at a clock value."""
    return f"network-snapshot-{kimg_name(nimg)}.safetensors"


def best_name(metric: str) -> str:
    """The file of the network with the best value of a metric so far."""
    return f"best-{metric}.safetensors"


def checkpoint_name(nimg: int) -> str:
    """The folder of a checkpoint, inside CHECKPOINTS."""
    return f"ckpt-{nimg:012d}"


def checkpoint_nimg(name: str) -> int | None:
    """The clock value in the name of a checkpoint; None for other names."""
    match = re.fullmatch(r"ckpt-([0-9]{1,18})", name)
    return int(match[1]) if match else None


def tracker_file(tracker: str) -> str:
    """The file with the id of a run in a tracker, and what the tracker has of it."""
    return f"tracker-{tracker}.json"


def ray_folder(attempt: str) -> str:
    """The folder for files that Ray itself writes in one attempt to train."""
    return f"{RAY_FOLDER}/{attempt}"


def complete_checkpoints(checkpoints: Storage) -> list[str]:
    """Names of the complete checkpoints, oldest first; their checksums are not verified."""
    names = [name for name in checkpoints.names() if checkpoint_nimg(name) is not None]
    return [name for name in names if checkpoints.exists(f"{name}/{COMPLETE}")]


def networks_of(run: Storage) -> dict[str, int]:
    """cur_nimg of every snapshot, the final network and every complete checkpoint, by path in the run's folder."""
    names = run.names()
    found = {name: nimg for name in names if (nimg := _kimg_in(name, SNAPSHOT)) is not None}
    if FINAL_NETWORK in names:
        found[FINAL_NETWORK] = _nimg_in_header(run, FINAL_NETWORK)
    for name in complete_checkpoints(run.folder(CHECKPOINTS)):
        found[f"{CHECKPOINTS}/{name}"] = checkpoint_nimg(name) or 0
    return found


def newest_network(run: Storage) -> str | None:
    """The path of the network with the largest cur_nimg in the run's folder; None where there is none.

    Snapshots, the final network and complete checkpoints count, best-*.safetensors do not. Of equals the network file
    is chosen, which is smaller than a checkpoint, and of network files the final one.
    """
    found = networks_of(run)
    return max(found, key=lambda name: (found[name], "/" not in name, name == FINAL_NETWORK), default=None)


def images_of(run: Storage) -> list[str]:
    """Names of the grids of generated images, oldest first, without that of the untrained network."""
    return [name for name in run.names() if _kimg_in(name, FAKES) is not None]


def dated_images_of(run: Storage) -> dict[str, int]:
    """cur_nimg of each grid of generated images by name, oldest first; that of the untrained network has 0."""
    names = run.names()
    first = {f"{FIRST_FAKES}.png": 0} if f"{FIRST_FAKES}.png" in names else {}
    return first | {name: nimg for name in names if (nimg := _kimg_in(name, FAKES)) is not None}


def newest_nimg(run: Storage) -> int | None:
    """cur_nimg of the newest complete checkpoint; None where there is none."""
    names = complete_checkpoints(run.folder(CHECKPOINTS))
    return checkpoint_nimg(names[-1]) if names else None


def final_nimg(run: Storage) -> int | None:
    """cur_nimg of the final network; None without one, or where its file is damaged."""
    if run.exists(FINAL_NETWORK):
        with suppress(ValueError, KeyError):  # a damaged file is reported by whoever wants to load it
            return _nimg_in_header(run, FINAL_NETWORK)
    return None


def newest_saved_at(run: Storage) -> float | None:
    """When the newest complete checkpoint was written, in seconds since 1970; None where there is none."""
    checkpoints = run.folder(CHECKPOINTS)
    names = complete_checkpoints(checkpoints)
    return checkpoints.written_at(f"{names[-1]}/{COMPLETE}") if names else None


def cut(run: Storage, num_ticks: int, nimg: int) -> None:
    """Takes a run back to a state with `num_ticks` ticks done at `nimg`, so that what follows is stored once.

    Rows and lines of later ticks are cut from the growing files, as are lines that a crash has torn. Images, networks
    and incomplete checkpoints of a larger clock value are deleted; best-*.safetensors stay.
    """
    for name, keep in GROWING.items():
        stored = run.read(name) if run.exists(name) else None
        kept = keep(stored or b"", num_ticks)
        if kept != stored:  # a full disk has no room for an equal file
            run.write(name, kept)
    for name in _files_ahead(run, nimg):
        run.delete(name)
    checkpoints = run.folder(CHECKPOINTS)
    complete = complete_checkpoints(checkpoints)
    for name in checkpoints.names():
        if (checkpoint_nimg(name) or 0) > nimg and name not in complete:
            checkpoints.delete_folder(name)


def delete_leftovers(run: Storage) -> None:
    """Deletes what an earlier command left behind: its stop request, Ray's files, and unfinished files."""
    for name in (STOP, RAY_LIST, *(name for name in run.names() if name.endswith(PART))):
        run.delete(name)
    run.delete_folder(RAY_FOLDER)


def _files_ahead(run: Storage, nimg: int) -> list[str]:
    """Images and network files of a clock value larger than `nimg`."""
    names = run.names()
    dated = {name: _kimg_in(name, FAKES) or _kimg_in(name, SNAPSHOT) or 0 for name in names}
    dated[FINAL_NETWORK] = final_nimg(run) or 0
    return [name for name, clock in dated.items() if clock > nimg]


FAKES = re.compile(r"fakes(\d{6,})(?:\.(\d{3}))?\.png")
SNAPSHOT = re.compile(r"network-snapshot-(\d{6,})(?:\.(\d{3}))?\.safetensors")


def _kimg_in(name: str, pattern: re.Pattern[str]) -> int | None:
    match = pattern.fullmatch(name)
    return int(match[1]) * 1000 + int(match[2] or 0) if match else None


def _nimg_in_header(run: Storage, name: str) -> int:
    """cur_nimg in the metadata of a network file: 8 bytes with the header's length, then the header as JSON."""
    with run.open(name) as file, reading(run.path(name), passes=(OSError,)):
        length = int.from_bytes(file.read(8), "little")
        check_size(length, HEADER_BYTES, "its header")
        header = parse_json(file.read(length), "its header", HEADER_BYTES)
        nimg = int(header.get("__metadata__", {}).get("cur_nimg", 0))
        if not 0 <= nimg < 2**53:
            raise BadFileError(f"its cur_nimg {nimg} is out of range")
        return nimg


def keep_log(content: bytes, num_ticks: int) -> bytes:
    """The whole lines of a log but for those of ticks from num_ticks on; other messages are kept."""
    kept = []
    for line in content.splitlines(keepends=True):
        tick = re.match(rb"tick (\d{1,15}) ", line)
        if line.endswith(b"\n") and not (tick and int(tick[1]) >= num_ticks):
            kept.append(line)
    return b"".join(kept)


GROWING = {TICKS: keep_rows, METRICS: keep_rows, LOG: keep_log}
"""The files that grow, and what `cut` keeps of them."""


def storage_address(configured: str | None = None) -> str:
    """Where runs are stored: as configured (run.storage), else $STYLEGAN_RAY_STORAGE, else ~/stylegan_ray/runs."""
    address = configured or os.environ.get("STYLEGAN_RAY_STORAGE") or DEFAULT_STORAGE
    return absolute(address)


def refuse_relative(paths: Mapping[str, str | None]) -> None:
    """Raises ConfigError for a relative path inside a submitted job, whose working directory is deleted with it."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    for key, path in paths.items():
        if path and path != "openmoji" and "://" not in path and not os.path.isabs(os.path.expanduser(path)):
            raise ConfigError(
                f"{key}={path!r} is relative, and the working directory of a submitted job is deleted with it; "
                f"give an absolute path that every node sees, or an s3:// or gs:// address"
            )


def as_path(name: str) -> str | None:
    """A run or network for `refuse_relative`: None where it may be the name of a run."""
    return name if "/" in name else None


def refuse_relative_paths(cfg: RunConfig, resume_from: str | None) -> None:
    """Raises ConfigError for relative paths of a configuration inside a submitted job."""
    refuse_relative(
        {
            "run.storage": cfg.run.storage,
            "$STYLEGAN_RAY_STORAGE": None if cfg.run.storage else os.environ.get("STYLEGAN_RAY_STORAGE"),
            "data.path": cfg.data.path,
            "--resume-from": resume_from,
            "metrics.detector": cfg.metrics.detector,
        }
    )


def read_config(run: Storage) -> RunConfig:
    """The configuration of a run, from its CONFIG; raises ConfigError that names the file, or FileNotFoundError."""
    where = run.path(CONFIG)
    content = run.read(CONFIG, CONFIG_BYTES)
    with reading(where, ConfigError):
        tree = parse_yaml(content, where)
        if not isinstance(tree, dict):
            raise BadFileError(f"{where} is no configuration; restore the file, or start a new run")
        try:
            return validated(tree)
        except ConfigError as error:
            raise ConfigError(f"{printable(where, 500)}: {'; '.join(error.args)}") from None


def read_run_file(run: Storage) -> dict[str, Any]:
    """The content of RUN_FILE; raises ConfigError that names the file, or FileNotFoundError."""
    where = run.path(RUN_FILE)
    content = run.read(RUN_FILE, RUN_FILE_BYTES)
    with reading(where, ConfigError):
        found = parse_json(content, where, RUN_FILE_BYTES)
        if not isinstance(found, dict):
            raise BadFileError(f"{where} is not an object of JSON; restore the file, or start a new run")
        return found


def folder_of(network: str) -> str:
    """The folder of the run that a network file or checkpoint belongs to, else the folder that contains it."""
    folder, _ = split_address(network)
    outer, name = split_address(folder)
    return outer if name == CHECKPOINTS else folder


def is_run(address: str) -> bool:
    """Whether a folder is that of a run; a checkpoint, which holds its configuration too, is none."""
    return has_file(address, CONFIG) and not is_checkpoint(address)


def is_checkpoint(address: str) -> bool:
    """Whether a folder is that of a checkpoint, complete or not."""
    return has_file(address, STATE) or has_file(address, COMPLETE)


def _first(name: str, base: str, is_it: Callable[[str], bool]) -> str | None:
    """The folder of a kind at an address, or by its name in `base`; None where there is none."""
    for address in (name, join_address(base, name)):
        if is_it(address):
            return absolute(address).rstrip("/")
    return None


def is_asked_to_stop(folder: Storage) -> bool:
    """Whether a run or sweep has a STOP file; a storage that fails asks for nothing."""
    try:
        return folder.exists(STOP)
    except OSError:
        return False


def find_run(run: str, storage: str | None = None) -> str:
    """The address of a run, given as an address or by its name in the storage; raises ConfigError."""
    base = storage_address(storage)
    if address := _first(run, base, is_run):
        return address
    if is_checkpoint(run):
        raise ConfigError(
            f"no run {printable(run)!r}: it is a checkpoint; give the folder of its run, {folder_of(absolute(run))}"
        )
    if os.path.isfile(os.path.expanduser(run)):
        raise ConfigError(
            f"no run {printable(run)!r}: it is a file, and a run is a folder; give that folder, or its name"
        )
    if address := _first(run, base, _is_folder):
        raise ConfigError(f"no run {printable(run)!r}: {_describe_folder(address)}")
    try:
        known = _names_of_runs(base)
    except (ValueError, OSError) as error:
        raise ConfigError(f"no run {printable(run)!r}, and the storage {base} cannot be read: {error}") from error
    known_runs = nearest(run, known) or (f"; runs there: {_first_ten(known)}" if known else "")
    raise ConfigError(f"no run {printable(run)!r}, neither as a folder nor by name in {base}{known_runs}")


def _names_of_runs(address: str) -> list[str]:
    """Printable names of the runs in a folder."""
    return [printable(name, 100) for name in Storage.at(address).names() if is_run(join_address(address, name))]


def _first_ten(names: Sequence[str]) -> str:
    return f"{', '.join(names[:10])}{', ...' if names[10:] else ''}"


def _is_folder(address: str) -> bool:
    """Whether there is a folder at an address; not where it cannot be read."""
    try:
        return bool(Storage.at(address).names()) or os.path.isdir(os.path.expanduser(address))
    except (ValueError, OSError):
        return False


def _describe_folder(address: str) -> str:
    """What a folder is that is no run, and what to give in its place."""
    outer, name = split_address(address)
    if name == CHECKPOINTS and is_run(outer):
        return f"it is the folder of checkpoints of a run; give the run, {outer}, or one of its checkpoints"
    if names := _names_of_runs(address):
        return f"it is a folder of runs; give one of them: {_first_ten(names)}"
    return f"the folder {address} exists and is no run; that of a run holds {CONFIG}, {TICKS} and {CHECKPOINTS}/"


def how_ended(run: Storage) -> str | None:
    """How the last command that trained a run ended; None while one trains it, or where it is unknown."""
    try:
        ended = read_run_file(run)["ended"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return one_line(ended.encode("unicode_escape").decode()) if isinstance(ended, str) else None


def _write_stop(address: str) -> None:
    try:
        Storage.at(address).write(STOP, b"")
    except OSError as error:
        raise ConfigError(f"{join_address(address, STOP)} cannot be written: {one_line(error)}") from error


def ask_to_stop(run: str, storage: str | None = None) -> str:
    """Writes the STOP file of a run, unless it has ended, or of a sweep; returns a message for the user."""
    if address := _first(run, storage_address(storage), lambda address: has_file(address, SWEEP)):
        _write_stop(address)
        return (
            f"Asked sweep {printable(address, 500)} to stop. "
            "Its trials save their states; the command that started it continues it."
        )
    address = find_run(run, storage)
    if ended := how_ended(Storage.at(address)):
        return (
            f"{printable(address, 500)} does not run: its last command ended, {ended}. "
            "The command that started it continues it."
        )
    _write_stop(address)
    return (
        f"Asked {printable(address, 500)} to stop. It saves its state after the current minibatches and ends;\n"
        f"the command that started it continues it."
    )
