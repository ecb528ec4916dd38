"""Coverage-guided fuzzing of one reader.

    python tests/fuzz/run.py TARGET [--runs 1000000] [--minutes 60] [--seconds 5] [--folder DIR]

Needs `pip install 'stylegan-ray[fuzz]'`. Ends with status 0 after so many executions or minutes, and with another one
at the first input that raises an error which is not for users, takes more than 5 s, or lets the process grow by more
than 1 GB; that input is in DIR then. Inputs that reach new code are kept in DIR, so that the same command continues.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
GROWTH_MB = 1024
"""What one input may take."""
INSTRUMENTED = ["stylegan_ray", "pickle", "pickletools", "zipfile", "tarfile", "json", "yaml", "numpy.lib.format"]
STATS = {"executions": "stat::number_of_executed_units", "peak_mb": "stat::peak_rss_mb"}


def main() -> int:
    options = parsed()
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
        "seconds": round(time.monotonic() - begin, 1),
    } | found
    start = re.search(r"at start (\d+) MB, ([\d.]+) s of CPU", printed)
    if start and "executions" in found:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        sec = used.ru_utime + used.ru_stime - float(start[2])
        row |= {"cpu_seconds": round(sec, 1), "executions_per_cpu_sec": round(found["executions"] / max(sec, 1e-3), 1)}
        row["grown_mb"] = found["peak_mb"] - int(start[1])
    print(json.dumps(row))
    return process.returncode


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="a name of tests/fuzz/targets.py")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seconds", type=int, default=5, help="what one input may take; more on a busy machine")
    parser.add_argument("--folder", default="fuzz")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def fuzz(options: argparse.Namespace) -> None:
    """Fuzzes in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from fuzz.seeds import FINDINGS
        from fuzz.targets import TARGETS, attempt, resident_mb
    target, folder = TARGETS[options.target], Path(options.folder) / options.target
    starts = [*target.seeds(), *FINDINGS.get(options.target, ())]
    for number, content in enumerate(starts):
        (folder / "corpus" / f"seed-{number}").write_bytes(content)
        attempt(target, content)  # a whole file is read without an error; and imports and caches are not growth
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


if __name__ == "__main__":
    if parsed().in_this_process:
        fuzz(parsed())
    sys.exit(main())
