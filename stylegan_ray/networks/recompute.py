"""Blocks that are computed again in the backward pass instead of keeping what they computed (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint

from stylegan_ray.networks.shapes import level_name
from stylegan_ray.ops import is_penalized, penalized_gradients

Result = TypeVar("Result")


def recompute(network: Any, num_res: int) -> None:
    """Marks the blocks of the highest `num_res` resolutions of a synthesis network or a discriminator.

    Results and gradients stay the same. The lowest resolution is never marked: there is nothing to gain.
    """
    for size in network.sizes[1:][::-1][:num_res]:
        network.get_submodule(level_name(size)).recomputed = True


def called(block: nn.Module, method: Callable[..., Result], *args: Any) -> Result:
    """method(*args) of a block; computed again in the backward pass where the block is marked."""
    if not getattr(block, "recomputed", False):
        return method(*args)
    return checkpoint(_computed, is_penalized(), method, *args, use_reentrant=False, preserve_rng_state=False)


def _computed(penalized: bool, method: Callable[..., Result], *args: Any) -> Result:
    """method(*args) as it was computed first: the backward pass of a penalty runs outside of its context."""
    with penalized_gradients(penalized):
        return method(*args)
