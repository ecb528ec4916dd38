"""The command line: `stylegan-ray NAME ...` is the same command as jobs/NAME.py."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import tyro

from stylegan_ray import interrupts, last_words
from stylegan_ray.config import ConfigError, nearest
from stylegan_ray.credentials import without_credentials
from stylegan_ray.images.options import ConvertOptions, GenerateOptions
from stylegan_ray.options import parse_options, train_options
from stylegan_ray.run_folder import ask_to_stop
from stylegan_ray.untrusted import LONGEST_LINE, NonfiniteError, UserError, printable


def main() -> None:
    """The console script: runs the command given as the first argument."""
    name, *argv = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}{nearest(name, COMMANDS)}\n\n{overview()}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(COMMANDS[name], argv))


def overview() -> str:
    """The text of `stylegan-ray --help`."""
    lines = [f"  {name:12s} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: stylegan-ray COMMAND ...   (details: stylegan-ray COMMAND --help)", "", *lines])


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0 done, 2 wrong usage or configuration, 130 interrupted, 1 otherwise."""
    interrupts.install()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files hold any bytes
    with last_words.left_behind(message_of_death(command)):
        try:
            return command(sys.argv[1:] if argv is None else argv)
        except UserError as error:
            print(f"error: {without_credentials(str(error))}", file=sys.stderr)
            return 2
        except NonfiniteError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return interrupted(command)
        except SystemExit as error:
            if error.code == signal.SIGTERM:  # what Ray's own handler raises while Ray starts
                return interrupted(command)
            if error.code == 1:  # 2 has a message of tyro, and a text is printed by Python
                print("error: a library ended the command with status 1", file=sys.stderr)
            raise


def interrupted(command: Callable[[Sequence[str]], int]) -> int:
    """Prints how to go on with a command; returns the exit status."""
    print(f"interrupted{WAYS_ON.get(command.__name__, '')}", file=sys.stderr)
    return 130


