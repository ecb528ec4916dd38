"""Coverage-guided fuzzing of one reader.

    python tests/fuzz/run.py TARGET [--runs 1000000] [--minutes 60] [--seconds 5] [--folder DIR] [--record FILE]

Needs `pip install 'stylegan-ray[fuzz]'`. Ends with status 0 after so many executions or minutes, and with another one
at the first input that raises an error which is not for users, takes more than 5 s, or lets the process grow by more
than 1 GB; that input is in DIR then. Inputs that reach new code are kept in DIR, so that the same command continues.
The last line is JSON. `--record docs/evidence/fuzz.jsonl` adds it to that file with the commit and the date;
`python tests/fuzz/table.py` writes the file into docs/security.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time
import types
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
GROWTH_MB = 1024
"""What one input may take."""
INSTRUMENTED = ["stylegan_ray", "pickle", "pickletools", "zipfile", "tarfile", "json", "yaml"]
"""Packages whose branches guide the search, and the functions of numpy.lib.format."""
NOT_INSTRUMENTED = ["yaml.reader", "yaml.scanner"]
"""They take nine tenths of the time then; which tokens there are shows in the branches of yaml.parser."""
STATS = {
    "executions": "stat::number_of_executed_units", "peak_mb": "stat::peak_rss_mb",
    "slowest_sec": "stat::slowest_unit_time_sec",
}  # fmt: skip


def main() -> int:
    options = parsed()
    commit = commit_of_this_code(options.record) if options.record else None
    folder = Path(options.folder) / options.target
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    child = [sys.executable, __file__, options.target, "--folder", options.folder, "--runs", str(options.runs)]
    child += ["--seconds", str(options.seconds)]
    begin, printed = time.monotonic(), ""
    with subprocess.Popen(
        [*child, "--minutes", str(options.minutes), "--in-this-process"], stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr or ():
            sys.stderr.write(line)
            printed += line if line.startswith(("stat::", "at start")) else ""
    found = {name: int(match[1]) for name, key in STATS.items() if (match := re.search(rf"{key}:\s*(\d+)", printed))}
    row = {
        "target": options.target,
        "status": process.returncode,
        "limit_sec": options.seconds,
        "seconds": round(time.monotonic() - begin, 1),
    } | found
    start = re.search(r"at start (\d+) MB, ([\d.]+) s of CPU", printed)
    if start and "executions" in found:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        sec = used.ru_utime + used.ru_stime - float(start[2])
        row |= {"cpu_seconds": round(sec, 1), "executions_per_cpu_sec": round(found["executions"] / max(sec, 1e-3), 1)}
        row["grown_mb"] = found["peak_mb"] - int(start[1])
    if options.record and not process.returncode:
        row |= {"commit": commit, "date": datetime.now(UTC).date().isoformat()}
        Path(options.record).parent.mkdir(parents=True, exist_ok=True)
        with open(options.record, "a") as file:
            file.write(json.dumps(row) + "\n")
    print(json.dumps(row))
    return process.returncode


def commit_of_this_code(record: str) -> str:
    """The commit that is checked out; ends the command where files other than the record differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, check=True, capture_output=True, text=True).stdout.rstrip()

    top = Path(git("rev-parse", "--show-toplevel"))
    changed = [top / line[3:] for line in git("status", "--porcelain", "-uall").splitlines()]
    if others := [str(path) for path in changed if path != Path(record).resolve()]:
        sys.exit(f"--record names the commit that was fuzzed, but {others[0]} is not committed")
    return git("rev-parse", "HEAD")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="a name of tests/fuzz/targets.py")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seconds", type=int, default=5, help="what one input may take; more on a busy machine")
    parser.add_argument("--folder", default="fuzz")
    parser.add_argument("--record", help="a file of JSON lines, to which the result is added")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def fuzz(options: argparse.Namespace) -> None:
    """Fuzzes in this process, which libFuzzer ends."""
    os.environ["STYLEGAN_RAY_CACHE"] = os.devnull  # an index that is written for each input takes half of the time
    import atheris
    import numpy as np  # here, since of its modules one is instrumented

    for function in _functions_of(np.lib.format.read_magic.__globals__):
        atheris.instrument_func(function)
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=NOT_INSTRUMENTED):
        from fuzz.seeds import FINDINGS
        from fuzz.targets import TARGETS, PrintableLog, attempt, resident_mb
    logging.getLogger("stylegan_ray").addHandler(PrintableLog())
    logging.getLogger("stylegan_ray").propagate = False
    warnings.simplefilter("ignore")  # of Pillow, about images
    target, folder = TARGETS[options.target], Path(options.folder) / options.target
    starts = [*target.seeds(), *FINDINGS.get(options.target, ())]
    for number, content in enumerate(starts):
        (folder / "corpus" / f"seed-{number}").write_bytes(content)
        attempt(target, content)  # a whole file is read without an error; and imports and caches are not growth
    gc.collect()
    gc.freeze()  # modules and seeds are not looked at again by each collection
    start_mb = resident_mb()
    print(f"at start {start_mb} MB, {sum(os.times()[:2]):.1f} s of CPU", file=sys.stderr)
    limits = {
        "runs": options.runs, "max_total_time": round(60 * options.minutes), "timeout": options.seconds,
        "rss_limit_mb": start_mb + GROWTH_MB, "max_len": 2 * max(map(len, starts)), "print_final_stats": 1,
        "artifact_prefix": f"{folder}/",
    }  # fmt: skip
    words = [sys.argv[0], str(folder / "corpus"), *(f"-{key}={value}" for key, value in limits.items())]
    atheris.Setup(words, lambda content: attempt(target, content))
    atheris.Fuzz()


def _functions_of(namespace: dict[str, Any]) -> list[Any]:
    """The functions that a module defines."""
    found = [value for value in namespace.values() if isinstance(value, types.FunctionType)]
    return [function for function in found if function.__globals__ is namespace]


if __name__ == "__main__":
    if parsed().in_this_process:
        fuzz(parsed())
    sys.exit(main())
