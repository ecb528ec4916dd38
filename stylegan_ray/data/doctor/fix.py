"""Cleans a data set by stated policies, and says what was changed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylegan_ray.config import DataConfig
from stylegan_ray.data.dataset import Dataset, Images
from stylegan_ray.data.decode import Decoder
from stylegan_ray.data.doctor.doubts import KINDS, Reasons, are_usually_color, common
from stylegan_ray.data.doctor.findings import Findings
from stylegan_ray.data.doctor.summary import Doubts, is_trainable, recommend_keys
from stylegan_ray.data.doctor.traits import Bars
from stylegan_ray.data.errors import BadImage, DataError
from stylegan_ray.data.formats.protocol import Inspector
from stylegan_ray.data.index import IS_COLOR
from stylegan_ray.data.pyramid import downscale


@dataclass(frozen=True)
class Fix:
    """What is changed in a data set: which images are left out, and which lose their bars."""

    findings: Findings
    doubts: Doubts
    """Those that count: of kinds that are to be kept there are none."""

    @classmethod
    def plan(cls, findings: Findings, doubts: Doubts, keep: Collection[str] = ()) -> Fix:
        """Acts on all doubts but those of the kinds in `keep`; unreadable images are always left out."""
        acting = {name: {} if name in keep and name != "unreadable" else found for name, found in doubts.items()}
        return cls(findings, acting)

    @property
    def left_out(self) -> set[int]:
        """Entries that are not written."""
        return {entry for kind in KINDS if kind.leaves_out for entry in self.doubts[kind.name]}

    @property
    def boxes(self) -> dict[int, tuple[int, int, int, int]]:
        """What is used of padded images, as (left, top, right, bottom)."""
        boxes = {}
        for entry in self.doubts["padded"]:
            traits = self.findings.traits[entry]
            bars = Bars(tuple(traits["bars"].tolist()), traits["bar_colors"], tuple(traits["straightness"].tolist()))
            boxes[entry] = bars.box(int(traits["height"]), int(traits["width"]))
        return boxes

    def config(self, cfg: DataConfig) -> DataConfig:
        """The data section with a policy for everything that it leaves open."""
        keys = recommend_keys(self.findings.updated_index)
        changes: dict[str, Any] = {"on_bad_image": "skip", "crop": "center"}
        if cfg.resolution is None and ((usual := common(self.findings.sizes)) is not None and is_trainable(usual)):
            changes["resolution"] = usual
        elif cfg.resolution is None and (self.boxes or "resolution" in keys):
            changes["resolution"] = keys.get("resolution") or self._only_size()
        if cfg.channels is None:
            is_gray = self.doubts["other-channels"] and not are_usually_color(self.findings)
            changes["channels"] = 1 if is_gray else keys.get("channels")
        if cfg.alpha == "error":
            changes["alpha"] = "white"
        return cfg.model_copy(update=changes)

    def _only_size(self) -> tuple[int, int]:
        (size,) = self.findings.sizes
        return size

    def apply(self, dataset: Dataset, inspector: Inspector) -> Dataset:
        """The data set without what is left out, and with padded images cut; raises DataError when nothing is left."""
        left_out = self.left_out
        dataset.rows = np.array([entry for entry in dataset.rows.tolist() if entry not in left_out], dtype=np.int64)
        if not len(dataset.rows):
            raise DataError(f"data.path={dataset.path}: --fix leaves out every image; keep some kinds with --keep")
        dataset.images = TrimmedImages(dataset.images, self.boxes, inspector)
        changes = hashlib.sha256(dataset.rows.tobytes() + repr(sorted(self.boxes.items())).encode())
        dataset.fingerprint = f"{dataset.fingerprint}-fixed-{changes.hexdigest()}"
        return dataset

    def report(self, dataset: Dataset, order: np.ndarray) -> dict[str, Any]:
        """What is done with every image that is not written as it is; `number` is its place in the new data set."""
        names = self.findings.index.names
        place = {int(dataset.rows[index]): number for number, index in enumerate(order.tolist())}
        changes = []
        conversions = self._conversions(dataset)
        for entry in range(len(names)):
            found = [
                {"kind": kind.name, "why": why, "done": kind.policy}
                for kind in KINDS
                if (why := self.doubts[kind.name].get(entry) or conversions.get(kind.name, {}).get(entry))
            ]
            if found:
                changes.append({"name": names[entry], "number": place.get(entry), "changes": found})
        return {
            "source": dataset.path,
            "policies": {kind.name: kind.policy for kind in KINDS},
            "resolution": list(dataset.resolution),
            "channels": dataset.num_channels,
            "images_read": len(names),
            "images_written": dataset.num_images,
            "changes": changes,
        }

    def _conversions(self, dataset: Dataset) -> dict[str, Reasons]:
        """Images of other sizes or channels than the new data set has, where none are usual enough to make a doubt."""
        traits, rows = self.findings.traits, dataset.rows
        height, width = traits["height"][rows], traits["width"][rows]
        resized = rows[(height != dataset.resolution[0]) | (width != dataset.resolution[1])]
        is_color = traits["flags"][rows] & IS_COLOR != 0
        return {
            "other-size": {int(e): f"{traits['height'][e]}x{traits['width'][e]}" for e in resized},
            "other-channels": {
                int(e): "a color file" if dataset.num_channels == 1 else "a gray file"
                for e in rows[is_color != (dataset.num_channels == 3)]
            },
        }


@dataclass(frozen=True)
class TrimmedImages:
    """Images of which some are used without their bars."""

    images: Images
    boxes: dict[int, tuple[int, int, int, int]]
    inspector: Inspector

    @property
    def decoder(self) -> Decoder:
        return self.images.decoder

    def read(self, entry: int, name: str, level: int) -> np.ndarray:
        """uint8 [C,H>>level,W>>level]; raises BadImage, or OSError when storage fails."""
        if entry not in self.boxes:
            return self.images.read(entry, name, level)
        try:
            image = self.inspector(entry).image.crop(self.boxes[entry])
            return downscale(self.decoder.convert(image), level)
        except ValueError as error:
            raise BadImage(name, str(error)) from error
