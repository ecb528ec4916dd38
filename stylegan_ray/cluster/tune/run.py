"""From a plan to a finished sweep: data, storage, cluster, Ray Tune over whole training runs, and the outputs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

import yaml

from stylegan_ray import interrupts
from stylegan_ray.cluster.launch import run_lease, use_defaults, use_ray_defaults
from stylegan_ray.cluster.nodes import Node, alive_nodes
from stylegan_ray.cluster.origin import command_line
from stylegan_ray.cluster.preflight import Clearance, checked_nodes
from stylegan_ray.cluster.resources import (
    Share,
    gpus_of_worker,
    joined,
    share_of_cluster,
)
from stylegan_ray.cluster.run import check_writable, complete_config
from stylegan_ray.cluster.tune.journal import import_journal
from stylegan_ray.cluster.tune.options import Plan
from stylegan_ray.cluster.tune.output import BEST, write_outputs
from stylegan_ray.cluster.tune.progress import SweepView
from stylegan_ray.cluster.tune.sealed import sealed
from stylegan_ray.cluster.tune.trials import TRIALS, Trial, read_trials, unpin
from stylegan_ray.config import ConfigError, RunConfig, differences, validated
from stylegan_ray.credentials import clean
from stylegan_ray.data.dataset import Dataset
from stylegan_ray.metrics.compute import weights_of
from stylegan_ray.metrics.names import parse_metrics
from stylegan_ray.run_folder import STOP, SWEEP
from stylegan_ray.storage import Storage, join_address
from stylegan_ray.train.checks import check_new
from stylegan_ray.train.started import default_name
from stylegan_ray.untrusted import CONFIG_BYTES, printable, reading
from stylegan_ray.untrusted_text import parse_yaml

EXPERIMENT = "tune"
"""Ray Tune's own folder in that of a sweep."""
TUNE_DEFAULTS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a message of a trial is a report without the objective
    "RAY_AIR_NEW_OUTPUT": "0",  # the old one can be silent
    # What Tune has not stored when its process is killed is decided again.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
}
MOST_CRASHES = 10
"""Deaths of a trial's actor that it survives; failures of its workers are handled inside the run."""


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

    def open_numbers(self, trials: Mapping[int, Trial]) -> list[int]:
        """Trials that have not ended, and those that have not begun."""
        return [n for n in range(self.plan.num_samples) if n not in trials or trials[n].state == "open"]


def tune(plan: Plan) -> int:
    """Runs a sweep, or continues it; returns the exit status."""
    use_ray_defaults()
    use_tune_defaults()
    sweep = open_sweep(plan)
    with run_lease(sweep.address, "tune", print):
        return run_sweep(sweep)


def run_sweep(sweep: Sweep) -> int:
    """Runs a sweep that this command alone writes; returns the exit status."""
    plan = sweep.plan
    import_journal(sweep.storage, sweep.storage.folder(TRIALS))
    trials = read_trials(sweep.storage.folder(TRIALS), plan.objective)
    view = SweepView(trials, plan.objective, plan.num_samples, plan.higher_is_better)
    if not sweep.open_numbers(trials):
        view.message(f"Sweep {sweep.address} is finished; more --samples continue it.")
        view.message(closing_message(sweep, write_outputs(sweep.storage, plan, sweep.cfg, trials)))
        return 0
    with joined(sweep.cfg, view.message, plan.options.concurrent or 1, dashboard=sweep.cfg.cluster.most_workers > 1):
        num_left = len(sweep.open_numbers(trials))
        share, at_once = places(sweep.cfg, plan.options.concurrent, num_left, view.message)
        with checked_nodes(sweep.cfg, sweep.dataset, sweep.address, share, view.message) as clearance:
            write_beginnings(sweep)
            view.message(f"Sweep {sweep.address}")
            return run_trials(sweep, trainable_of(sweep, share, clearance), share, at_once, view)


def use_tune_defaults() -> None:
    """Sets the variables that Ray Tune reads, where nobody has set them."""
    use_defaults(TUNE_DEFAULTS)


def open_sweep(plan: Plan) -> Sweep:
    """The sweep with its data and storage; raises ConfigError where it cannot begin or continue."""
    cfg, dataset = complete_config(plan.cfg)
    name = plan.cfg.run.name or f"sweep-{default_name(cfg).rpartition('-')[0]}-{digest(plan, cfg)}"
    cfg = cfg.with_overrides({"run.name": name})
    assert cfg.run.storage is not None
    sweep = Sweep(plan, cfg, dataset, join_address(cfg.run.storage, name))
    check_writable(sweep.address)
    if sweep.storage.exists(SWEEP):
        check_sweep_continues(sweep)
    else:
        check_new(cfg, starts_from_others=False)
    check_objective(sweep)
    return sweep


def check_objective(sweep: Sweep) -> None:
    """Raises ConfigError where the objective is a metric whose weights are not there: no trial could report it."""
    specs = parse_metrics([sweep.plan.metric] if sweep.plan.metric else [])
    _, missing = weights_of(specs, sweep.cfg.metrics.detector)
    for reason in missing.values():
        raise ConfigError(f"--objective {sweep.plan.metric}: {reason}")


