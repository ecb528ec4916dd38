"""The command line: `stylegan-ray NAME ...` does what jobs/NAME.py does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import tyro

from stylegan_ray.config import ConfigError, nearest
from stylegan_ray.images.options import GenerateOptions
from stylegan_ray.options import parsed, train_options
from stylegan_ray.run_folder import ask_to_stop


def main() -> None:
    """The console script: runs the command that the first word names."""
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}{nearest(name, COMMANDS)}\n\n{overview()}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(COMMANDS[name], argv))


def overview() -> str:
    """What `stylegan-ray --help` prints."""
    lines = [f"  {name:12s} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: stylegan-ray COMMAND ...   (stylegan-ray COMMAND --help says more)", "", *lines])


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0 done, 2 wrong usage or configuration, 130 interrupted, 1 else."""
    try:
        return command(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def spoken(name: str) -> str:
    """A command as the user calls it: jobs/train.py, or stylegan-ray train."""
    return sys.argv[0] if sys.argv[0].endswith(f"{name}.py") else f"stylegan-ray {name}"


def train(argv: Sequence[str]) -> int:
    """Trains a StyleGAN2; the same command again continues the run."""
    options = train_options(argv, spoken("train"))
    if options.dry_run:
        from stylegan_ray.report.console import ProgressLine
        from stylegan_ray.train.dry_run import describe

        with ProgressLine(sys.stderr) as progress:
            text = describe(options.cfg, progress)
        print(text)
        return 0
    from stylegan_ray.cluster import launch

    return launch.train(options.cfg, options.resume_from)


def generate(argv: Sequence[str]) -> int:
    """Makes pictures of a trained network: grids, single files, style mixing, videos."""
    options = parsed(GenerateOptions, argv, spoken("generate"))
    from stylegan_ray.images.gallery import make_pictures

    for path in make_pictures(options):
        print(path)
    return 0


def evaluate(argv: Sequence[str]) -> int:
    """Takes metrics of a trained network; compares and plots them; fetches weights of detectors."""
    name = argv[0] if argv and argv[0] in ("compare", "plot", "prefetch") else None
    from stylegan_ray.metrics import options

    if name is None:
        options = parsed(options.EvaluateOptions, argv, spoken("evaluate"))
        from stylegan_ray.cluster.evaluate import take_metrics

        return take_metrics(options)
    kind = {"compare": options.CompareOptions, "plot": options.PlotOptions, "prefetch": options.PrefetchOptions}[name]
    options = parsed(kind, argv[1:], f"{spoken('evaluate')} {name}")
    from stylegan_ray.metrics import commands

    return getattr(commands, name)(options)


def prepare_data(argv: Sequence[str]) -> int:
    """Makes a data set for training from pictures in any form, or checks one (--check)."""
    from stylegan_ray.data.options import PrepareOptions

    options = parsed(PrepareOptions, argv, spoken("prepare_data"))
    from stylegan_ray.cluster import prepare

    return prepare.prepare_data(options)


def stop(argv: Sequence[str]) -> int:
    """Asks a run to save its state and stop."""
    options = parsed(StopOptions, argv, spoken("stop"))
    print(ask_to_stop(options.run, options.storage))
    return 0


def tune(argv: Sequence[str]) -> int:
    """Searches learning rates, intervals, gamma or other keys; the same command again continues the sweep."""
    from stylegan_ray.cluster.tune.options import sweep_options

    plan = sweep_options(argv, spoken("tune"))
    from stylegan_ray.cluster.tune.run import tune as run_sweep

    return run_sweep(plan)


def benchmark(argv: Sequence[str]) -> int:
    """Measures speed and memory, against bars where there are any; writes the figures as JSON."""
    if find_spec("benchmarks") is None:
        raise ConfigError("the benchmarks come with the repository: run python jobs/benchmark.py in a checkout of it")
    name, *words = argv or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {spoken('benchmark')} NAME [--json FILE] ...   (NAME --help says more)\n\n  {named(BENCHMARKS)}")
        return 0
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}{nearest(name, BENCHMARKS)}; there are {named(BENCHMARKS)}")
    from benchmarks.command import run_benchmark

    return run_benchmark(name, import_module(BENCHMARKS[name]), words, f"{spoken('benchmark')} {name}")


def named(names: Iterable[str]) -> str:
    return ", ".join(names)


@dataclass(frozen=True)
class StopOptions:
    """Asks a run to save its state and stop."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run: its folder, or its name in the storage."""
    storage: str | None = None
    """Where runs are kept, if not in $STYLEGAN_RAY_STORAGE or ~/stylegan_ray/runs."""


COMMANDS = {
    "train": train, "evaluate": evaluate, "generate": generate, "prepare_data": prepare_data, "stop": stop,
    "tune": tune, "benchmark": benchmark,
}  # fmt: skip
BENCHMARKS = {
    "step": "benchmarks.step",
    "ops": "benchmarks.ops",
    "roofline": "benchmarks.roofline",
    "overlap": "benchmarks.overlap",
    "gpu": "benchmarks.gpu",
    "checkpoint": "benchmarks.checkpoint",
    "overhead": "benchmarks.cluster.overhead",
    "stream": "benchmarks.cluster.stream",
    "metrics": "benchmarks.cluster.metrics",
    "scaling": "benchmarks.cluster.scaling",
    "chaos": "benchmarks.cluster.chaos",
    "sweep": "benchmarks.cluster.sweep",
}
"""Where each benchmark is; only the one that is asked for is imported."""
