"""Takes metrics: jobs/evaluate.py CHECKPOINT [DATA] --metrics NAME ...; compare A B; plot RUN ...; prefetch NAME."""

import sys

from stylegan_ray.cli import evaluate, run

if __name__ == "__main__":
    sys.exit(run(evaluate))
