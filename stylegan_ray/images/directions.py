"""Directions in w along which images change: SeFa and GANSpace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from stylegan_ray.config import ConfigError
from stylegan_ray.images.generate import sample_w
from stylegan_ray.networks.synthesis import noise_layers

Method = Literal["sefa", "ganspace"]
NUM_SAMPLES = 10_000


class Directions(NamedTuple):
    """Directions, the strongest first."""

    vectors: Tensor
    """[K,w_dim], of unit length and orthogonal; the component of largest magnitude is positive."""
    scales: Tensor
    """The length [K] of one unit of strength: 1 for SeFa, the standard deviation of w along it for GANSpace."""


def find_directions(G: Any, method: Method, layers: Sequence[int] | None = None) -> Directions:
    """The directions of a method; `layers` are those whose w is edited, None: all. Raises ConfigError."""
    check_layers(layers, G.synthesis.num_ws)
    return sefa(G.synthesis, layers) if method == "sefa" else ganspace(sample_w(G, NUM_SAMPLES))


def sefa(synthesis: Any, layers: Sequence[int] | None = None) -> Directions:
    """Unit vectors n that change the styles of the layers most: eigenvectors of A^T A (SeFa, section 3, equation 4).

    Shen and Zhou 2021. A [styles,w_dim] stacks the weights of the affine layers that compute styles from w.
    """
    weights = style_weights(synthesis)
    A = torch.cat(weights if layers is None else [weights[layer] for layer in layers]).double()
    values, vectors = torch.linalg.eigh(A.t() @ A)  # rising eigenvalues, vectors in columns
    vectors = signed(vectors.t().flip(0))
    return Directions(vectors, torch.ones_like(values))


def ganspace(w: Tensor) -> Directions:
    """Principal components of w [N,w_dim] with their standard deviations (Härkönen et al. 2020, section 2.1)."""
    centered = w.double() - w.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centered.t() @ centered / (len(w) - 1))
    return Directions(signed(vectors.t().flip(0)), values.flip(0).clamp(min=0).sqrt())


def style_weights(synthesis: Any) -> list[Tensor]:
    """For each w of a network the weights [styles,w_dim] of the affine layer that its convolution reads, as used.

    The last w of a StyleGAN2 is read by ToRGB alone. Raises ConfigError for a network without styles.
    """
    blocks = list(synthesis.children())
    affines = [getattr(layer, "affine", None) or getattr(layer, "style", None) for layer in noise_layers(blocks)]
    if len(affines) < synthesis.num_ws:
        affines.append(blocks[-1].torgb.affine)
    if None in affines:
        raise ConfigError("--directions sefa: this network was trained with model.use_styles=false; use ganspace")
    return [(affine.weight * affine.weight_scale).detach() for affine in affines if affine is not None]


def signed(vectors: Tensor) -> Tensor:
    """Vectors [K,w_dim], each multiplied by 1 or -1 so that its component of largest magnitude is positive."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors.dtype)


def check_layers(layers: Sequence[int] | None, num_ws: int) -> None:
    """Raises ConfigError for layers that a network does not have."""
    wrong = [layer for layer in layers or () if layer >= num_ws]
    if wrong:
        raise ConfigError(f"--layers names layer {wrong[0]}; this network has layers 0 to {num_ws - 1}")


@dataclass(frozen=True)
class Edit:
    """Which directions images are moved along, in which layers."""

    directions: Directions
    numbers: Sequence[int]
    layers: Sequence[int] | None = None
    """None: all."""

    def __post_init__(self) -> None:
        """Raises ConfigError for a direction that does not exist."""
        count = len(self.directions.vectors)
        wrong = [number for number in self.numbers if number >= count]
        if wrong:
            raise ConfigError(f"--direction {wrong[0]}: this network has directions 0 to {count - 1}")

    def apply(self, ws: Tensor, strengths: Sequence[float]) -> Tensor:
        """Styles [N,K,S,num_ws,w_dim]: ws [N,num_ws,w_dim] moved along each direction [K] by each strength [S]."""
        chosen = list(self.numbers)
        steps = (self.directions.vectors[chosen] * self.directions.scales[chosen, None]).to(ws)  # [K,W]
        layers = torch.zeros(ws.shape[1]).to(ws)
        layers[list(range(ws.shape[1]) if self.layers is None else self.layers)] = 1
        moves = torch.einsum("s,l,kw->kslw", torch.tensor(strengths).to(ws), layers, steps)
        return ws[:, None, None] + moves
