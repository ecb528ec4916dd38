"""One function run on many plans in Ray tasks: results in order or as they come, a bounded number of them waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from stylegan_ray.interrupts import hear_sigint

Work = Callable[[Any], Any]
"""What a task does with a plan. It is unpickled once per process, which keeps it, and what it has opened or built."""

MAX_RETRIES = 3
"""How often a task may lose its process."""


class TaskPool:
    """Runs work in tasks of one CPU, or of one CPU and one GPU, at most `max_tasks` at a time, on all nodes."""

    def __init__(self, work: Work, max_tasks: int, device: str = "cpu") -> None:
        self.max_tasks = max_tasks
        self._work = [ray.put(work)]  # in a list, so that Ray does not fetch it for every task
        # Without max_calls=0 a process with a GPU ends with its task, and the next one loads everything again.
        self._task = ray.remote(
            num_cpus=1,
            num_gpus=int(device == "cuda"),
            max_calls=0,
            max_retries=MAX_RETRIES,
            scheduling_strategy="SPREAD",
        )(run_work)

    def in_order(self, plans: Iterable[Any]) -> Generator[Any, None, None]:
        """work(plan) for every plan, in the order of the plans; at most as many results wait as tasks may run.

        Raises what a task raised, and OSError where the process of a task died more than MAX_RETRIES times.
        """
        plans, running = iter(plans), []
        line: deque[ray.ObjectRef] = deque()
        try:
            while True:
                num_new = min(self.max_tasks - len(running), 2 * self.max_tasks - len(line))
                started = [self._task.remote(self._work, plan) for plan in islice(plans, num_new)]
                running += started
                line += started
                if not line:
                    return
                if line[0] in running:
                    _, running = ray.wait(running)
                else:
                    yield result_of(line.popleft())
        finally:
            self._cancel(running)

    def as_they_come(self, plans: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        """Pairs (plan, work(plan)), whichever is ready first; raises as `in_order` does."""
        plans, plan_of = iter(plans), {}
        try:
            while True:
                for plan in islice(plans, self.max_tasks - len(plan_of)):
                    plan_of[self._task.remote(self._work, plan)] = plan
                if not plan_of:
                    return
                (ready,), _ = ray.wait(list(plan_of))
                yield plan_of.pop(ready), result_of(ready)
        finally:
            self._cancel(plan_of)

    def _cancel(self, running: Iterable[ray.ObjectRef]) -> None:
        if ray.is_initialized():
            for task in running:
                ray.cancel(task, force=True)


def result_of(ref: ray.ObjectRef) -> Any:
    """The result of a task; its error comes out as it was raised there."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise OSError(f"a task was lost more than {MAX_RETRIES} times; its node may lack memory: {error}") from None


def run_work(work: list[ray.ObjectRef], plan: Any) -> Any:
    """Runs in a task: the work on one plan."""
    hear_sigint()
    (reference,) = work
    if reference.hex() not in _WORK:
        _WORK.clear()
        _WORK[reference.hex()] = ray.get(reference)
    return _WORK[reference.hex()](plan)


_WORK: dict[str, Work] = {}
