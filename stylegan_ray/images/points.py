"""Points of the latent space as a page or a program asks for them: a seed, truncation, style mixing, a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.images.generate import latents
from stylegan_ray.networks import Generator, mix_styles, truncate


def _not_bool(value: Any) -> Any:
    """Refuses true and false, which pydantic would take for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


NO_BOOL = BeforeValidator(_not_bool)
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), NO_BOOL]
MOVES = r"^[0-9]{1,4}:-?[0-9]{1,3}(\.[0-9]{1,6})?(,[0-9]{1,4}:-?[0-9]{1,3}(\.[0-9]{1,6})?)*$"
"""What `directions` of a point looks like."""
MOST_KEYS = 32
"""Keys of a walk at most."""


class Point(BaseModel):
    """One image of the latent space."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    seed: Seed = 0
    """Seed of z: the image that `stylegan-ray generate` makes of it."""
    psi: Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False), NO_BOOL] = 1.0
    """Truncation: 1 keeps all variety, 0.5 to 0.7 trade variety for quality, 0 is the average image."""
    cutoff: Annotated[int | None, Field(ge=0, le=64), NO_BOOL] = None
    """Truncate only the layers below this one; left out: all."""
    class_index: Annotated[int | None, Field(alias="class", ge=0, le=2**31 - 1), NO_BOOL] = None
    """Class of the image (conditional networks); left out: seed modulo the number of classes."""
    mix_seed: Seed | None = None
    """A second seed, which gives its style to some layers."""
    mix_layers: Annotated[str | None, Field(max_length=200, pattern=r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$")] = None
    """Layers whose style comes from mix_seed, as in 0-3,7; left out: the lower half."""
    directions: Annotated[str | None, Field(max_length=400, pattern=MOVES)] = None
    """Moves along the network's SeFa directions, as in 0:1.5,3:-2 (direction 0 by 1.5, direction 3 by -2)."""


class Walk(BaseModel):
    """A place on the closed walk through some points."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    points: Annotated[tuple[Point, ...], Field(min_length=1, max_length=MOST_KEYS)]
    """The keys of the walk, in their order; after the last comes the first again."""
    position: Annotated[float, Field(ge=0, le=MOST_KEYS, allow_inf_nan=False), NO_BOOL] = 0.0
    """Where on the walk: 0 is the first key, 1 the second, 0.5 halfway between them."""


@dataclass(frozen=True)
class Shape:
    """What of a network decides which points it has."""

    num_ws: int
    label_size: int
    num_directions: int = 0

    @classmethod
    def of(cls, G: Generator, num_directions: int = 0) -> Shape:
        return cls(G.synthesis.num_ws, G.label_size, num_directions)


def find_mistake(point: Point, shape: Shape) -> str | None:
    """A sentence about a value that a network of this shape does not have; None where all are right."""
    if point.class_index is not None and point.class_index >= shape.label_size:
        has = f"has classes 0 to {shape.label_size - 1}" if shape.label_size else "has no classes; leave class out"
        return f"class={point.class_index}: this network {has}."
    if point.mix_layers is not None and point.mix_seed is None:
        return f"mix_layers={point.mix_layers} needs a second seed; add mix_seed, or leave mix_layers out."
    try:
        layers = layers_of(point, shape)
    except ConfigError:
        return f"mix_layers={point.mix_layers}: ranges rise, as in 0-3,7."
    if layers and max(layers) >= shape.num_ws:
        return f"mix_layers={point.mix_layers}: this network has layers 0 to {shape.num_ws - 1}."
    if moves_of(point) and max(moves_of(point)) >= shape.num_directions:
        has = f"directions 0 to {shape.num_directions - 1}" if shape.num_directions else "no directions; leave them out"
        return f"directions={point.directions}: this network has {has}."
    return None


def layers_of(point: Point, shape: Shape) -> list[int]:
    """Layers whose style comes from the second seed; raises ConfigError for a falling range."""
    if point.mix_seed is None:
        return []
    if point.mix_layers is None:
        return list(range(shape.num_ws // 2))
    layers: list[int] = []
    for part in point.mix_layers.split(","):
        ends = [int(number) for number in part.split("-")]
        if ends[-1] < ends[0]:
            raise ConfigError(f"mix_layers={point.mix_layers}: ranges rise, as in 0-3,7")
        if ends[-1] >= shape.num_ws:  # before a list of all its numbers is made
            return [ends[-1]]
        layers += range(ends[0], ends[-1] + 1)
    return layers


def moves_of(point: Point) -> dict[int, float]:
    """How far a point is moved along each direction."""
    pairs = [move.split(":") for move in (point.directions or "").split(",") if move]
    return {int(number): float(strength) for number, strength in pairs}


def styles_of(G: Generator, points: Sequence[Point], steps: Tensor | None = None) -> Tensor:
    """ws [N,L,W] of points without mistakes: mapped, truncated, mixed, moved by `steps` [K,W] of strength 1."""
    shape, where = Shape.of(G), next(G.parameters())
    second = [point for point in points if point.mix_seed is not None]
    seeds = [point.seed for point in points] + [point.mix_seed or 0 for point in second]
    classes = [class_of(seed, point, shape) for seed, point in zip(seeds, (*points, *second), strict=True)]
    labels = torch.zeros(len(seeds), shape.label_size)
    if shape.label_size:
        labels[torch.arange(len(seeds)), torch.tensor(classes)] = 1
    with torch.no_grad():
        w = G.mapping(latents(seeds, G.z_dim).to(where), labels.to(where))  # [N+M,W]
        ws = mix_styles(w, None, 0, shape.num_ws).clone()  # [N+M,L,W]
        for row, point in enumerate((*points, *second)):
            ws[row] = truncate(ws[row : row + 1], G.w_avg, point.psi, point.cutoff)[0]
    mixed, others = ws[: len(points)], iter(ws[len(points) :])
    for row, point in enumerate(points):
        if point.mix_seed is not None:
            layers = layers_of(point, shape)
            mixed[row, layers] = next(others)[layers]
        for number, strength in moves_of(point).items():
            assert steps is not None, "find_mistake refuses directions where there are none"
            mixed[row] += strength * steps[number]
    return mixed


def class_of(seed: int, point: Point, shape: Shape) -> int:
    """The class that a seed of a point has in a conditional network; 0 where there are none."""
    if point.class_index is not None:
        return point.class_index
    return seed % shape.label_size if shape.label_size else 0
