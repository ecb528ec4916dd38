"""Trackers: servers that show runs side by side and get what a run's folder holds. A new one is a module and a line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from stylegan_ray.config import NOTIFY_URL, ConfigError, RunConfig
from stylegan_ray.report.trackers.delivery import Delivery
from stylegan_ray.report.trackers.memory import Memory
from stylegan_ray.report.trackers.mlflow import MLflow
from stylegan_ray.report.trackers.notify import Notifier
from stylegan_ray.report.trackers.protocol import About, Tracker
from stylegan_ray.report.trackers.wandb import DISABLED, WeightsAndBiases, chosen_mode
from stylegan_ray.storage import Storage

TRACKERS: Mapping[str, Callable[[str], Tracker]] = {"mlflow": MLflow, "wandb": WeightsAndBiases, "notify": Notifier}
"""Makes each tracker from the value of its key in the section `report`."""
PACKAGES = ("mlflow", "wandb")
"""Trackers that need the package, and the extra, of their name."""
NOTIFY = "STYLEGAN_RAY_NOTIFY"
"""Variable with the value of report.notify where the key is null: such an address often is a secret."""


def check_trackers(cfg: RunConfig) -> None:
    """Raises ConfigError where the package of a tracker is not installed, or the variable NOTIFY holds no address."""
    for name in PACKAGES:
        if getattr(cfg.report, name) is not None and find_spec(name) is None:
            raise ConfigError(
                f"report.{name}={getattr(cfg.report, name)!r} needs the package {name}; install stylegan-ray[{name}], "
                f"or leave it out"
            )
    if cfg.report.notify is None and not re.fullmatch(NOTIFY_URL, os.environ.get(NOTIFY) or "http://none"):
        raise ConfigError(
            f"${NOTIFY} (which may be a secret and is not shown) is no address of a receiver; write https://HOST/PATH "
            f"without spaces, user and password, or unset it"
        )


class Deliveries:
    """Sends a run to all trackers that its configuration names, each in a thread of its own."""

    def __init__(self, cfg: RunConfig, run: Storage, about: About, say: Callable[[str], None]) -> None:
        asked: dict[str, Any] = {name: getattr(cfg.report, name) for name in TRACKERS}
        asked["notify"] = asked["notify"] or os.environ.get(NOTIFY) or None
        if chosen_mode() == DISABLED:
            asked["wandb"] = None
        made = {name: TRACKERS[name](value) for name, value in asked.items() if value is not None}
        self.all = [Delivery(tracker, Memory(run, name, tracker.address), about, say) for name, tracker in made.items()]

    def start(self) -> None:
        for delivery in self.all:
            delivery.start()

    def end(self, state: str) -> None:
        """Sends the last rows and how the run ended; returns when the trackers have them, or after a while."""
        for delivery in self.all:
            delivery.end_with(state)
        for delivery in self.all:
            delivery.wait()

    def finish(self, state: str) -> None:
        """Sends what the trackers of a finished run still lack; connects to none that has everything."""
        for delivery in self.all:
            if delivery.lacks_something(state):
                delivery.start()
                delivery.end_with(state)
                delivery.wait()
