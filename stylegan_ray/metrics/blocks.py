"""One task of an evaluation: features of 64 reals or fakes, or distances of 64 path steps.

A block is a function of the plan, the networks and its number alone, in any process and in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stylegan_ray import rng
from stylegan_ray.data import BadImage, Dataset
from stylegan_ray.metrics.detectors import Detector
from stylegan_ray.metrics.names import MetricSpec
from stylegan_ray.metrics.path_length import as_seen, path_distances, path_ends
from stylegan_ray.metrics.statistics import Dialect
from stylegan_ray.networks.generator import require_finite
from stylegan_ray.networks.shapes import images_at_once

SHARING = ("fid", "kid", "mind", "pr", "is")
"""Kinds of metrics that share generated images."""

BLOCK = 64
"""Images, seeds or path steps per block."""

Result = dict[str, np.ndarray]
"""Arrays of a block under `features/<detector>`, `logits/<detector>`, `distances`, `z`, `w`."""


@dataclass(frozen=True)
class Plan:
    """The settings that decide the values of metrics, besides networks, data and detectors."""

    specs: tuple[MetricSpec, ...]
    seed: int = 0
    psi: float = 1.0
    """Truncation psi; 1 is off."""
    cutoff: int | None = None
    """Truncate layers below this one only; None: all."""
    noise: Literal["random", "const"] = "random"
    """Noise inputs of the generator."""
    mirror: bool = False
    """Use every real image and its mirror image (for training with mirror_augment)."""
    dialect: Dialect = "original"
    lod: float = 0.0
    """Level of detail of a growing generator."""
    drange: tuple[float, float] = (-1.0, 1.0)
    """Value range of generated images."""


@dataclass(frozen=True, order=True)
class Task:
    """One block of work."""

    kind: Literal["real", "fake", "path", "attributes"]
    of: str
    """Detector of a real task, metric of a path or attributes task; empty for fake tasks, which all metrics share."""
    block: int


class BlockWorker:
    """Computes blocks with networks on one device.

    Raises ValueError for a conditional generator without a data set, whose labels it needs.
    """

    def __init__(
        self,
        plan: Plan,
        G: Any | None,
        dataset: Dataset | None,
        detectors: Mapping[str, Detector],
        device: torch.device | str = "cpu",
    ) -> None:
        self.plan, self.dataset, self.device = plan, dataset, torch.device(device)
        self.detectors = {name: detector.to(self.device) for name, detector in detectors.items()}
        self.G = None if G is None else G.to(self.device)
        self.specs = {spec.name: spec for spec in plan.specs}
        if G is not None and G.label_size and dataset is None:
            raise ValueError(
                "this generator is conditional, so a data set is needed to draw its labels from; give DATA"
            )

    @torch.no_grad()
    def run(self, task: Task) -> Result:
        """The arrays of a block."""
        work = {"real": self._reals, "fake": self._fakes, "path": self._path, "attributes": self._attributes}
        with full_precision():
            return work[task.kind](task)

    def _reals(self, task: Task) -> Result:
        assert self.dataset is not None
        images = read_reals(self.dataset, task.block, self.plan.mirror)
        return {f"features/{task.of}": _array(self.detectors[task.of](images.to(self.device))[0])}

    def _fakes(self, task: Task) -> Result:
        ws = self._map(self._latents("z", task.block, BLOCK), self._labels(task.block))
        images = self._synthesize(self._truncate(ws), self._noise("noise", task.block, BLOCK))
        batches = [as_bytes(part, self.plan.drange) for part in images]
        results: Result = {}
        for name in dict.fromkeys(spec.detector for spec in self.plan.specs if spec.kind in SHARING):
            outputs = [self.detectors[name](images) for images in batches]
            results[f"features/{name}"] = _array(torch.cat([features for features, _ in outputs]))
            logits = [part for _, part in outputs if part is not None]
            if logits:
                results[f"logits/{name}"] = _array(torch.cat(logits))
        return results

    def _path(self, task: Task) -> Result:
        spec = self.specs[task.of]
        assert spec.path is not None
        z0, z1 = self._latents("path/z", task.block, 2 * BLOCK).chunk(2)
        t = torch.from_numpy(self._stream("path/t", task.block).random(BLOCK, dtype=np.float32)).to(z0)
        labels = self._labels(task.block).repeat(2, 1)
        ends = path_ends(lambda z: self._map(z, labels), z0, z1, t, spec.path)
        ends = [self._truncate(w) for w in ends]
        noise = self._noise("path/noise", task.block, 1)  # the same for all steps, so only w moves
        images = (self._synthesize(w, noise) for w in ends)
        distances = []
        for pair in zip(*images, strict=True):
            seen = as_seen(torch.cat(pair), spec.path.crop, self.plan.drange).float()
            before, after = self.detectors[spec.detector](seen)[0].chunk(2)
            distances.append(path_distances(before, after, spec.path.epsilon))
        return {"distances": torch.cat(distances).cpu().numpy()}

    def _attributes(self, task: Task) -> Result:
        detector = self.detectors[self.specs[task.of].detector]
        z = self._latents("attributes/z", task.block, BLOCK)
        w = self._map(z, self._labels(task.block))
        images = self._synthesize(self._truncate(w), self._noise("attributes/noise", task.block, BLOCK))
        logits = [detector(as_bytes(part, self.plan.drange))[0].float() for part in images]
        return {"z": _array(z), "w": _array(w), "logits": _array(torch.cat(logits))}

    def _latents(self, purpose: str, block: int, num: int) -> Tensor:
        assert self.G is not None
        z = self._stream(purpose, block).standard_normal((num, self.G.z_dim), dtype=np.float32)
        return torch.from_numpy(z).to(self.device, next(self.G.parameters()).dtype)

    def _labels(self, block: int) -> Tensor:
        """Labels [64,L] of random images of the data set."""
        assert self.G is not None
        like = next(self.G.parameters())
        if not self.G.label_size:
            return like.new_zeros(BLOCK, 0)
        assert self.dataset is not None
        indices = self._stream("label", block).integers(self.dataset.num_images, size=BLOCK)
        return torch.from_numpy(self.dataset.labels(indices)).to(like)

    def _noise(self, purpose: str, block: int, num: int) -> list[Tensor] | str:
        """Noise inputs of the block, drawn on the device of the generator."""
        assert self.G is not None
        if self.plan.noise == "const":
            return "const"
        like = next(self.G.parameters())
        generator = torch.Generator(self.device).manual_seed(int(self._stream(purpose, block).integers(2**63)))
        shapes = self.G.synthesis.noise_shapes(num, self.plan.lod)
        return [torch.randn(shape, generator=generator, device=self.device, dtype=like.dtype) for shape in shapes]

    def _map(self, z: Tensor, labels: Tensor) -> Tensor:
        assert self.G is not None
        return self.G.mapping(z, labels)

    def _truncate(self, w: Tensor) -> Tensor:
        """Truncated ws [N,num_ws,w]."""
        assert self.G is not None
        ws = w[:, None].expand(-1, self.G.synthesis.num_ws, -1)
        if self.plan.psi == 1:
            return ws
        near = torch.arange(ws.shape[1], device=w.device) < (
            ws.shape[1] if self.plan.cutoff is None else self.plan.cutoff
        )
        return torch.where(near[:, None], torch.lerp(self.G.w_avg.to(w).expand_as(ws), ws, self.plan.psi), ws)

    def _synthesize(self, ws: Tensor, noise: list[Tensor] | str) -> Iterator[Tensor]:
        """Images of the block, in batches whose size depends on the resolution alone."""
        assert self.G is not None
        size = images_at_once(self.G.resolution)
        for begin in range(0, len(ws), size):
            part = slice(begin, begin + size)
            images = self.G.synthesis(ws[part], noise=_part(noise, part, len(ws[part])), lod=self.plan.lod)
            yield require_finite(images)

    def _stream(self, purpose: str, block: int) -> np.random.Generator:
        return rng.stream(rng.stream_key(self.plan.seed, 0, f"metric/{purpose}"), block)


@contextmanager
def full_precision() -> Iterator[None]:
    """Deterministic products in full float32, whatever the settings of the process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def num_reals(spec: MetricSpec, dataset: Dataset, mirror: bool) -> int:
    """Number of reals that a metric uses: as many as it asks for, or all."""
    total = dataset.num_images * (2 if mirror else 1)
    return total if spec.num_real is None else min(spec.num_real, total)