def message_of_death(command: Callable[[Sequence[str]], int]) -> str:
    """What is printed where the process ends without a chance to print anything."""
    logs = os.path.join(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray", "session_latest", "logs")
    return (
        f"error: the command was killed, or ended by a library{WAYS_ON.get(command.__name__, '')}; see whether memory "
        f"was short (dmesg), and Ray's logs in {logs}"
    )


def keep_to_loopback(address: str | None) -> None:
    """Makes a Ray that is started on this machine alone listen on its loopback interface only.

    Ray has a switch for this, made for systems whose firewalls ask; it reads it when it is imported.
    """
    if (address or os.environ.get("RAY_ADDRESS") or "local") == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def command_name(name: str) -> str:
    """A command as the user typed it: jobs/train.py, or stylegan-ray train."""
    return sys.argv[0] if sys.argv[0].endswith(f"{name}.py") else f"stylegan-ray {name}"


def train(argv: Sequence[str]) -> int:
    """Trains a StyleGAN2; the same command again continues the run."""
    options = train_options(argv, command_name("train"))
    for key, value in options.transfer.items():
        given = "null" if value is None else f"{value:g}"
        print(f"{key} is {given}, since the networks of --resume-from are trained; --{key} chooses another value")
    if options.dry_run:
        from stylegan_ray.report.console import ProgressLine
        from stylegan_ray.report.graph import check_graph
        from stylegan_ray.report.trackers import check_trackers
        from stylegan_ray.train.dry_run import describe

        check_graph(options.cfg)
        check_trackers(options.cfg)
        with ProgressLine(sys.stderr) as progress:
            text = describe(options.cfg, progress, options.resume_from)
        print(text)
        return 0
    keep_to_loopback(options.cfg.cluster.address)
    from stylegan_ray.cluster import launch

    return launch.train(options.cfg, options.resume_from)


def generate(argv: Sequence[str]) -> int:
    """Generates images with a trained network: grids, single files, style mixing, videos."""
    options = parse_options(GenerateOptions, argv, command_name("generate"))
    if options.n is not None:
        keep_to_loopback(options.address)
        from stylegan_ray.cluster.generate import generate_many

        return generate_many(options)
    from stylegan_ray.images.gallery import generate_images

    for path in generate_images(options):
        print(printable(without_credentials(path), most=LONGEST_LINE))
    return 0


def convert(argv: Sequence[str]) -> int:
    """Converts networks from and to files of other programs."""
    options = parse_options(ConvertOptions, argv, command_name("convert"))
    from stylegan_ray.images.convert import convert_networks

    for line in convert_networks(options):
        print(printable(without_credentials(line), most=LONGEST_LINE))
    return 0


def project(argv: Sequence[str]) -> int:
    """Finds the w with which a network makes given images."""
    from stylegan_ray.images.project_options import ProjectOptions

    options = parse_options(ProjectOptions, argv, command_name("project"))
    keep_to_loopback(options.address)
    from stylegan_ray.cluster.project import project_images

    return project_images(options)


def evaluate(argv: Sequence[str]) -> int:
    """Computes metrics of a trained network; compares and plots them; downloads weights of detectors."""
    name = argv[0] if argv and argv[0] in ("compare", "plot", "prefetch") else None
    from stylegan_ray.metrics import options

    if name is None:
        options = parse_options(options.EvaluateOptions, argv, command_name("evaluate"))
        keep_to_loopback(options.address)
        from stylegan_ray.cluster.evaluate import compute_metrics

        return compute_metrics(options)
    kind = {"compare": options.CompareOptions, "plot": options.PlotOptions, "prefetch": options.PrefetchOptions}[name]
    options = parse_options(kind, argv[1:], f"{command_name('evaluate')} {name}")
    from stylegan_ray.metrics import commands

    return getattr(commands, name)(options)


def serve(argv: Sequence[str]) -> int:
    """Serves a page to walk the latent space of a network, and its HTTP interface."""
    from stylegan_ray.cluster.serve.options import ServeOptions

    options = parse_options(ServeOptions, argv, command_name("serve"))
    keep_to_loopback(options.address)
    from stylegan_ray.cluster.serve.launch import serve_network

    return serve_network(options)


def prepare_data(argv: Sequence[str]) -> int:
    """Converts images to a dataset for training, or checks one (--check)."""
    from stylegan_ray.data.options import PrepareOptions

    options = parse_options(PrepareOptions, argv, command_name("prepare_data"))
    keep_to_loopback(options.address)
    from stylegan_ray.cluster.prepare import command

    return command.prepare_data(options)


def stop(argv: Sequence[str]) -> int:
    """Makes a run save its state and stop."""
    options = parse_options(StopOptions, argv, command_name("stop"))
    print(without_credentials(ask_to_stop(options.run, options.storage)))
    return 0


def report(argv: Sequence[str]) -> int:
    """Writes one HTML page of a run: curves, images over time, metrics, faults, configuration."""
    options = parse_options(ReportOptions, argv, command_name("report"))
    from stylegan_ray.report.page.command import write_report

    print(without_credentials(write_report(options.run, options.storage, options.output)))
    return 0


def doctor(argv: Sequence[str]) -> int:
    """Says what this machine or cluster can do, and what prevents training on it."""
    from stylegan_ray.machine.command import DoctorOptions, examine_machine

    options = parse_options(DoctorOptions, argv, command_name("doctor"))
    if (options.address or os.environ.get("RAY_ADDRESS") or "local") == "local":
        return examine_machine(options)
    from stylegan_ray.cluster.machines import examine_cluster

    return examine_cluster(options)


def tune(argv: Sequence[str]) -> int:
    """Searches learning rates, intervals, gamma or other keys; the same command again continues the sweep."""
    from stylegan_ray.cluster.tune.options import sweep_options

    plan = sweep_options(argv, command_name("tune"))
    keep_to_loopback(plan.cfg.cluster.address)
    from stylegan_ray.cluster.tune.run import tune as run_sweep

    return run_sweep(plan)


def benchmark(argv: Sequence[str]) -> int:
    """Measures speed and memory, compares them with bars, and writes the figures as JSON."""
    if find_spec("benchmarks") is None:
        raise ConfigError(
            "the benchmarks come with the repository and are not installed; clone it and run python jobs/benchmark.py"
        )
    name, *words = argv or ["--help"]
    if name in ("-h", "--help"):
        usage = f"usage: {command_name('benchmark')} NAME [--json FILE] ...   (details: NAME --help)"
        print(f"{usage}\n\n  {_list(BENCHMARKS)}")
        return 0
    if name not in BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}{nearest(name, BENCHMARKS)}; benchmarks: {_list(BENCHMARKS)}")
    from benchmarks.command import run_benchmark

    return run_benchmark(name, import_module(BENCHMARKS[name]), words, f"{command_name('benchmark')} {name}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


@dataclass(frozen=True)
class StopOptions:
    """Makes a run save its state and stop."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run: its folder or address, or its name in the storage."""
    storage: str | None = None
    """Where runs are stored; null: $STYLEGAN_RAY_STORAGE or ~/stylegan_ray/runs."""


@dataclass(frozen=True)
class ReportOptions:
    """Writes one HTML page of a run: curves, images over time, metrics, faults, configuration."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run: its folder or address, or its name in the storage."""
    storage: str | None = None
    """Where runs are stored; null: $STYLEGAN_RAY_STORAGE or ~/stylegan_ray/runs."""
    output: str | None = None
    """The file to write; null: report.html in the run's folder."""


COMMANDS = {
    "train": train, "evaluate": evaluate, "generate": generate, "prepare_data": prepare_data, "stop": stop,
    "tune": tune, "convert": convert, "project": project, "report": report, "serve": serve, "doctor": doctor,
    "benchmark": benchmark,
}  # fmt: skip
WAYS_ON = {
    "train": "; the same command continues from the newest checkpoint",
    "tune": "; the same command continues the sweep",
    "evaluate": "; no row was written: the same command starts again",
    "generate": "; each file that was written is whole: the same command writes the others",
    "prepare_data": "; DEST is as it was before: the same command goes on with the images that are finished",
    "project": "; each file that was written is whole: the same command skips the images that are finished",
}
"""What the same command does after an interruption."""
BENCHMARKS = {
    "step": "benchmarks.step",
    "augment": "benchmarks.augment",
    "peak_memory": "benchmarks.peak_memory",
    "ops": "benchmarks.ops",
    "roofline": "benchmarks.roofline",
    "overlap": "benchmarks.overlap",
    "gpu": "benchmarks.gpu",
    "checkpoint": "benchmarks.checkpoint",
    "projection": "benchmarks.projection",
    "overhead": "benchmarks.cluster.overhead",
    "stream": "benchmarks.cluster.stream",
    "metrics": "benchmarks.cluster.metrics",
    "scaling": "benchmarks.cluster.scaling",
    "chaos": "benchmarks.cluster.chaos",
    "crash": "benchmarks.cluster.crash",
    "soak": "benchmarks.cluster.soak",
    "sweep": "benchmarks.cluster.sweep",
    "speedrun": "benchmarks.cluster.speedrun",
    "shared_cores": "benchmarks.cluster.shared_cores",
    "generate": "benchmarks.cluster.generate",
    "prepare": "benchmarks.cluster.prepare",
}
"""The module of each benchmark; only the requested one is imported."""

if __name__ == "__main__":
    main()
