"""MLflow's own server with its database, from an environment that has the whole package.

The test extra has mlflow-skinny only: the whole one wants an older pyarrow and graphql-core than the rest of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from importlib import metadata

import pytest
from support.browser import free_port

SECONDS_TO_START = 600


def server_command():
    """The program that serves, or None."""
    if given := os.environ.get("STYLEGAN_RAY_MLFLOW"):
        return [given]
    with suppress(metadata.PackageNotFoundError):
        metadata.version("mlflow")
        return [sys.executable, "-m", "mlflow"]
    return None


needs_server = pytest.mark.skipif(
    server_command() is None,
    reason="set STYLEGAN_RAY_MLFLOW to the program mlflow of an environment with the whole package mlflow",
)


class Server:
    """A server that can be stopped and started again on the same port with the same database."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        folder = self.folder
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", f"{folder}/files"]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
        env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(folder / "server.log", "a") as log:
            self.process = subprocess.Popen([*server_command(), *words], stdout=log, stderr=log, cwd=folder, env=env)
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return
            assert self.process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None


@contextmanager
def mlflow_server(folder):
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
