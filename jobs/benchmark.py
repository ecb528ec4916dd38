"""Measures: jobs/benchmark.py NAME [--json FILE] [--preset PRESET] [--section.key V ...]."""

import os
import sys
from pathlib import Path

# The benchmarks are not installed; Ray's workers, which import them too, take their path from the environment.
ROOT = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])

from stylegan_ray.cli import benchmark, run  # noqa: E402

if __name__ == "__main__":
    sys.exit(run(benchmark))
