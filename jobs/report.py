"""Writes one HTML page of a run: jobs/report.py RUN [--output FILE]."""

import sys

from stylegan_ray.cli import report, run

if __name__ == "__main__":
    sys.exit(run(report))
