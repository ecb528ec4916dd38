"""Benchmark `chaos`: a run that meets real faults, again and again, against the same run undisturbed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
from PIL import Image

from benchmarks.cluster.local_cluster import (
    DECODER,
    TRAINING_WORKER,
    Cluster,
    Driver,
    is_alive,
    kill,
    kill_while_running,
    wait_for,
)
from benchmarks.command import Bars, Common, Figures
from benchmarks.results import at_least, at_most
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.run_folder import CHECKPOINTS, COMPLETE, FINAL_NETWORK, LOG, TICKS
from stylegan_ray.run_folder import FAULTS as FAULT_ROWS

SMALL = {
    "model.z_dim": 8, "model.w_dim": 8, "model.mapping_fmaps": 8, "model.mapping_layers": 2, "model.fmap_base": 32,
    "model.fmap_max": 8, "schedule.minibatch_size": 8, "schedule.minibatch_gpu": 2, "schedule.minibatch_repeats": 2,
    "schedule.tick_kimg": 0.064, "train.grid_size": (4, 2), "train.image_snapshot_ticks": 20,
    "train.network_snapshot_ticks": None, "data.resolution": 8,
}  # fmt: skip
"""A network of a few thousand parameters."""
MOST_SEC = 600.0
"""No recovery takes longer."""
MOST_SEC_OF_A_RUN = 3600.0
STORAGE_MIB = 64
NOTICE_SEC, SHORT_NOTICE_SEC = 120, 30
"""How long before it goes a node is said to go."""


@dataclass(frozen=True)
class Options(Common):
    """Trains a small network twice on a local Ray cluster of several nodes, and injects faults into the second run.

    Workers, decoders, a whole node, the driver and everything at once are killed, storage is taken away and filled
    up, checkpoints are damaged and interrupted. Takes every --section.key of the train command.
    """

    faults: int = 20
    """How many faults the run meets; of every kind at least one, if there are enough."""
    kinds: tuple[str, ...] = ()
    """Kinds of faults; none: all of them."""
    workers: int = 2
    """Training workers, each on a node of its own."""
    ticks_per_fault: int = 6
    """Length of the stretch of the run that a fault meets."""
    chaos_seed: int = 0
    """Decides which faults come when."""
    keep: Path | None = None
    """A folder to keep runs, logs and traces in."""


def measure(options: Options, cfg: RunConfig) -> tuple[Figures, Bars]:
    """The faults and how long each took to recover from; whether network and images are as without them."""
    with TemporaryDirectory(prefix="sgr-", ignore_cleanup_errors=True) as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with small_storage(folder / "runs") as can_be_full:
            kinds = chosen_kinds(options, can_be_full)
            planned = plan(options, kinds)
            cfg = prepared(options, cfg, folder, sum(FAULTS[kind].stretches for kind, _ in planned))
            stretch = options.ticks_per_fault * cfg.schedule.tick_kimg * 1000
            print(f"First an undisturbed run, then one that meets {options.faults} faults; in {folder}", flush=True)
            with Cluster(Path(temporary), options.workers) as cluster:
                undisturbed = WatchedRun(cluster, cfg.with_overrides({"run.name": "undisturbed"}), folder)
                undisturbed.undisturbed()
                disturbed = WatchedRun(cluster, cfg.with_overrides({"run.name": "disturbed"}), folder)
                faults = disturbed.disturbed([(kind, round(begin * stretch)) for kind, begin in planned])
            figures = figures_of(options, cfg, undisturbed, disturbed, faults)
    return figures, bars_of(figures, options)


def prepared(options: Options, cfg: RunConfig, folder: Path, stretches: int) -> RunConfig:
    """The configuration of both runs, which are so many stretches long and two more."""
    cfg = cfg.with_overrides(SMALL) if cfg.data.path is None else cfg
    if cfg.data.path is None:
        write_pictures(folder / "pictures", cfg)
        cfg = cfg.with_overrides({"data.path": str(folder / "pictures")})
    return cfg.with_overrides(
        {
            "run.storage": str(folder / "runs"),
            "schedule.tick_kimg_dict": {},
            "train.total_kimg": (stretches + 2) * options.ticks_per_fault * cfg.schedule.tick_kimg,
            "cluster.num_workers": options.workers,
            "cluster.cpus_per_worker": 1,
            "cluster.wait_minutes": 5,  # nodes come when they come
        }
    )


def write_pictures(folder: Path, cfg: RunConfig, num: int = 50) -> None:
    """Random images, so that each can be told from all others."""
    folder.mkdir(exist_ok=True)
    rng, side = np.random.default_rng(3), cfg.data.resolution
    assert isinstance(side, int), "the faults are for square images"
    for i in range(num):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{i:03d}.png")


@contextmanager
def small_storage(path: Path) -> Iterator[bool]:
    """A folder that can be filled up, where this process may mount one; says whether it may."""
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORAGE_MIB}m", "tmpfs", str(path)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], capture_output=True)


def chosen_kinds(options: Options, can_be_full: bool) -> list[str]:
    """The kinds that are asked for and possible here."""
    unknown = [kind for kind in options.kinds if kind not in FAULTS]
    if unknown:
        raise ConfigError(f"--kinds {' '.join(unknown)}: there is no such fault; there are {', '.join(FAULTS)}")
    if "storage full" in options.kinds and not can_be_full:
        raise ConfigError("--kinds 'storage full' needs the right to mount a small file system; run it as root")
    return [kind for kind in options.kinds or FAULTS if can_be_full or kind != "storage full"]


def plan(options: Options, kinds: list[str]) -> list[tuple[str, float]]:
    """Kinds of faults, each with the place where it comes, in stretches; every stretch of the run meets one."""
    rng = random.Random(options.chaos_seed)
    drawn = [*kinds, *rng.choices(kinds, k=options.faults)][: options.faults]
    rng.shuffle(drawn)
    begins = accumulate((FAULTS[kind].stretches for kind in drawn), initial=0)
    return [(kind, begin + 0.7 + 0.5 * rng.random()) for kind, begin in zip(drawn, begins, strict=False)]


@dataclass
class WatchedRun:
    """A run, with what is needed to inject faults and to see how it is."""

    cluster: Cluster
    cfg: RunConfig
    folder: Path
    driver: Driver = field(init=False)

    def __post_init__(self) -> None:
        self.name = str(self.cfg.run.name)
        self.run = self.folder / "runs" / self.name
        self.trace = self.folder / f"trace-{self.name}"
        self.log = self.folder / f"{self.name}.log"
        self.trace.mkdir(exist_ok=True)
        self.sec = 0.0

    def start(self) -> None:
        """Gives the command: the first time, and again after the driver has died."""
        config = self.folder / f"{self.name}.yaml"
        config.write_text(self.cfg.to_yaml())
        words = [str(self.trace), str(config), "--cluster.address", self.cluster.address]
        env = {**self.cluster.env, "PYTHONUNBUFFERED": "1"}
        self.driver = Driver(words, env, self.log)

    def undisturbed(self) -> None:
        self.start()
        try:
            self.to_the_end()
        finally:
            self.driver.kill()

    def disturbed(self, faults: list[tuple[str, int]]) -> list[dict[str, Any]]:
        """Meets each fault at its time, and the end after all; returns what happened."""
        self.start()
        try:
            met = [self.meet(kind, nimg) for kind, nimg in faults]
            self.to_the_end()
        finally:
            self.driver.kill()
        return met

    def meet(self, kind: str, nimg: int) -> dict[str, Any]:
        """Waits for a clock value, injects a fault, and waits until the run has passed the place where it was."""
        self.wait(lambda: self.nimg() >= nimg, f"{nimg} images")
        before = self.fault_lines()
        began = time.time()
        fault = FAULTS[kind]
        injected_at = fault.inject(self)
        passed = f"the run to pass {injected_at} images after {kind}"
        self.wait(lambda: self.nimg_since(began, fault.ends_group) > injected_at, passed)
        recover_sec = time.time() - began
        self.wait(lambda: self.names(kind, before), f"a line that names {kind}", sec=30)
        line = self.names(kind, before)
        print(f"{kind} at {injected_at} images, recovered in {recover_sec:.1f} s: {line}", flush=True)
        return {"kind": kind, "nimg": injected_at, "recover_sec": recover_sec, "line": line}

    def to_the_end(self) -> None:
        """Waits until the driver has ended well."""
        began = time.monotonic()
        wait_for(lambda: self.driver.ended, f"{self.name} to end", MOST_SEC_OF_A_RUN)
        self.sec += time.monotonic() - began
        if self.driver.process.returncode:
            raise RuntimeError(f"{self.name} ended with {self.driver.process.returncode}:\n{self.driver.words()}")

    def wait(self, condition: Callable[[], object], what: str, sec: float = MOST_SEC, every_sec: float = 0.05) -> None:
        """Returns when the condition holds; raises when the run ends before."""

        def holds() -> object:
            if self.driver.ended:
                raise RuntimeError(f"the run ended before {what}:\n{self.driver.words()}")
            self.cluster.replace_lost()
            return condition()

        try:
            wait_for(holds, what, sec, every_sec)
        except TimeoutError as error:
            raise TimeoutError(f"{error}:\n{self.driver.words()}") from None

    # How it is

    def nimg(self) -> int:
        """The clock value of the newest minibatch of rank 0."""
        return max((row["nimg"] for row in last_rows(self.trace) if "nimg" in row), default=0)

    def nimg_since(self, moment: float, by_new_group: bool) -> int:
        """The newest clock value that was reached after a moment, by any group of workers or one that began after it.

        A group whose node has died can go on for some minibatches.
        """
        rows = [row for row in last_rows(self.trace, moment if by_new_group else 0) if row.get("time", 0) > moment]
        return max((row["nimg"] for row in rows), default=-1)

    def fault_lines(self) -> int:
        """Number of lines in the driver's log so far."""
        return len(self.log.read_text(errors="replace").splitlines())

    def names(self, kind: str, after: int) -> str | None:
        """The line in the driver's log, after so many others, that names a fault of this kind."""
        lines = self.log.read_text(errors="replace").splitlines()[after:]
        pattern = re.compile(FAULTS[kind].named)
        return next((line for line in lines if line.startswith("fault: ") and pattern.search(line)), None)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path.parent for path in (self.run / CHECKPOINTS).glob(f"ckpt-*/{COMPLETE}"))

    def rank0(self) -> int:
        """The process of rank 0."""
        newest = max(self.trace.glob("*-0-*.jsonl"), key=lambda path: path.name)
        return int(newest.stem.split("-")[2])

    # What happens to it

    def kill_a(self, title: str) -> int:
        """SIGKILL to one of the processes of a title."""
        self.wait(lambda: self.cluster.processes(title), f"a process {title}")
        at = self.nimg()
        kill([random.choice(self.cluster.processes(title))])
        return at

    def kill_worker(self) -> int:
        return self.kill_a(TRAINING_WORKER)

    def kill_decoder(self) -> int:
        at = self.nimg()
        kill_while_running(lambda: self.cluster.processes(DECODER), DECODER)
        return at

    def kill_twice(self) -> int:
        """The second time as soon as there are workers again, which may be in the middle of their set-up."""
        old = set(self.cluster.processes(TRAINING_WORKER))
        at = self.kill_worker()
        self.wait(lambda: set(self.cluster.processes(TRAINING_WORKER)) - old, "new workers")
        kill([min(set(self.cluster.processes(TRAINING_WORKER)) - old)])
        return at

    def kill_in_upload(self) -> int:
        """Rank 0 is stopped as soon as a checkpoint begins to be written, and killed if it is not whole then."""
        began = time.time()
        while True:
            rank0 = self.rank0()
            self.wait(lambda: self.unfinished(began) is not None, "a checkpoint that is being written", every_sec=0.001)
            with suppress(ProcessLookupError):
                os.kill(rank0, signal.SIGSTOP)
                if (being_written := self.unfinished(began)) is not None:
                    at = self.nimg()
                    kill([rank0])
                    wait_for(lambda pid=rank0: not is_alive(pid), "rank 0 to be gone")
                    assert not (being_written / COMPLETE).exists()
                    return at
                os.kill(rank0, signal.SIGCONT)

    def unfinished(self, since: float) -> Path | None:
        """A checkpoint that is being written since a moment; one that is being deleted is older than the others."""
        newest = self.checkpoints()[-1].name if self.checkpoints() else ""
        for path in (self.run / CHECKPOINTS).glob("ckpt-*"):
            with suppress(FileNotFoundError):
                if path.name > newest and path.stat().st_mtime > since and not (path / COMPLETE).exists():
                    return path
        return None

    def kill_node(self) -> int:
        number, at = random.choice(self.cluster.workers_nodes), self.nimg()
        self.cluster.kill_raylet(number)
        self.cluster.add(number)
        return at

    def take_node_away(self) -> int:
        """With notice: it goes when the run has gone on for a while and has a checkpoint from after the notice."""
        number, seen = random.choice(self.cluster.workers_nodes), self.fault_lines()
        self.cluster.drain(number, sec=NOTICE_SEC)
        self.wait(lambda: self.names("preempted", seen), "the notice to be heard")
        at = self.nimg()
        self.wait(lambda: self.nimg() > at + self.cfg.schedule.tick_kimg * 5000, "the run to go on after the notice")
        self.wait(lambda: self.checkpoints()[-1:] > [self.run / CHECKPOINTS / f"ckpt-{at:012d}"], "a checkpoint")
        at = self.nimg()
        self.cluster.kill_raylet(number)
        self.cluster.add(number)
        return at

    def take_two_nodes_away(self) -> int:
        """Each with a notice of its own, one later than the other; others come before they go: one restart, not two."""
        nodes = random.sample(self.cluster.workers_nodes, 2)
        for _ in nodes:
            self.cluster.add_spare()
        for number in nodes:
            seen = self.fault_lines()
            self.cluster.drain(number, sec=NOTICE_SEC)
            self.wait(lambda seen=seen: self.names("preempted", seen), "the notice to be heard")
        starts, began = self.num_starts(), time.time()
        at, second = self.nimg(), self.cluster.nodes[nodes[1]]
        self.cluster.kill_raylet(nodes[0])
        self.wait(lambda: self.nimg_since(began, by_new_group=True) > at, "other workers to go on")
        at = self.nimg()
        self.cluster.end_drained(second)
        self.wait(lambda: self.nimg() > at + self.cfg.schedule.tick_kimg * 2000, "the run to go on")
        if self.num_starts() != starts + 1:
            raise RuntimeError(f"{self.num_starts() - starts} restarts for two nodes that were taken away together")
        return at

    def cancel_drain(self) -> int:
        """A node is said to go and stays beyond its time, while Ray gives it no more work; another one comes."""
        number, seen = random.choice(self.cluster.workers_nodes), self.fault_lines()
        node = self.cluster.nodes[number]
        self.cluster.add_spare()
        began = time.time()
        self.cluster.drain(number, sec=SHORT_NOTICE_SEC)
        self.wait(lambda: self.names("preempted", seen), "the notice to be heard")
        at = self.nimg()
        self.wait(lambda: time.time() > began + SHORT_NOTICE_SEC and self.nimg() > at, "the run to outlive the notice")
        at = self.nimg()
        self.cluster.end_drained(node)  # nothing trains on it any more
        return at

    def num_starts(self) -> int:
        """Groups of workers that have started."""
        return (self.run / FAULT_ROWS).read_text().count('"start"')

    def kill_driver(self) -> int:
        at = self.nimg()
        self.driver.kill()
        self.start()
        return at

    def kill_all(self, then: Callable[[], None] = lambda: None) -> int:
        at = self.nimg()
        self.driver.kill()
        self.cluster.kill()
        then()
        self.cluster.start()
        self.start()
        return at

    def kill_all_and_corrupt(self) -> int:
        return self.kill_all(self.truncate_newest)

    def truncate_newest(self) -> None:
        """Cuts the newest checkpoint short."""
        path = self.checkpoints()[-1] / "state.safetensors"
        os.truncate(path, path.stat().st_size // 2)

    def terminate_worker(self) -> int:
        """SIGTERM, as from a machine that is going down."""
        at = self.nimg()
        os.kill(random.choice(self.cluster.processes(TRAINING_WORKER)), signal.SIGTERM)
        return at

    def take_storage_away(self) -> int:
        """The folder of checkpoints is another thing for a while."""
        away, here = self.run / "checkpoints.away", self.run / CHECKPOINTS
        at, seen = self.nimg(), self.fault_lines()
        here.rename(away)
        while not here.is_file():  # a checkpoint may just have made the folder anew
            for late in here.iterdir() if here.exists() else ():
                late.rename(away / late.name)
            with suppress(OSError):
                here.rmdir()
            with suppress(OSError):
                here.open("x").close()
        self.wait(lambda: self.names("storage failing", seen), "the storage's failure to be seen")
        here.unlink()
        away.rename(here)
        return at

    def fill_storage(self) -> int:
        """The disk is full for a while."""
        ballast, at, seen = self.run / "ballast", self.nimg(), self.fault_lines()
        try:
            with open(ballast, "wb", buffering=0) as file:

                def full_and_seen() -> object:
                    with suppress(OSError):  # what an old checkpoint leaves is taken, too
                        while True:
                            file.write(b"\0" * (1 << 12))
                    return self.names("storage full", seen)

                self.wait(full_and_seen, "the full disk to be seen")
        finally:
            ballast.unlink()
        return at


@dataclass(frozen=True)
class Fault:
    """Something that happens to a run."""

    inject: Callable[[WatchedRun], int]
    """Injects it; returns the clock value at which it came."""
    named: str
    """A regular expression for the line that has to name it."""
    ends_group: bool = True
    """Whether other workers have to go on."""
    stretches: int = 1
    """How much of the run it takes at least."""


PREEMPTED = "the node of worker .* will be preempted .*saving a checkpoint first"
LOST = r"the driver or the whole cluster was lost.*continuing at"
FAULTS = {
    "worker": Fault(WatchedRun.kill_worker, r"worker.*(was killed|lost the others).*continuing at"),
    "decoder": Fault(WatchedRun.kill_decoder, "a decoding process died", ends_group=False),
    "node": Fault(WatchedRun.kill_node, r"worker.*(was killed|died with its node|lost the others).*continuing at"),
    "preempted": Fault(WatchedRun.take_node_away, PREEMPTED),
    "two preempted": Fault(WatchedRun.take_two_nodes_away, PREEMPTED, ends_group=False, stretches=4),
    "not preempted": Fault(WatchedRun.cancel_drain, PREEMPTED, ends_group=False, stretches=12),
    "driver": Fault(WatchedRun.kill_driver, LOST),
    "everything": Fault(WatchedRun.kill_all, LOST),
    "upload": Fault(WatchedRun.kill_in_upload, r"worker.*(was killed|lost the others).*continuing at"),
    "twice": Fault(WatchedRun.kill_twice, r"(was killed|lost the others|Ray Train ended).*continuing at"),
    "terminated": Fault(WatchedRun.terminate_worker, r"received SIGTERM and ended after a checkpoint.*continuing at"),
    "storage failing": Fault(WatchedRun.take_storage_away, "storage does not take", ends_group=False),
    "storage full": Fault(WatchedRun.fill_storage, "storage does not (take|respond).*No space left", ends_group=False),
    "corrupt": Fault(WatchedRun.kill_all_and_corrupt, "is damaged.*the checkpoint before it"),
}


def last_rows(trace: Path, begun_after: float = 0) -> list[dict[str, Any]]:
    """The last whole row that each process of rank 0 has noted, of those that began after a moment."""
    rows = []
    for path in trace.glob("*-0-*.jsonl"):
        if int(path.name.partition("-")[0]) < begun_after * 1e9:
            continue
        with open(path, "rb") as file:
            file.seek(max(path.stat().st_size - 1000, 0))
            lines = [line for line in file.read().splitlines(keepends=True)[-2:] if line.endswith(b"\n")]
        with suppress(ValueError):
            rows += [json.loads(lines[-1])] if lines else []
    return rows


def shown(trace: Path) -> dict[tuple[int, int], list[str]]:
    """What counts of the images that were trained on: checksums by clock value and rank.

    Of each group of workers those count that came before the place where the next one went on.
    """
    stays: dict[int, list[list[dict[str, Any]]]] = {}
    for path in sorted(trace.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        if rows:
            stays.setdefault(rows[0]["rank"], []).append(rows)
    counted: dict[tuple[int, int], list[str]] = {}
    for rank, of_rank in stays.items():
        begins = [rows[0]["begin"] for rows in of_rank]
        for number, (_, *rows) in enumerate(of_rank):
            end = min(begins[number + 1 :], default=float("inf"))
            for row in rows:
                if row["nimg"] < end:
                    counted.setdefault((row["nimg"], rank), []).append(row["sha256"])
    return counted


def compared(expected: Mapping[Any, list[str]], found: Mapping[Any, list[str]], per_rank: int) -> tuple[int, int]:
    """Sample positions that were skipped, and those that were shown again or show something else."""
    skipped = sum(key not in found for key in expected)
    again = sum(len(found[key]) - 1 for key in found) + sum(found[key][-1:] != expected.get(key) for key in found)
    return skipped * per_rank, again * per_rank


def checksum_of(network: Path) -> str:
    """Of the tensors of a network file; its metadata names the run."""
    digest = hashlib.sha256()
    for name, value in sorted(safetensors.torch.load(network.read_bytes()).items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def rows_of(run: Path) -> list[dict[str, Any]]:
    """stats.jsonl without what depends on the clock on the wall."""
    rows = [json.loads(line) for line in (run / TICKS).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("Timing/", "Resources/"))} for row in rows]


def figures_of(
    options: Options, cfg: RunConfig, undisturbed: WatchedRun, disturbed: WatchedRun, faults: list[dict[str, Any]]
) -> Figures:
    expected, found = shown(undisturbed.trace), shown(disturbed.trace)
    skipped, repeated = compared(expected, found, cfg.schedule.minibatch_size // options.workers)
    logged = (disturbed.run / LOG).read_text().splitlines()
    return {
        "faults": faults,
        "workers": options.workers,
        "total_kimg": cfg.train.total_kimg,
        "sha_undisturbed": checksum_of(undisturbed.run / FINAL_NETWORK),
        "sha_disturbed": checksum_of(disturbed.run / FINAL_NETWORK),
        "positions": sum(map(len, expected.values())) * cfg.schedule.minibatch_size // options.workers,
        "positions_skipped": skipped,
        "positions_repeated": repeated,
        "rows_equal": rows_of(undisturbed.run) == rows_of(disturbed.run),
        "faults_named": sum(fault["line"] is not None for fault in faults),
        "fault_lines_in_log": sum(line.startswith("fault: ") for line in logged),
        "recover_sec": [fault["recover_sec"] for fault in faults],
        "sec_undisturbed": undisturbed.sec,
    }


def bars_of(figures: Figures, options: Options) -> Bars:
    """The promise: whatever happened, the run is the one that would have been."""
    equal = int(figures["sha_disturbed"] == figures["sha_undisturbed"])
    return [
        at_least("networks are equal bit for bit", equal, 1),
        at_most("positions_skipped", figures["positions_skipped"], 0),
        at_most("positions_repeated", figures["positions_repeated"], 0),
        at_least("rows of stats.jsonl are equal", int(figures["rows_equal"]), 1),
        at_least("faults named", figures["faults_named"], options.faults),
    ]
