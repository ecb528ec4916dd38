"""Blocks of 64 pictures in Ray tasks: any number of them, on any nodes, gives the same numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from stylegan_ray.data.dataset import Dataset
from stylegan_ray.metrics.blocks import BlockWorker, Plan, Result, Task
from stylegan_ray.metrics.compute import Results
from stylegan_ray.metrics.detectors import Weights

MAX_RETRIES = 3
"""How often the process of a task may die."""
MOST_BLOCKS_OF_A_TASK = 4


@dataclass(frozen=True)
class Equipment:
    """What a task needs to compute any block; stands in the object store once."""

    plan: Plan
    G: Any
    dataset: Dataset | None
    weights: Mapping[str, Weights]
    device: str

    def worker(self) -> BlockWorker:
        """What computes blocks in this process."""
        if self.device == "cpu":
            torch.set_num_threads(1)
        detectors = {name: weights.build() for name, weights in self.weights.items()}
        return BlockWorker(self.plan, self.G, self.dataset, detectors, self.device)


class OnRay:
    """Computes blocks in Ray tasks of one thread or one GPU each; one whose process dies is started anew."""

    def __init__(self, weights: Mapping[str, Weights], num_tasks: int, device: str = "cpu") -> None:
        self.weights, self.num_tasks, self.device = weights, num_tasks, device
        # Without max_calls=0 a task with a GPU would end its process, and the next one load everything again.
        self.compute = ray.remote(
            num_cpus=1,
            num_gpus=int(device == "cuda"),
            max_calls=0,
            max_retries=MAX_RETRIES,
            scheduling_strategy="SPREAD",
        )(computed)

    def __call__(self, worker: BlockWorker, tasks: Sequence[Task]) -> Results:
        """Blocks as they are done; a task takes several whole ones."""
        equipment = [ray.put(Equipment(worker.plan, worker.G, worker.dataset, self.weights, self.device))]
        size = max(min(len(tasks) // (8 * self.num_tasks), MOST_BLOCKS_OF_A_TASK), 1)
        waiting = deque(tasks[i : i + size] for i in range(0, len(tasks), size))
        running: dict[Any, Sequence[Task]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.num_tasks:
                    part = waiting.popleft()
                    running[self.compute.remote(equipment, part)] = part
                (ready,), _ = ray.wait(list(running))
                yield from zip(running.pop(ready), self._results(ready), strict=True)
        finally:
            for task in running:
                ray.cancel(task, force=True)

    def _results(self, ready: Any) -> list[Result]:
        try:
            return ray.get(ready)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise OSError(
                f"a task was lost more than {MAX_RETRIES} times; its node may be short of memory: {error}"
            ) from None


def computed(equipment: Sequence[Any], tasks: Sequence[Task]) -> list[Result]:
    """Some blocks; the process keeps what it has built for the next ones."""
    (reference,) = equipment  # in a list, so that Ray does not fetch it for every task
    if reference.hex() not in _WORKERS:
        _WORKERS.clear()
        found: Any = ray.get(reference)
        _WORKERS[reference.hex()] = found.worker()
    return [_WORKERS[reference.hex()].run(task) for task in tasks]


_WORKERS: dict[str, BlockWorker] = {}
