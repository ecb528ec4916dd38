"""From a plan to a finished sweep: data, storage, cluster, Ray Tune over whole training runs, and what comes out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import yaml

from stylegan_ray.cluster.launch import asked_to_stop, completed, default_name, spoken_command, use_ray_defaults
from stylegan_ray.cluster.launch import check_writable as check_storage
from stylegan_ray.cluster.nodes import Node, alive_nodes
from stylegan_ray.cluster.preflight import Clearance, checked_nodes
from stylegan_ray.cluster.resources import (
    Share,
    gpus_of_worker,
    joined,
    share_of_cluster,
    workers_range,
)
from stylegan_ray.cluster.tune.journal import Journal
from stylegan_ray.cluster.tune.options import Plan
from stylegan_ray.cluster.tune.output import write_outputs
from stylegan_ray.cluster.tune.progress import SweepView
from stylegan_ray.config import ConfigError, RunConfig, differences, validated
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.storage import Storage, join_address

FILE, TRIALS = "sweep.yaml", "trials"
TUNE_DEFAULTS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one can be silent
    # Its own state is not what a sweep is continued from.
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
}
MOST_CRASHES = 10
"""Deaths of a trial's actor that it survives; what its workers do to each other is settled in the run."""


@dataclass
class Sweep:
    """One sweep, as the driver sees it."""

    plan: Plan
    cfg: RunConfig
    """Complete: what all trials share."""
    dataset: Dataset
    address: str

    @property
    def storage(self) -> Storage:
        return Storage.at(self.address)

    @property
    def trials(self) -> str:
        return join_address(self.address, TRIALS)

    @property
    def rules(self) -> Any:
        """How trials are chosen and judged."""
        from stylegan_ray.cluster.tune.scheduler import Rules

        options, total = self.plan.options, self.cfg.train.total_kimg
        return Rules(
            num_samples=self.plan.num_samples,
            total_kimg=total,
            scheduler=options.scheduler,
            search=options.search,
            higher_is_better=self.plan.higher_is_better,
            seed=self.cfg.run.seed,
            grace_kimg=options.grace_kimg or total / options.reduction**2,
            reduction=options.reduction,
            perturb_kimg=options.perturb_kimg or total / 4,
        )


def tune(plan: Plan) -> int:
    """Runs a sweep, or continues it; returns the exit status."""
    use_ray_defaults()
    os.environ.update({key: value for key, value in TUNE_DEFAULTS.items() if key not in os.environ})
    sweep = opened(plan)
    from stylegan_ray.cluster.ray_private import mute_raylets
    from stylegan_ray.cluster.tune.scheduler import Judge
    from stylegan_ray.cluster.tune.searcher import copy_state

    trials = Storage.at(sweep.trials)
    judge = Judge(sweep.rules, plan.space, Journal(sweep.storage), partial(copy_state, trials))
    view = SweepView(judge.ledger, plan.objective, plan.num_samples, plan.higher_is_better)
    if not judge.num_left:
        view.message(f"Sweep {sweep.address} is finished; more --samples continue it.")
        view.message(closing_words(sweep, write_outputs(sweep.storage, plan, sweep.cfg, judge.ledger)))
        return 0
    with joined(sweep.cfg, view.message, plan.options.concurrent or 1):
        mute_raylets()
        share, at_once = places(sweep.cfg, plan.options.concurrent, judge.num_left, view.message)
        with checked_nodes(sweep.cfg, sweep.dataset, sweep.address, share, view.message) as clearance:
            write_beginnings(sweep)
            view.message(f"Sweep {sweep.address}")
            return run_trials(sweep, judge, share, at_once, clearance, view)


