"""Serves a page to walk the latent space of a network: jobs/serve.py RUN [--port P] [--follow] ...."""

import sys

from stylegan_ray.cli import run, serve

if __name__ == "__main__":
    sys.exit(run(serve))
