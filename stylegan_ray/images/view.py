"""A loaded network that draws points of its latent space, and the choice of a run's network to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.images.directions import find_directions
from stylegan_ray.images.generate import place_on_walk
from stylegan_ray.images.grid import pil_uint8, png
from stylegan_ray.images.points import Point, Shape, Walk, find_mistake, styles_of
from stylegan_ray.images.training_data import class_names_of
from stylegan_ray.interop import Networks
from stylegan_ray.interop.loading import locate, read_networks
from stylegan_ray.metrics.names import specs_of
from stylegan_ray.networks.shapes import images_at_once
from stylegan_ray.run_folder import COMPLETE, NETWORK_ENDINGS, best_name, find_run, read_config
from stylegan_ray.storage import Storage, join_address, one_line, split_address

Prefer = Literal["newest", "best"]
NOT_FINITE = (
    "The network makes an image of NaN or infinite values there, as one does that has diverged or is damaged; choose "
    "another point, or serve an earlier network."
)


@dataclass(frozen=True)
class ImageRequest:
    """What one request asks for: a point, or a place on a walk through several."""

    points: tuple[Point, ...]
    position: float = 0.0
    has_image: bool = True
    """Whether the image is drawn too, which takes most of the time."""

    @classmethod
    def of(cls, asked: Point | Walk, has_image: bool = True) -> ImageRequest:
        if isinstance(asked, Walk):
            return cls(asked.points, asked.position, has_image)
        return cls((asked,), has_image=has_image)


@dataclass(frozen=True)
class Drawn:
    """The answer to a request."""

    ws: np.ndarray
    """float32 [L,W]."""
    png: bytes | None
    network: dict[str, Any]
    """The network that has drawn it, as View.describe says."""


@dataclass(frozen=True)
class Refusal:
    """The answer to a request that the network cannot fulfil."""

    sentence: str


@dataclass(frozen=True)
class NetworkVersion:
    """A network file or checkpoint, and which version of it."""

    address: str
    version: str
    """Differs once the file has been replaced."""


def find_network(run: str, prefer: Prefer = "newest") -> NetworkVersion:
    """The network to show: the file or checkpoint itself, or a run's newest or best one; raises ConfigError.

    The best one is that by the run's first metric; a run that has computed no metric yet shows its newest.
    """
    try:
        address = (best_of(find_run(run)) if prefer == "best" else None) or locate(run)
        folder, name = split_address(address)
        storage = Storage.at(folder)
        info = storage.filesystem.get_file_info(
            storage.path(name if name.endswith(NETWORK_ENDINGS) else f"{name}/{COMPLETE}")
        )
    except OSError as error:
        raise ConfigError(f"{run} cannot be read: {one_line(error)}") from error
    return NetworkVersion(address, f"{info.mtime_ns} {info.size}")


def best_of(run: str) -> str | None:
    """The address of a run's best network, by the first of its metrics that has one; None where there is none."""
    storage = Storage.at(run)
    names, metrics = storage.names(), read_config(storage).metrics
    values = [value for spec in specs_of(metrics.names, metrics.num_images) for value in spec.values]
    best = next((name for name in map(best_name, values) if name in names), None)
    return join_address(run, best) if best else None


def sefa_steps(G: Any) -> torch.Tensor | None:
    """Steps [K,W] of strength 1 along the network's SeFa directions; None for a network without styles."""
    try:
        found = find_directions(G, "sefa")
    except ConfigError:
        return None
    return (found.vectors * found.scales[:, None]).to(next(G.parameters()))


class View:
    """A network on its device."""

    def __init__(
        self, networks: Networks, name: str = "", device: str = "cpu", class_names: Sequence[str] = ()
    ) -> None:
        self.class_names, self.name = list(class_names), name
        self.cur_nimg, self.lod = networks.cur_nimg, networks.lod
        self.drange = networks.config.train.drange_net
        self.G: Any = networks.G_ema.to(device).eval().requires_grad_(False)
        self.steps = sefa_steps(self.G)
        self.shape = Shape.of(self.G, 0 if self.steps is None else len(self.steps))

    @classmethod
    def load(cls, found: NetworkVersion, device: str = "cpu") -> View:
        """Loads a network and draws an image with it; raises ConfigError."""
        try:
            networks = read_networks(found.address)
            names = class_names_of(found.address, networks.G_ema.label_size)
            view = cls(networks, split_address(found.address)[1], device, names)
            (drawn,) = view.draw([ImageRequest.of(Point())])
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error
        if isinstance(drawn, Refusal):
            raise ConfigError(f"{found.address} makes images of NaN or infinite values; use an earlier network")
        return view

    def describe(self) -> dict[str, Any]:
        """What a page shows of the network, as JSON."""
        height, width = self.G.resolution
        return {
            "name": self.name, "kimg": self.cur_nimg / 1000, "height": height, "width": width,
            "channels": self.G.num_channels, "classes": self.shape.label_size, "layers": self.shape.num_ws,
            "w_dim": self.G.w_dim, "directions": self.shape.num_directions, "class_names": self.class_names,
        }  # fmt: skip

    def draw(self, requests: Sequence[ImageRequest]) -> list[Drawn | Refusal]:
        """Answers to all requests, their images computed together."""
        mistakes = [self._mistake(request) for request in requests]
        ws = iter(
            self._styles([request for request, mistake in zip(requests, mistakes, strict=True) if mistake is None])
        )
        styles = [None if mistake else next(ws) for mistake in mistakes]
        images = iter(
            self._images(
                [w for w, request in zip(styles, requests, strict=True) if w is not None and request.has_image]
            )
        )
        answers: list[Drawn | Refusal] = []
        network = self.describe()
        for request, mistake, w in zip(requests, mistakes, styles, strict=True):
            image = next(images) if w is not None and request.has_image else None
            if w is None:
                answers.append(Refusal(mistake or ""))
            elif isinstance(image, Refusal):
                answers.append(image)
            else:
                answers.append(Drawn(w.float().cpu().numpy(), image, network))
        return answers

    def _mistake(self, request: ImageRequest) -> str | None:
        return next((said for point in request.points if (said := find_mistake(point, self.shape))), None)

    def _styles(self, requests: Sequence[ImageRequest]) -> list[torch.Tensor]:
        """ws [L,W] of each request."""
        points = [point for request in requests for point in request.points]
        if not points:
            return []
        keys = styles_of(self.G, points, self.steps).split([len(request.points) for request in requests])
        return [place_on_walk(part, request.position) for part, request in zip(keys, requests, strict=True)]

    def _images(self, styles: Sequence[torch.Tensor]) -> list[bytes | Refusal]:
        """PNG files of ws [L,W], refusals of images that are not finite."""
        files: list[bytes | Refusal] = []
        size = images_at_once(self.G.resolution)
        for begin in range(0, len(styles), size):
            with torch.no_grad():
                images = self.G.synthesis(torch.stack(list(styles[begin : begin + size])), noise="const", lod=self.lod)
            finite = images.isfinite().flatten(1).all(dim=1).tolist()
            pixels = pil_uint8(images, self.drange).cpu()
            files += [png(x) if good else Refusal(NOT_FINITE) for x, good in zip(pixels, finite, strict=True)]
        return files
