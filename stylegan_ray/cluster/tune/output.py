"""What a sweep leaves: trials.csv, best.yaml, the report, and hyper-parameters for TensorBoard."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboardX import summary

from stylegan_ray.cluster.tune.journal import Ledger, Trial
from stylegan_ray.cluster.tune.options import Plan
from stylegan_ray.cluster.tune.progress import shown
from stylegan_ray.cluster.tune.report import Axis, Report, Shown, write_report
from stylegan_ray.config import RunConfig
from stylegan_ray.report.tensorboard import EventFile
from stylegan_ray.run_folder import images_of
from stylegan_ray.storage import Storage


def write_outputs(sweep: Storage, plan: Plan, cfg: RunConfig, ledger: Ledger) -> dict[str, str]:
    """Writes all of them, as far as there is something to tell; returns what is where, in words for a person."""
    sweep.write("trials.csv", trials_csv(plan, ledger).encode())
    found = {"Trials": sweep.path("trials.csv")}
    ranked = ledger.ranked(plan.higher_is_better)
    if not ranked:
        return found
    best = ranked[0]
    sweep.write("best.yaml", best_yaml(plan, cfg, best).encode())
    write_report(report_of(sweep, plan, ledger, ranked), sweep, "report")
    write_hparams(sweep, plan, ledger)
    said = f"trial {best.number}, {plan.objective} {shown(best.value)} at {best.kimg:g} kimg"
    return {"Best": said, **found, "Report": sweep.path("report.html"), "Picture": sweep.path("report.png")}


def trials_csv(plan: Plan, ledger: Ledger) -> str:
    """A row per trial: how it ended, what it reached, and its values."""
    text = io.StringIO()
    writer = csv.writer(text)
    keys = list(dict.fromkeys([*plan.space.keys, *plan.space.fixed]))
    writer.writerow(["trial", "state", "kimg", plan.objective, "seconds", "generation", *keys, "why", "folder"])
    for trial in ledger.trials.values():
        sec = trial.rows[-1].sec if trial.rows else ""
        values = [trial.values.get(key, "") for key in keys]
        value = "" if trial.value is None else trial.value
        writer.writerow(
            [trial.number, trial.state, trial.kimg, value, sec, trial.generation, *values, trial.why, trial.name]
        )
    return text.getvalue()


def best_yaml(plan: Plan, cfg: RunConfig, best: Trial) -> str:
    """The configuration of the best trial as a preset for the train command."""
    head = (
        f"# Trial {best.number} of sweep {cfg.run.name}: {plan.objective} {shown(best.value)} at {best.kimg:g} kimg.\n"
        f"# Train it, longer if you like: stylegan-ray train best.yaml --train.total_kimg {10 * best.kimg:g}\n"
    )
    if best.exploits:
        head += "# Population based training changed these values on the way; they are its last ones.\n"
    return head + plan.given.with_overrides({**best.values, "run.name": None, "data.path": cfg.data.path}).to_yaml()


def report_of(sweep: Storage, plan: Plan, ledger: Ledger, ranked: Sequence[Trial]) -> Report:
    """What the report draws."""
    axes = tuple(
        Axis(parameter.key, parameter.place, shown(_least(parameter)), shown(_most(parameter)), parameter.is_ordered)
        for parameter in plan.space.parameters
    )
    trials = tuple(
        Shown(
            f"trial {trial.number}",
            trial.state,
            tuple((row.kimg, row.value) for row in trial.rows),
            trial.values,
            tuple((event["kimg"], event["from"]) for event in trial.exploits),
        )
        for trial in ledger.trials.values()
    )
    order = tuple(list(ledger.trials).index(trial.number) for trial in ranked)
    with_picture = [(trial, picture) for trial in ranked if (picture := last_picture(sweep, trial))]
    pictures = tuple(
        (f"{label}: trial {trial.number}, {shown(trial.value)} at {trial.kimg:g} kimg", picture)
        for label, (trial, picture) in zip(("best", "worst"), (with_picture[:1] + with_picture[1:][-1:]), strict=False)
    )
    return Report(
        title=plan.objective.removeprefix("Metrics/"),
        subtitle=f"{len(ledger.trials)} trials, {plan.options.scheduler}, {plan.options.search} search",
        higher_is_better=plan.higher_is_better,
        axes=axes,
        trials=trials,
        order=order,
        pictures=pictures,
    )


def _least(parameter: Any) -> Any:
    return parameter.values[0] if parameter.is_range or not parameter.is_ordered else min(parameter.values)


def _most(parameter: Any) -> Any:
    return parameter.values[-1] if parameter.is_range or not parameter.is_ordered else max(parameter.values)


def last_picture(sweep: Storage, trial: Trial) -> bytes | None:
    """The newest picture grid of a trial."""
    for folder in trial.folders:
        run = sweep.folder(f"trials/{folder}")
        grids = images_of(run)
        if grids:
            return run.read(max(grids))
    return None


def write_hparams(sweep: Storage, plan: Plan, ledger: Ledger) -> None:
    """A TensorBoard run per trial with its values and the objective (plugin HPARAMS), written anew."""
    for name in sweep.names("tensorboard"):
        sweep.delete_folder(f"tensorboard/{name}")
    for trial in ledger.trials.values():
        with tempfile.TemporaryDirectory() as folder:
            events = EventFile(Path(folder), 0)
            plain = {
                key: value if isinstance(value, (int, float, str, bool)) else str(value)
                for key, value in trial.values.items()
            }
            for content in summary.hparams(plain, {plan.objective: trial.value}):
                events.add(content, 0)
            for row in trial.rows:
                events.add(summary.scalar(plan.objective, row.value), round(1000 * row.kimg))
            events.close()
            for path in Path(folder).iterdir():
                with suppress(OSError):
                    sweep.write(f"tensorboard/trial-{trial.number:03d}/{path.name}", path.read_bytes())
