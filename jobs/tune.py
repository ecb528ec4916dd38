"""Searches keys: jobs/tune.py [SPACE.yaml] [PRESET] [DATA] [--samples N] [--scheduler asha, pbt or fifo] ...."""

import sys

from stylegan_ray.cli import run, tune

if __name__ == "__main__":
    sys.exit(run(tune))
