"""Commands that compare and plot stored metrics, and fetch weights of detectors."""

from __future__ import annotations

import sys

from stylegan_ray.config import ConfigError, nearest
from stylegan_ray.metrics.detectors import KNOWN, DetectorUnavailable, detector_folder
from stylegan_ray.metrics.detectors import prefetch as fetch
from stylegan_ray.metrics.options import CompareOptions, PlotOptions, PrefetchOptions
from stylegan_ray.metrics.row_files import compare_stored, grouped, load_rows
from stylegan_ray.run_folder import find_run, refuse_relative
from stylegan_ray.storage import Storage, absolute, one_line, split_address
from stylegan_ray.table import format_table


def compare(options: CompareOptions) -> int:
    """Prints A, B and their difference for every metric that both have."""
    rows = [("metric", "A", "B", "B - A", "in spreads")]
    for pair in compare_stored(options.a, options.b):
        spreads = "" if pair.in_spreads is None else f"{pair.in_spreads:+.1f}"
        values = (f"{pair.a['value']:.6g}", f"{pair.b['value']:.6g}", f"{pair.difference:+.4g}")
        rows.append((pair.metric, *values, spreads))
    print(format_table(rows))
    return 0


def plot(options: PlotOptions) -> int:
    """Writes the curves of runs and prints the paths of the files."""
    if not options.runs:
        raise ConfigError("which runs? give at least one RUN, by its folder or name")
    refuse_relative({"--out": options.out})
    found = [find_run(run) for run in options.runs]
    names = [split_address(address)[1] for address in found]
    labels = names if len(set(names)) == len(names) else found
    runs = grouped(found, options.by) if options.by else dict(zip(labels, map(load_rows, found), strict=True))
    from stylegan_ray.metrics.plot import write_plots  # matplotlib takes a second to import

    try:
        paths = write_plots(runs, Storage.at(absolute(options.out) if options.out else found[0]))
    except OSError as error:
        raise ConfigError(f"--out {options.out or found[0]} cannot be written: {one_line(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{error}; train with --metrics.names fid5k_tiny, or compute some with evaluate") from None
    print("\n".join(paths))
    return 0


def prefetch(options: PrefetchOptions) -> int:
    """Fetches weights and prints their paths; returns 1 when some cannot be fetched."""
    unknown = [name for name in options.detectors if name not in KNOWN]
    if unknown or not options.detectors:
        name = unknown[0] if unknown else ""
        raise ConfigError(f"no detector {name!r}{nearest(name, KNOWN)}; detectors: {', '.join(KNOWN)}")
    try:
        paths = fetch(options.detectors, options.detector, _progress if sys.stdout.isatty() else None)
    except DetectorUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(paths or [f"nothing to fetch into {options.detector or detector_folder()}"]))
    return 0


def _progress(name: str, done: int, total: int) -> None:
    share = f"{done / 2**20:.0f} / {total / 2**20:.0f} MiB" if total else f"{done / 2**20:.0f} MiB"
    end = "\n" if done == total else ""
    print(f"\r\x1b[2K{name} {share}", end=end, flush=True)