def opened(plan: Plan) -> Sweep:
    """The sweep with its data and storage; raises ConfigError where it may not begin or go on."""
    cfg, dataset = completed(plan.cfg)
    name = plan.cfg.run.name or f"sweep-{default_name(cfg).rpartition('-')[0]}-{digest(plan, cfg)}"
    cfg = cfg.with_overrides({"run.name": name})
    assert cfg.run.storage is not None
    sweep = Sweep(plan, cfg, dataset, join_address(cfg.run.storage, name))
    check_storage(sweep.storage)
    check_continues(sweep)
    return sweep


def description(plan: Plan, cfg: RunConfig) -> dict[str, Any]:
    """All that decides what a sweep finds."""
    free = ("samples", "concurrent")
    return {
        "space": [dataclasses.asdict(parameter) for parameter in plan.space.parameters],
        "fixed": plan.space.fixed,
        "options": {key: value for key, value in dataclasses.asdict(plan.options).items() if key not in free},
        "total_kimg": cfg.train.total_kimg,
    }


def digest(plan: Plan, cfg: RunConfig) -> str:
    """8 hex digits of what a sweep may not change when it is continued."""
    text = json.dumps([description(plan, cfg), cfg.digest()], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def check_continues(sweep: Sweep) -> None:
    """Raises ConfigError when the folder holds a sweep that this one does not continue."""
    if not sweep.storage.exists(FILE):
        return
    old = yaml.safe_load(sweep.storage.read(FILE))
    now = json.loads(json.dumps(description(sweep.plan, sweep.cfg), default=list))
    changed = {key: (old["sweep"].get(key), now[key]) for key in now if old["sweep"].get(key) != now[key]}
    changed |= differences(validated(old["config"]), sweep.cfg)
    if old["fingerprint"] != sweep.dataset.fingerprint:
        changed["data"] = (old["fingerprint"], sweep.dataset.fingerprint)
    if changed:
        lines = "\n".join(f"  {key}: {before!r} then, {after!r} now" for key, (before, after) in changed.items())
        raise ConfigError(
            f"sweep {sweep.address} was begun otherwise:\n{lines}\n"
            f"give the old values, or another --run.name for a new sweep"
        )


def write_beginnings(sweep: Sweep) -> None:
    """sweep.yaml: what the sweep searches, how, and the configuration that its trials share."""
    told = {
        "command": spoken_command(),
        "sweep": json.loads(json.dumps(description(sweep.plan, sweep.cfg), default=list)),
        "fingerprint": sweep.dataset.fingerprint,
        "config": sweep.cfg.model_dump(mode="json"),
    }
    sweep.storage.write(FILE, yaml.safe_dump(told, sort_keys=False).encode())


def places(cfg: RunConfig, wanted: int | None, num_left: int, say: Any) -> tuple[Share, int]:
    """Each worker's share and how many trials run at once; says how many fit and why."""
    share_of_cluster(cfg, say)  # waits for nodes, and refuses what could never run
    share, fit, why = fitting(cfg, alive_nodes(), wanted)
    at_once = min(fit, wanted or fit, num_left)
    asked = f"; {wanted} were asked for" if wanted and wanted > fit else ""
    say(f"{at_once} trial{'s' if at_once > 1 else ''} at once, {why}{asked}")
    return share, at_once


def fitting(cfg: RunConfig, nodes: Sequence[Node], wanted: int | None) -> tuple[Share, int, str]:
    """Each worker's share, how many trials fit, and why; where nothing is said, a worker on CPUs gets one of them."""
    least, most = workers_range(cfg)
    gpus = gpus_of_worker(cfg, [node.resources for node in nodes])
    hosts = [node.resources for node in nodes if node.resources.get("GPU" if gpus else "CPU", 0) >= 1]
    if cfg.cluster.cpus_per_worker:
        cpus = cfg.cluster.cpus_per_worker
    elif gpus:
        cpus = max(min(host.get("CPU", 0) // host["GPU"] for host in hosts), 1)
    else:
        per_node = math.ceil((wanted or 0) * most / len(hosts))
        cpus = max(min(host["CPU"] for host in hosts) // per_node, 1) if per_node else 1
    share = Share(most if least == most else (least, most), float(cpus), gpus, threads=max(int(cpus), 1))
    slots = sum(node.workers(cpus, gpus) for node in nodes)
    has = f"{sum(host.get('GPU', 0) for host in hosts):g} GPUs" if gpus else ""
    has = has or f"{sum(host.get('CPU', 0) for host in hosts):g} CPUs"
    each = f"{cpus:g} CPU{'s' if cpus > 1 else ''}" + (f" and {gpus} GPU" if gpus else "")
    why = f"{slots // most} fit: {has}, {most} worker{'s' if most > 1 else ''} a trial, {each} a worker"
    if slots < most:
        raise ConfigError(
            f"cluster.num_workers={cfg.cluster.num_workers}: no trial fits ({why}); use fewer workers or "
            f"a smaller cluster.cpus_per_worker"
        )
    return share, slots // most, why


def run_trials(sweep: Sweep, judge: Any, share: Share, at_once: int, clearance: Clearance, view: SweepView) -> int:
    """Ray Tune over the trials; returns the exit status."""
    from stylegan_ray.cluster.tune.searcher import Course

    course = Course(judge, Storage.at(sweep.trials), at_once, view)
    course.free_all()
    with asked_to_stop(course.ask_to_stop, view.message) as interrupted:
        fit_tuner(sweep, course, order_of(sweep, share, clearance))
    course.free_all()
    view.close()
    if course.refusal is not None:
        raise ConfigError(course.refusal)
    paths = write_outputs(sweep.storage, sweep.plan, sweep.cfg, judge.ledger)
    view.message(closing_words(sweep, paths, is_whole=not judge.ledger.open and not course.is_stopping))
    return 130 if interrupted() else 0


def order_of(sweep: Sweep, share: Share, clearance: Clearance) -> Any:
    """What every trial is told."""
    from stylegan_ray.cluster.tune.trial import TrialOrder

    return TrialOrder(
        cfg=sweep.cfg.model_dump(mode="json"),
        dataset=sweep.dataset,
        trials=sweep.trials,
        share=share,
        clearance=replace(clearance, cfg=sweep.cfg),
        objective=sweep.plan.objective,
        command=spoken_command(),
        waits_for_checkpoints=sweep.plan.options.scheduler == "pbt",
    )


def fit_tuner(sweep: Sweep, course: Any, order: Any) -> None:
    """Lets Ray Tune run the trials. Their actors need no CPU: they stand on this node and watch over their workers."""
    from ray import tune

    from stylegan_ray.cluster.tune.searcher import Beats, Deals, Ends, Verdicts
    from stylegan_ray.cluster.tune.trial import TrialRun

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    name_of_node = next(name for name in alive_nodes()[0].resources if re.fullmatch(r"node:[^_].*", name))
    here = tune.PlacementGroupFactory([{name_of_node: 0.001}])
    with tempfile.TemporaryDirectory(prefix="sweep-", ignore_cleanup_errors=True) as folder:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(TrialRun, order=order), here),
            tune_config=tune.TuneConfig(
                search_alg=Deals(course),
                scheduler=Verdicts(course),
                reuse_actors=True,
                num_samples=course.judge.num_left,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']:03d}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:03d}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MOST_CRASHES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run saves itself
                callbacks=[Beats(course)],
                stop=Ends(course),
            ),
        ).fit()


def closing_words(sweep: Sweep, paths: Mapping[str, str], is_whole: bool = True) -> str:
    """The last words of a sweep: what won, and what to do with it."""
    lines = ["Done." if is_whole else "Stopped; the same command goes on."]
    lines += [f"  {label:12s} {text}" for label, text in paths.items()]
    if "Best" in paths:
        lines.append(f"  {'Train it':12s} stylegan-ray train {join_address(sweep.address, 'best.yaml')}")
    return "\n".join(lines)
