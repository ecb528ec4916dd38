"""The Ray Serve application: one deployment answers HTTP, another computes images of concurrent users in batches."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import torch
from ray import serve

from stylegan_ray.cluster.serve.api import make_api
from stylegan_ray.credentials import without_credentials
from stylegan_ray.images.view import Drawn, ImageRequest, Prefer, Refusal, View, find_network
from stylegan_ray.storage import one_line

NAME, RENDERER = "stylegan-ray", "Renderer"
BATCH_WAIT_SEC = 0.005
"""How long the first request of a batch waits for others; more of them join while the batch before is computed."""
MOST_WAITING = 200
"""Requests that wait for one process at most; others wait in the process that answers HTTP."""

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Plan:
    """What the application serves, and how."""

    run: str
    prefer: Prefer
    follow_sec: float | None
    """How often to look for another network; None: never."""
    token: str | None
    replicas: int
    threads: int
    batch: int
    device: str


class Renderer:
    """Computes images of the network, which is replaced when the run writes another one."""

    def __init__(self, plan: Plan) -> None:
        torch.set_num_threads(plan.threads)
        self.plan = plan
        try:
            self.found = find_network(plan.run, plan.prefer)
            self.view = View.load(self.found, plan.device)
        except Exception as error:  # Ray writes it to its logs with all that is chained to it
            raise RuntimeError(plain(error)) from None
        draw: Any = self.draw
        draw.set_max_batch_size(plan.batch)
        if plan.follow_sec is not None:
            threading.Thread(target=self._follow, args=(plan.follow_sec,), daemon=True).start()

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=BATCH_WAIT_SEC)
    async def draw(self, requests: list[ImageRequest]) -> list[Drawn | Refusal]:
        """Answers of all requests that wait."""
        return await asyncio.to_thread(self.view.draw, requests)

    async def describe(self) -> dict[str, Any]:
        """The network as JSON."""
        return self.view.describe()

    def _follow(self, seconds: float) -> None:
        while True:
            time.sleep(seconds)
            self.reload()

    def reload(self) -> None:
        """Loads the run's network if it is another one than before; keeps the old one where that fails."""
        try:
            found = find_network(self.plan.run, self.plan.prefer)
            if found != self.found:
                self.view, self.found = View.load(found, self.plan.device), found
                logger.warning(f"loaded {without_credentials(found.address)}")
        except Exception as error:  # such as a checkpoint that the training has deleted meanwhile; the thread goes on
            logger.warning(f"keeping {without_credentials(self.found.address)}: {plain(error)}")


def plain(error: Exception) -> str:
    """The message of an error on one line, without credentials: Ray's logs and its dashboard show it."""
    return one_line(without_credentials(str(error) or type(error).__name__), 500)


class Remote:
    """The renderers, as the interface calls them."""

    @property
    def handle(self) -> Any:
        return serve.get_deployment_handle(RENDERER, app_name=NAME)

    async def draw(self, request: ImageRequest) -> Drawn | Refusal:
        return await self.handle.draw.remote(request)

    async def describe(self) -> dict[str, Any]:
        return await self.handle.describe.remote()


def make_application(plan: Plan) -> serve.Application:
    """The application of a plan."""
    token = plan.token

    def build_api() -> Any:
        return make_api(Remote(), token)

    gpus = {"num_gpus": 1} if plan.device == "cuda" else {}
    renderer = serve.deployment(
        Renderer,
        name=RENDERER,
        num_replicas=plan.replicas,
        max_ongoing_requests=MOST_WAITING,
        ray_actor_options={"num_cpus": 1, **gpus},
    ).bind(plan)
    interface = serve.deployment(
        serve.ingress(build_api)(), name="Interface", max_ongoing_requests=10 * MOST_WAITING,
        ray_actor_options={"num_cpus": 0},
    )  # fmt: skip
    return interface.bind(renderer)
