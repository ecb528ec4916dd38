"""Measures: jobs/benchmark.py NAME [--json FILE] [--preset PRESET] [--section.key V ...]."""

import sys

from stylegan_ray.cli import benchmark, run

if __name__ == "__main__":
    sys.exit(run(benchmark))
