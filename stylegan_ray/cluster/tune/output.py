"""The outputs of a sweep: trials.csv, best.yaml, the report, and hyper-parameters for TensorBoard."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboardX import summary

from stylegan_ray.cluster.tune.options import Plan
from stylegan_ray.cluster.tune.progress import format_value
from stylegan_ray.cluster.tune.report import Axis, Curve, Report, write_report
from stylegan_ray.cluster.tune.trials import Trial, rank
from stylegan_ray.config import RunConfig
from stylegan_ray.report.tensorboard import EventFile
from stylegan_ray.run_folder import REPORT, images_of
from stylegan_ray.storage import Storage

BEST = "best.yaml"
"""A preset with the values of the best trial."""


def write_outputs(sweep: Storage, plan: Plan, cfg: RunConfig, trials: Mapping[int, Trial]) -> dict[str, str]:
    """Writes all of them, as far as there are values; returns what is stored where, for the console."""
    ordered = [trials[number] for number in sorted(trials)]
    sweep.write("trials.csv", trials_csv(plan, ordered).encode())
    written = {"Trials": sweep.path("trials.csv")}
    ranked = rank(ordered, plan.higher_is_better)
    if not ranked:
        return written
    best = ranked[0]
    sweep.write(BEST, best_yaml(plan, cfg, best).encode())
    write_report(report_of(sweep, plan, ordered, ranked), sweep, "report")
    write_hparams(sweep, plan, ordered)
    text = f"trial {best.number}, {plan.objective} {format_value(best.value)} at {best.kimg:g} kimg"
    return {"Best": text, **written, "Report": sweep.path(REPORT), "Image": sweep.path("report.png")}


def trials_csv(plan: Plan, trials: Sequence[Trial]) -> str:
    """A row per trial: how it ended, its last objective, and its values."""
    text = io.StringIO()
    writer = csv.writer(text)
    keys = list(dict.fromkeys([*plan.space.keys, *plan.space.fixed]))
    writer.writerow(["trial", "state", "kimg", plan.objective, "seconds", "generation", *keys, "why", "folder"])
    for trial in trials:
        record = trial.record
        sec = trial.rows[-1].sec if trial.rows else ""
        values = [trial.values.get(key, "") for key in keys]
        value = "" if trial.value is None else trial.value
        writer.writerow(
            [trial.number, trial.state, trial.kimg, value, sec, record.generation, *values, record.why, record.name]
        )
    return text.getvalue()


def best_yaml(plan: Plan, cfg: RunConfig, best: Trial) -> str:
    """The configuration of the best trial as a preset for the train command."""
    reached = f"{plan.objective} {format_value(best.value)} at {best.kimg:g} kimg"
    head = (
        f"# Trial {best.number} of sweep {cfg.run.name}: {reached}.\n"
        f"# Train it, longer if you like: stylegan-ray train best.yaml --train.total_kimg {10 * best.kimg:g}\n"
    )
    if best.record.copies:
        head += "# Population based training changed these values during the run; they are its last ones.\n"
    return head + plan.given.with_overrides({**best.values, "run.name": None, "data.path": cfg.data.path}).to_yaml()


def report_of(sweep: Storage, plan: Plan, trials: Sequence[Trial], ranked: Sequence[Trial]) -> Report:
    """What the report shows."""
    axes = tuple(
        Axis(p.key, p.fraction, format_value(_lowest(p)), format_value(_highest(p)), p.is_ordered)
        for p in plan.space.parameters
    )
    curves = tuple(
        Curve(
            f"trial {trial.number}",
            trial.state,
            tuple((row.kimg, row.value) for row in trial.rows),
            trial.values,
            starts=tuple(i for i, row in enumerate(trial.rows) if i and row.generation != trial.rows[i - 1].generation),
        )
        for trial in trials
    )
    ranked = [trial for trial in ranked if trial.kimg] or ranked  # a value from before training ranks nothing
    with_grid = [(trial, grid) for trial in ranked if (grid := last_grid(sweep, trial))]
    grids = tuple(
        (f"{label}: trial {trial.number}, {format_value(trial.value)} at {trial.kimg:g} kimg", grid)
        for label, (trial, grid) in zip(("best", "worst"), (with_grid[:1] + with_grid[1:][-1:]), strict=False)
    )
    return Report(
        title=plan.objective.removeprefix("Metrics/"),
        subtitle=f"{len(trials)} trials, {plan.options.scheduler}, {plan.options.search} search",
        higher_is_better=plan.higher_is_better,
        axes=axes,
        trials=curves,
        order=tuple(trials.index(trial) for trial in ranked),
        grids=grids,
    )


def _lowest(parameter: Any) -> Any:
    return parameter.values[0] if parameter.is_range or not parameter.is_ordered else min(parameter.values)


def _highest(parameter: Any) -> Any:
    return parameter.values[-1] if parameter.is_range or not parameter.is_ordered else max(parameter.values)


def last_grid(sweep: Storage, trial: Trial) -> bytes | None:
    """The newest image grid of a trial, as a PNG file."""
    for folder in trial.record.runs:
        run = sweep.folder(f"trials/{folder}")
        grids = images_of(run)
        if grids:
            return run.read(max(grids))
    return None


def write_hparams(sweep: Storage, plan: Plan, trials: Sequence[Trial]) -> None:
    """Writes a TensorBoard run per trial with its values and the objective (plugin HPARAMS), in place of older ones."""
    for name in sweep.names("tensorboard"):
        sweep.delete_folder(f"tensorboard/{name}")
    for trial in trials:
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
