"""Histograms of the trainable tensors of networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stylegan_ray.credentials import logger_of

log = logger_of(__name__)

NUM_BINS = 64


def finite_weights(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Name (network/tensor) and float values of each trainable tensor, on the CPU; NaN or infinite ones are logged."""
    for part, network in networks.items():
        for name, parameter in network.named_parameters():
            values = parameter.detach().float().cpu()
            if values.isfinite().all():
                yield f"{part}/{name}", values
            else:
                log.warning("no histogram of %s.%s: it holds NaN or infinite values", part, name)


def histogram_edges(values: Tensor) -> NDArray:
    """Edges [NUM_BINS+1] of equal bins from the smallest to the largest value; wider where all values are equal."""
    low, high = values.min().item(), values.max().item()
    margin = 0.0 if high > low else max(abs(low), 1.0) * 1e-3
    return torch.linspace(low - margin, high + margin, NUM_BINS + 1, dtype=torch.float64).numpy()
