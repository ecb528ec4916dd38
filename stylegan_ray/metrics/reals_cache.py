"""Cache of features of reals, which are computed once for each data set and detector."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from stylegan_ray.credentials import logger_of
from stylegan_ray.data import Dataset
from stylegan_ray.data.index import cache_folder
from stylegan_ray.metrics.detectors import Detector
from stylegan_ray.metrics.reduction import Collected
from stylegan_ray.metrics.statistics import FeatureStats
from stylegan_ray.storage import Storage, delete_old_partials

log = logger_of(__name__)
VERSION = 1
"""Increases when the choice or order of reals changes."""


class RealsCache:
    """Collected features by name, in memory and, with a folder, in storage."""

    def __init__(self, folder: Storage | None = None) -> None:
        self.folder = folder
        self._memory: dict[str, Collected] = {}

    @classmethod
    def of_user(cls) -> RealsCache:
        """The cache that all commands of a user share."""
        return cls(Storage.at(user_folder()))

    def get(self, name: str, rows: bool, stats: bool) -> Collected | None:
        """The features of a name, None if there are none or they lack needed rows or statistics."""
        found = self._memory.get(name) or self._read(name)
        if found is None or (rows and not found.keeps_rows) or (stats and not found.makes_stats):
            return None
        self._memory[name] = found
        return found

    def put(self, name: str, collected: Collected) -> None:
        """Stores collected features; a folder that cannot be written causes a warning."""
        self._memory[name] = collected
        if self.folder is None:
            return
        try:
            if self.folder.is_local:
                delete_old_partials(self.folder.root)
            self.folder.write(f"{name}.safetensors", save_arrays(_arrays(collected)))
        except OSError as error:
            log.warning("features of reals are not cached: %s cannot be written (%s)", self.folder.root, error)

    def _read(self, name: str) -> Collected | None:
        if self.folder is None:
            return None
        try:
            return _collected(load_arrays(self.folder.read(f"{name}.safetensors")))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError) as error:
            log.warning("features of reals in %s/%s cannot be read (%s)", self.folder.root, name, error)
            return None


def user_folder() -> str:
    """The folder of features that all commands of a user share, beside prepared data."""
    return str(cache_folder() / "reals")


def reals_name(dataset: Dataset, detector: Detector, count: int, mirror: bool) -> str:
    """The name of features: data set, detector with its weights and scaling, count."""
    whole, *part = dataset.fingerprint.split("-")  # a part, such as one class, is named behind the data set
    parts = [
        *(whole[:16], *part),
        detector.name,
        detector.sha256[:16],
        detector.resize.replace(" ", "_"),
        str(count),
    ]
    return "-".join([f"v{VERSION}", *parts, *(["mirror"] if mirror else [])])


def _arrays(collected: Collected) -> dict[str, np.ndarray]:
    arrays = {} if collected.stats is None else collected.stats.arrays()
    return {**arrays, **({"rows": collected.rows()} if collected.keeps_rows else {}), "count": np.array(collected.num)}


def _collected(arrays: dict[str, np.ndarray]) -> Collected:
    stats = FeatureStats.from_arrays(arrays) if "scatter" in arrays else None
    return Collected.restored(int(arrays["count"]), arrays.get("rows"), stats)
