"""Finds the w of images: jobs/project.py NETWORK IMAGE... --outdir DIR [--space w+] [--steps N] [--video mp4] ...."""

import sys

from stylegan_ray.cli import project, run

if __name__ == "__main__":
    sys.exit(run(project))
