"""Converts networks from and to files of other programs: jobs/convert.py SOURCE DEST [--push REPOSITORY]."""

import sys

from stylegan_ray.cli import convert, run

if __name__ == "__main__":
    sys.exit(run(convert))
