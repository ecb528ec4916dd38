"""Running a benchmark: its options, its result as JSON, and a table to read."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import results
from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.options import train_options
from stylegan_ray.outputs import check_file
from stylegan_ray.storage import write_file

Figures = dict[str, Any]
Bars = list[dict[str, Any]]


@dataclass(frozen=True)
class Common:
    """Options of every benchmark; beside them it takes every --section.key of the train command."""

    preset: str = "tiny"
    """The configuration to measure: a preset, or a YAML file."""
    json: Path | None = None
    """Where to write the result."""


def run_benchmark(name: str, benchmark: Any, words: Sequence[str], prog: str) -> int:
    """Measures, writes the JSON, prints the table.

    A benchmark is a module with a dataclass `Options` and a function `measure(options, cfg) -> (figures, bars)`.
    """
    options, cfg = read_options(benchmark.Options, words, prog)
    if options.json is not None:
        check_file(options.json, "--json")
    head = results.circumstances(name, f"{prog} {shlex.join(words)}".strip())
    with terminated_as_interrupted():
        figures, bars = benchmark.measure(options, cfg)
    result = {**head, "figures": figures, "bars": bars}
    if options.json is not None:
        write_file(options.json, f"{json.dumps(result, indent=1)}\n".encode())
    print(results.table(result))
    return 0


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt, so that what was started is ended and temporary files go."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def read_options(kind: type[Any], words: Sequence[str], prog: str) -> tuple[Any, RunConfig]:
    """A benchmark's own options, and the configuration from its preset and all other words."""
    options, others = tyro.cli(kind, args=list(words), prog=prog, return_unknown_args=True, use_underscores=False)
    given = train_options([options.preset, *others], prog)
    if given.dry_run or given.resume_from:
        raise ConfigError("a benchmark takes neither --dry-run nor --resume-from; leave them out")
    return options, given.cfg