def tasks_of(plan: Plan, num_reals: Mapping[str, int]) -> list[Task]:
    """All blocks of a plan; `num_reals` is the number of reals that each detector has yet to see."""
    tasks = [Task("real", name, block) for name, num in num_reals.items() for block in range(_num_blocks(num))]
    shared = [spec.num_gen for spec in plan.specs if spec.kind in SHARING]
    tasks += [Task("fake", "", block) for block in range(_num_blocks(max(shared, default=0)))]
    for spec in plan.specs:
        if spec.kind in ("ppl", "ls"):
            kind = "path" if spec.kind == "ppl" else "attributes"
            tasks += [Task(kind, spec.name, block) for block in range(_num_blocks(spec.num_gen))]
    return tasks


def read_reals(dataset: Dataset, block: int, mirror: bool) -> Tensor:
    """Images uint8 [N,C,H,W] at 64 places of a fixed random order of the data set (fewer at its end).

    The order is the same for every run and seed, so the first 5000 images of a data set are always the same.
    Images that cannot be decoded are left out.
    """
    total = dataset.num_images * (2 if mirror else 1)
    places = np.arange(block * BLOCK, min((block + 1) * BLOCK, total))
    chosen = rng.permuted(places, total, rng.stream_key(0, 0, "metric/reals"))
    images = []
    for row in chosen.tolist():
        with suppress(BadImage):  # num_real of the metric's row counts the others
            image = torch.from_numpy(dataset.read(row % dataset.num_images))
            images.append(image.flip(2 if row >= dataset.num_images else ()))
    if not images:
        return torch.zeros((0, dataset.num_channels, *dataset.resolution), dtype=torch.uint8)
    return torch.stack(images)


def as_bytes(images: Tensor, drange: tuple[float, float] = (-1.0, 1.0)) -> Tensor:
    """Images in drange as uint8, by adding a half and truncating, as the original does for metrics."""
    scale = 255 / (drange[1] - drange[0])
    return (images * scale + (0.5 - drange[0] * scale)).clamp(0, 255).to(torch.uint8)


def _num_blocks(num: int) -> int:
    return -(-num // BLOCK)


def _part(noise: list[Tensor] | str, part: slice, num: int) -> list[Tensor] | str:
    if isinstance(noise, str):
        return noise
    return [n.expand(num, -1, -1, -1) if len(n) == 1 else n[part] for n in noise]


def _array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
