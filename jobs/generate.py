"""Generates images: jobs/generate.py CHECKPOINT --seeds 0-63 [--grid FILE] [--outdir DIR] [--video FILE] ...."""

import sys

from stylegan_ray.cli import generate, run

if __name__ == "__main__":
    sys.exit(run(generate))
