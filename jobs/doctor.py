"""Says what this machine or cluster can do: jobs/doctor.py [--address HOST:PORT] [--json FILE]."""

import sys

from stylegan_ray.cli import doctor, run

if __name__ == "__main__":
    sys.exit(run(doctor))
