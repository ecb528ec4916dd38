"""MLflow: one run of its server, whose steps are cur_nimg."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stylegan_ray.credentials import without_credentials
from stylegan_ray.report.trackers.covered import reduced_image
from stylegan_ray.report.trackers.protocol import FAKES, NETWORK, TICKS, About, Point

if TYPE_CHECKING:
    from stylegan_ray.report.trackers.memory import Memory

EXPERIMENT = "stylegan_ray"
"""Where $MLFLOW_EXPERIMENT_NAME does not name another."""
ID_TAG, GROUP_TAG = "stylegan_ray.id", "stylegan_ray.sweep"
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Variables that MLflow reads: it would try for minutes, and this package tries again by itself."""
CLOCK = "Progress/kimg"
"""The key that is sent last: where the server has it, it has the whole row."""
MOST_PARAMS, MOST_METRICS = 100, 1000
"""Of one request."""
MOST_CHARACTERS = 500
"""Of a parameter or tag."""
STATUS = {"done": "FINISHED", "stopped": "KILLED"}


class MLflow:
    """Knows its run by a tag, so that a crash between its creation and its first row leaves no second one."""

    title = "MLflow"

    def __init__(self, address: str) -> None:
        self.address = address
        self.client: Any = None
        self.run_id = ""

    def begin(self, memory: Memory, about: About) -> str | None:
        os.environ.update({key: value for key, value in DEFAULTS.items() if key not in os.environ})
        from mlflow import MlflowClient

        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries
        self.client = MlflowClient(tracking_uri=self.address)
        self.run_folder = memory.run
        experiment = self._experiment()
        found = self.client.search_runs([experiment], f"tags.`{ID_TAG}` = '{memory.id}'", max_results=1)
        self.run_id = found[0].info.run_id if found else self._create(experiment, memory, about)
        self.client.update_run(self.run_id, status="RUNNING")
        self.client.log_text(self.run_id, about.cfg.to_yaml(), "config.yaml")
        # A new run has nothing, whatever one had that was deleted on the server.
        memory.sent = self._sent(found[0].data.metrics, memory) if found else {}
        return f"MLflow: {without_credentials(self.address).rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}"

    def add(self, points: Sequence[Point], memory: Memory) -> bool:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), round(1000 * point.timestamp), point.nimg)
            for point in points
            for key, value in sorted(point.scalars.items(), key=lambda item: item[0] == CLOCK)
        ]
        for some in in_pieces(metrics, MOST_METRICS):
            self.client.log_batch(self.run_id, metrics=some)
        for point in points:
            if point.image is not None:
                self._add_image(point)
        return True

    def add_network(self, path: str, nimg: int) -> None:
        self.client.log_artifact(self.run_id, path, "network")

    def end(self, state: str) -> None:
        self.client.set_terminated(self.run_id, STATUS.get(state, "FAILED"))

    def drop(self) -> None:
        self.client = None

    def _experiment(self) -> str:
        """The id of the experiment, which another run may be creating at the same time."""
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(name)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def _create(self, experiment: str, memory: Memory, about: About) -> str:
        from mlflow.entities import Param

        data = {f"data.{key}": str(value) for key, value in about.data.items() if key != "class_names"}
        tags = {
            ID_TAG: memory.id,
            "mlflow.source.name": about.command,
            "mlflow.note.content": about.notes,
            **({GROUP_TAG: about.group} if about.group else {}),
            **data,
        }
        tags = {key: value[: 10 * MOST_CHARACTERS] for key, value in tags.items()}
        made = self.client.create_run(experiment, round(1000 * memory.began), tags, about.name)
        params = [Param(key, str(value)[:MOST_CHARACTERS]) for key, value in about.cfg.flat().items()]
        for some in in_pieces(params, MOST_PARAMS):
            self.client.log_batch(made.info.run_id, params=some)
        return made.info.run_id

    def _sent(self, latest: Mapping[str, float], memory: Memory) -> dict[str, int]:
        """The last clock value of each series that the server has."""
        keys = {TICKS: CLOCK} | {key: key for key in latest if key.startswith("Metrics/")}
        sent = {series: self._last_step(key) for series, key in keys.items() if key in latest}
        steps = self._image_steps()
        if steps:
            sent[FAKES] = max(steps)
        if NETWORK in memory.sent:
            sent[NETWORK] = memory.sent[NETWORK]
        return sent

    def _last_step(self, key: str) -> int:
        return max(metric.step for metric in self.client.get_metric_history(self.run_id, key))

    def _image_steps(self) -> list[int]:
        """The steps of the images that the server has, from the names that MLflow gives their files."""
        names = [file.path for file in self.client.list_artifacts(self.run_id, "images")]
        return [int(match[1]) for name in names if (match := re.search(rf"{FAKES}.*?step.(\d+)", name))]

    def _add_image(self, point: Point) -> None:
        assert point.image is not None
        image = reduced_image(self.run_folder, point.image)
        self.client.log_image(self.run_id, image, key=FAKES, step=point.nimg, timestamp=round(1000 * point.timestamp))


def in_pieces(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """The items in pieces of `most`."""
    return (items[first : first + most] for first in range(0, len(items), most))
