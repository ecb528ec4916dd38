"""One trial of a sweep: a whole training run, driven from an actor of Ray Tune as jobs/train.py drives its own."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.tune import Trainable

from stylegan_ray.cluster.faults import tells_divergence
from stylegan_ray.cluster.launch import Run, keep_fitting, use_ray_defaults, write_beginnings, write_end
from stylegan_ray.cluster.preflight import Clearance
from stylegan_ray.cluster.resources import Share
from stylegan_ray.config import ConfigError, RunConfig, nearest, validated
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.run_folder import CHECKPOINTS, checkpoint_nimg, complete_checkpoints
from stylegan_ray.storage import Storage, join_address, one_line

FINISHED, DIVERGED, FAILED, INTERRUPTED = "finished", "diverged", "failed", "interrupted"
NEWS = ("fault:", "warning:", "storage")
"""How words of a run begin that the person at the sweep should read, too."""
MOST_SECONDS_FOR_CHECKPOINT = 120.0
MOST_SECONDS_TO_END = 300.0
"""How long a trial waits for its run to save and stop."""
Report = dict[str, Any]


@dataclass(frozen=True)
class TrialOrder:
    """What all trials of a sweep share."""

    cfg: dict[str, Any]
    """Complete, but for what a trial changes."""
    dataset: Dataset
    trials: str
    """The folder of the trials' runs."""
    share: Share
    clearance: Clearance
    objective: str
    """The scalar that counts, such as Metrics/fid500_tiny."""
    command: str
    """What was typed to start the sweep."""
    waits_for_checkpoints: bool = False
    """Report a tick only when its checkpoint is whole, so that another trial can take it."""

    def config(self, name: str, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial."""
        own = {"run.name": name, "run.storage": self.trials}
        return validated(self.cfg).with_overrides({**values, **own})


class TrialRun(Trainable):
    """Ray Tune's handle: each step returns one report of the run; `done` comes with the last one.

    A trial keeps nothing here. Whatever ends the actor, the next one goes on where the run's folder stands.
    """

    def setup(self, config: dict[str, Any], order: TrialOrder | None = None) -> None:
        assert order is not None, "every trial has an order"
        use_ray_defaults()
        self.order = order
        self._begin(config)

    def step(self) -> Report:
        return {"generation": self.generation, **next(self.reports)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes on with another trial: a process that has imported everything begins sooner."""
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Ends the run, so that its workers, placement group and data tasks are gone when this returns."""
        if self.fitting is not None:
            self.fitting.end()

    def _begin(self, config: Mapping[str, Any]) -> None:
        self.generation = config["generation"]
        cfg = self.order.config(config["name"], config["values"])
        address = join_address(self.order.trials, config["name"])
        run = Run(cfg, self.order.dataset, address, clearance=self.order.clearance, command=self.order.command)
        self.fitting = None if run.is_finished else Fitting(run, self.order)
        self.reports = reports_of(run.storage, self.order, self.fitting)


def reports_of(run: Storage, order: TrialOrder, fitting: Fitting | None) -> Iterator[Report]:
    """What a run reached before, then what it reaches; ends with a report of how it ended.

    Rows that the sweep has heard of are told again: it may have been ended between hearing and noting.
    """
    yield from earlier_rows(run, order.objective)
    if fitting is None:
        yield {"done": True, "ended": FINISHED, "why": ""}
        return
    fitting.start()
    while (report := fitting.next_report()) is not None:
        if order.waits_for_checkpoints and "kimg" in report:
            wait_for_checkpoint(run.folder(CHECKPOINTS), report["kimg"])
        yield report
    state, why = fitting.ending
    yield {"done": True, "ended": state, "why": why}


class Fitting(threading.Thread):
    """The run in a thread, heard as reports; stands where the train command has its view."""

    def __init__(self, run: Run, order: TrialOrder) -> None:
        super().__init__(daemon=True, name="trial")
        self.trial_run, self.order = run, order
        self.ending = (FAILED, "the trial ended without a word")
        self.mailbox: Any = None
        self.is_ending = False
        self._reports: queue.Queue[Report | None] = queue.Queue()
        self._sec = 0.0

    def run(self) -> None:
        """The thread: trains, and puts the ending where it is looked for."""
        from stylegan_ray.cluster.channel import mailbox_here

        run, share = self.trial_run, self.order.share
        try:
            write_beginnings(run, share)
            self.mailbox = mailbox_here()
            outcome, failure = keep_fitting(run, share, self, self.mailbox, lambda: self.is_ending)
            if failure is not None:
                self.ending = (DIVERGED if tells_divergence(failure) else FAILED, failure)
            else:
                self.ending = (FINISHED if outcome == "done" else INTERRUPTED, "")
        except BaseException as error:
            self.ending = (FAILED, f"{type(error).__name__}: {error}")
        finally:
            state, why = self.ending
            write_end(run, f"{state}: {one_line(why)}" if why else state)
            self._reports.put(None)

    def end(self) -> None:
        """Lets the run save and stop, where it still goes on; returns when it has.

        A run that cannot end, because its nodes are gone, raises TimeoutError: Ray Tune then takes another actor.
        """
        self.is_ending, deadline = True, time.monotonic() + MOST_SECONDS_TO_END
        while self.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run of {self.trial_run.cfg.run.name} does not end")
            if self.mailbox is not None:
                self.mailbox.stop.remote()
            self.join(1.0)

    def next_report(self) -> Report | None:
        """The next one; None when the run has ended."""
        return self._reports.get()

    def tick(self, stats: Mapping[str, Any]) -> None:
        """A tick's row: a report where it holds the objective."""
        self._sec = stats["Timing/total_sec"]
        if self.order.objective in stats:
            self._put(stats, stats[self.order.objective])
        elif not self.order.objective.startswith("Metrics/"):
            try:
                check_objective(self.order.objective, stats)
            except ConfigError as error:
                self._reports.put({"refused": str(error)})

    def metric(self, values: Mapping[str, Any]) -> None:
        """Values of metrics: a report where the objective is one of them."""
        if self.order.objective in values:
            self._put(values, values[self.order.objective])

    def message(self, text: str) -> None:
        """Words of the run; those about trouble go on to the sweep."""
        if text.startswith(NEWS):
            self._reports.put({"said": text})

    def refresh(self) -> None:
        """Nothing moves between reports."""

    def _put(self, stats: Mapping[str, Any], value: Any) -> None:
        self._reports.put({"kimg": stats["Progress/kimg"], "value": value, "sec": self._sec})


def check_objective(objective: str, stats: Mapping[str, Any]) -> None:
    """Raises ConfigError when no tick of this kind of run has the objective."""
    if objective.startswith("Loss/") and objective.endswith("/reg") and objective.replace("/reg", "/loss") in stats:
        return  # comes when a regularisation turn comes
    known = [key for key in stats if not key.startswith("Progress/")]
    raise ConfigError(
        f"--objective {objective}: no tick reports it{nearest(objective, known)}; scalars are {', '.join(known)}, or "
        f"name a metric such as fid500_tiny"
    )


def earlier_rows(run: Storage, objective: str) -> Iterator[Report]:
    """Reports of what stands in the files of a run that goes on."""
    metric = objective.removeprefix("Metrics/") if objective.startswith("Metrics/") else None
    for row in _lines(run, "metrics.jsonl" if metric else "stats.jsonl"):
        if metric is None and objective in row:
            yield {"kimg": row["Progress/kimg"], "value": row[objective], "sec": row["Timing/total_sec"]}
        elif metric is not None and row.get("metric") == metric and row.get("value") is not None:
            yield {"kimg": row["kimg"], "value": row["value"], "sec": row.get("total_sec") or 0.0}


def _lines(run: Storage, name: str) -> Iterator[dict[str, Any]]:
    content = run.read(name) if run.exists(name) else b""
    for line in content.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def wait_for_checkpoint(checkpoints: Storage, kimg: float) -> None:
    """Returns when the state of a tick is in storage, or after a while; it is written beside the training."""
    deadline = time.monotonic() + MOST_SECONDS_FOR_CHECKPOINT
    while time.monotonic() < deadline:
        names = complete_checkpoints(checkpoints)
        if names and (checkpoint_nimg(names[-1]) or 0) >= round(1000 * kimg):
            return
        time.sleep(0.2)
