"""Asks a run to save its state and stop: jobs/stop.py RUN."""

import sys

from stylegan_ray.cli import run, stop

if __name__ == "__main__":
    sys.exit(run(stop))
