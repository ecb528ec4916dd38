"""Trains a StyleGAN2: jobs/train.py [PRESET] [DATA] [--section.key V ...] [--resume-from CKPT] [--dry-run]."""

import sys

from stylegan_ray.cli import run, train

if __name__ == "__main__":
    sys.exit(run(train))