def description(plan: Plan, cfg: RunConfig) -> dict[str, Any]:
    """Everything that decides what a sweep finds."""
    free = ("samples", "concurrent")
    return {
        "space": [dataclasses.asdict(parameter) for parameter in plan.space.parameters],
        "fixed": plan.space.fixed,
        "options": {key: value for key, value in dataclasses.asdict(plan.options).items() if key not in free},
        "total_kimg": cfg.train.total_kimg,
    }


def digest(plan: Plan, cfg: RunConfig) -> str:
    """8 hex digits of what must not change when a sweep is continued."""
    text = json.dumps([description(plan, cfg), cfg.digest()], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def check_sweep_continues(sweep: Sweep) -> None:
    """Raises ConfigError when the folder's sweep is not continued by this one."""
    where = sweep.storage.path(SWEEP)
    now = clean(json.loads(json.dumps(description(sweep.plan, sweep.cfg), default=list)))
    with reading(where, ConfigError):
        old = parse_yaml(sweep.storage.read(SWEEP, CONFIG_BYTES), where)
        before = {key: old["sweep"].get(key) for key in now}, validated(old["config"]), old["fingerprint"]
    changed = {key: (before[0][key], now[key]) for key in now if before[0][key] != now[key]}
    changed |= differences(before[1], sweep.cfg)
    if before[2] != sweep.dataset.fingerprint:
        changed["data"] = (before[2], sweep.dataset.fingerprint)
    if changed:
        lines = [f"  {key}: {printable(was)} then, {printable(value)} now" for key, (was, value) in changed.items()]
        raise ConfigError(
            f"sweep {sweep.address} began with other options:",
            *lines,
            "give the old values, or another --run.name for a new sweep",
        )


def write_beginnings(sweep: Sweep) -> None:
    """Writes sweep.yaml: what the sweep searches, how, and the configuration that its trials share."""
    sweep.storage.delete(STOP)
    stored = {
        "command": command_line(),
        "sweep": json.loads(json.dumps(description(sweep.plan, sweep.cfg), default=list)),
        "fingerprint": sweep.dataset.fingerprint,
        "config": sweep.cfg.plain(),
    }
    sweep.storage.write(SWEEP, yaml.safe_dump(clean(stored), sort_keys=False).encode())


def places(cfg: RunConfig, wanted: int | None, num_left: int, say: Any) -> tuple[Share, int]:
    """Each worker's share and how many trials run at once; prints how many fit and why."""
    share_of_cluster(cfg, say)  # waits for nodes, and refuses what could never run
    share, fit, why = fitting(cfg, alive_nodes(), wanted)
    at_once = min(fit, wanted or fit, num_left)
    asked = f"; {wanted} were asked for" if wanted and wanted > fit else ""
    say(f"{at_once} trial{'s' if at_once > 1 else ''} at once, {why}{asked}")
    return share, at_once


def fitting(cfg: RunConfig, nodes: Sequence[Node], wanted: int | None) -> tuple[Share, int, str]:
    """Each worker's share, how many trials fit, and why; by default a worker on CPUs gets one of them."""
    least, most = cfg.cluster.fewest_workers, cfg.cluster.most_workers
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


def run_trials(sweep: Sweep, trainable: Any, share: Share, at_once: int, view: SweepView) -> int:
    """Ray Tune over the trials; returns the exit status. Called in the main thread of a process connected to Ray."""
    from stylegan_ray.cluster.tune.callback import free_disk, session

    running = session(sweep.storage, view, sweep.plan.objective)
    folder = sweep.storage.folder(TRIALS)
    for trial in running.known.values():
        free_disk(folder, trial.record)
    with interrupts.kept():
        for tuner in tuners(sweep, trainable, share, at_once, running.known, view):
            tuner.fit()
            if running.was_stopped:
                break
    view.close()
    with suppress(OSError):
        sweep.storage.delete(STOP)
    is_whole = not sweep.open_numbers(running.known)
    for trial in running.known.values():
        free_disk(folder, trial.record)
        for name in trial.record.runs if is_whole else ():
            unpin(folder.folder(name))
    paths = write_outputs(sweep.storage, sweep.plan, sweep.cfg, running.known)
    view.message(closing_message(sweep, paths, is_whole))
    return exit_status([trial.state for trial in running.known.values()], is_whole, running.was_signaled)


def exit_status(states: Sequence[str], is_whole: bool, was_signaled: bool) -> int:
    """Of a sweep whose trials have these states. A signal counts only where it left trials to continue."""
    if was_signaled and not is_whole:
        return 130
    return 1 if all(state in ("failed", "diverged") for state in states) else 0


def trainable_of(sweep: Sweep, share: Share, clearance: Clearance) -> Any:
    """Tune's trainable with what every trial gets."""
    from ray import tune

    from stylegan_ray.cluster.tune.trial import TrialRun, TrialSpec

    spec = TrialSpec(
        cfg=sweep.cfg.model_dump(mode="json"),
        dataset=sweep.dataset,
        sweep=sweep.address,
        trials=join_address(sweep.address, TRIALS),
        share=share,
        clearance=replace(clearance, cfg=sweep.cfg),
        objective=sweep.plan.objective,
        command=command_line(),
        waits_for_checkpoints=sweep.plan.options.scheduler == "pbt",
    )
    return tune.with_parameters(TrialRun, spec=spec)


def bundles_of_trial(share: Share, at_once: int) -> list[dict[str, float]]:
    """What a trial reserves: what its worker needs, where its actor is that worker, and one of `at_once` places.

    The actor of a trial with several workers needs nothing: it watches over them, on this node.
    """
    from stylegan_ray.cluster.tune.trial import is_alone

    node = next(name for name in alive_nodes()[0].resources if re.fullmatch(r"node:[^_].*", name))
    place = {node: math.floor(10000 / at_once) / 10000}
    gpus = {"GPU": float(share.gpus)} if share.gpus else {}
    return [{"CPU": share.cpus, **gpus}, place] if is_alone(share) else [place]


def tuners(
    sweep: Sweep, trainable: Any, share: Share, at_once: int, known: Mapping[int, Trial], view: SweepView
) -> Iterator[Any]:
    """Tune's experiment of the last command, restored; then a new one for trials that it does not have.

    There are such trials in a new sweep, with more --samples, and where the last command was killed while Tune's state
    was written. A trial's own record and checkpoints count in each case.
    """
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(trainable, tune.PlacementGroupFactory(bundles_of_trial(share, at_once)))
    experiments = [name for name in sweep.storage.names() if re.fullmatch(rf"{EXPERIMENT}(-\d+)?", name)]
    experiments.sort(key=lambda name: int(name.partition("-")[2] or 1))
    if experiments:
        folder, filesystem = sweep.storage.folder(experiments[-1]), sealed(sweep.storage, sweep.address)
        if can_restore(folder):
            yield tune.Tuner.restore(folder.path(), trainable, resume_unfinished=True, storage_filesystem=filesystem)
        else:
            view.message("warning: Ray Tune's state was not stored whole; its trials continue from their own records")
    if sweep.open_numbers(known):
        name = f"{EXPERIMENT}-{len(experiments) + 1}" if experiments else EXPERIMENT
        yield new_tuner(sweep, trainable, known, name)


def can_restore(experiment: Storage) -> bool:
    """Whether Tune's files in the folder of an experiment are whole: it writes them in place."""
    from ray import cloudpickle
    from ray.tune import Tuner

    if not Tuner.can_restore(experiment.path(), storage_filesystem=experiment.filesystem):
        return False
    states = [name for name in experiment.names() if name.startswith("experiment_state")]
    pickles = [name for name in experiment.names() if name.endswith((".json", ".pkl")) and name not in states]
    try:
        for name in states:
            json.loads(experiment.read(name))
        for name in pickles:  # a searcher's state is one, whatever its ending says
            cloudpickle.loads(experiment.read(name))
    except Exception:  # unpickling raises anything
        return False
    return bool(states)


def new_tuner(sweep: Sweep, trainable: Any, known: Mapping[int, Trial], name: str) -> Any:
    """A Tuner over the trials of the sweep; those that have ended report their rows again where that teaches."""
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    from stylegan_ray.cluster.tune.callback import SweepCallback
    from stylegan_ray.cluster.tune.scheduler import scheduler_of
    from stylegan_ray.cluster.tune.searcher import optuna_search, param_space

    plan, options = sweep.plan, sweep.plan.options
    is_optuna = options.search == "optuna"
    learns = options.scheduler == "asha"
    numbers = range(plan.num_samples) if learns else sweep.open_numbers(known)
    return tune.Tuner(
        trainable,
        param_space=None if is_optuna else param_space(plan, list(numbers)),
        tune_config=tune.TuneConfig(
            search_alg=optuna_search(plan, [known[n] for n in sorted(known)]) if is_optuna else None,
            scheduler=scheduler_of(plan, sweep.cfg.train.total_kimg),
            num_samples=plan.num_samples if is_optuna else 1,
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=sweep.storage.path(),
            storage_filesystem=sealed(sweep.storage, sweep.address),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MOST_CRASHES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run saves itself
            callbacks=[
                SweepCallback(plan.objective, plan.num_samples, plan.higher_is_better),
                JsonLoggerCallback(),
            ],
        ),
    )


def trial_name(trial: Any) -> str:
    """The name of one of Tune's trials, and of its folder."""
    from stylegan_ray.cluster.tune.trials import run_name

    return run_name(trial.config["number"])


def closing_message(sweep: Sweep, paths: Mapping[str, str], is_whole: bool = True) -> str:
    """What a sweep prints at its end: the best trial, and where everything is stored."""
    lines = ["Done." if is_whole else "Stopped; the same command continues."]
    lines += [f"  {label:12s} {text}" for label, text in paths.items()]
    if "Best" in paths:
        best = join_address(sweep.address, BEST)
        download, file = (f"download {best}, then: ", BEST) if "://" in best else ("", quote(best))
        lines.append(f"  {'Train it':12s} {download}stylegan-ray train {file}")
    return "\n".join(lines)
