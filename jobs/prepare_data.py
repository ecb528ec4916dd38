"""Makes or checks a data set: jobs/prepare_data.py SOURCE [DEST] [--resolution N] [--check] ...."""

import sys

from stylegan_ray.cli import prepare_data, run

if __name__ == "__main__":
    sys.exit(run(prepare_data))
