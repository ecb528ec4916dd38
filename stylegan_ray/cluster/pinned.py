"""Work that is done on a given node, and its results within a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stylegan_ray.storage import one_line

Call = tuple[str, Callable[..., Any], tuple[Any, ...]]
"""The id of a node, a function and its arguments."""


class Failure(str):
    """Why a node gave no result."""


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Places a task or an actor on this node, and nowhere else."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def call_on_nodes(calls: Sequence[Call], timeout_sec: float, max_retries: int = 0) -> list[Any]:
    """What each function returns on its node; a Failure where that takes too long or fails.

    The tasks ask for no CPU, so that full nodes run them.
    """
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": max_retries}
    tasks = [
        ray.remote(**options)(function).options(scheduling_strategy=on_node(node)).remote(*arguments)
        for node, function, arguments in calls
    ]
    found = results(tasks, timeout_sec, why_no_task)
    for task, value in zip(tasks, found, strict=True):
        if isinstance(value, Failure):
            ray.cancel(task, force=True)
    return found


def why_no_task(error: RayError) -> str:
    """What is said of a task that failed: the first thing that it does is to import this package."""
    if isinstance(error, RayTaskError):
        return f"cannot run this package: {one_line(error.cause or error)}"
    return f"cannot run tasks: {one_line(error)}"


def why_no_answer(error: RayError) -> str:
    """What is said of a method of an actor that failed."""
    return f"cannot answer: {one_line(getattr(error, 'cause', None) or error)}"


def results(
    tasks: Sequence[ray.ObjectRef], timeout_sec: float, why: Callable[[RayError], str] = why_no_answer
) -> list[Any]:
    """The results of tasks, a Failure for each one that has none within the time."""
    if tasks:
        ray.wait(list(tasks), num_returns=len(tasks), timeout=timeout_sec)
    return [_result(task, timeout_sec, why) for task in tasks]


def _result(task: ray.ObjectRef, timeout_sec: float, why: Callable[[RayError], str]) -> Any:
    try:
        return ray.get(task, timeout=0)
    except GetTimeoutError:
        return Failure(f"did not answer within {timeout_sec:g} s")
    except RayError as error:
        return Failure(why(error))
