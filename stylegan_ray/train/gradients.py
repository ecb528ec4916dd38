"""The gradients of one network in one flat buffer, so that one sum over the ranks carries them all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stylegan_ray import distributed


class Gradients:
    """Gradient buffer of a network, with room at its end for scalars that ride along in the reduction.

    Parameters that a phase does not reach keep a zero gradient, as in the original: Adam's moments of a layer that is
    not grown yet stay zero while the step count is everybody's.
    """

    def __init__(self, network: nn.Module, num_passengers: int) -> None:
        parameters = list(network.parameters())
        self.num_values = sum(p.numel() for p in parameters)
        self.flat = parameters[0].new_zeros(self.num_values + num_passengers).detach()
        self.passengers = self.flat[self.num_values :]
        """Values summed over ranks beside the gradients; reset by `zero`."""
        views = self.flat[: self.num_values].split([p.numel() for p in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view.view_as(parameter)  # autograd adds into it in place

    def zero(self) -> None:
        self.flat.zero_()

    def reduce(self) -> None:
        """Sums gradients and passengers over the ranks; shares were applied before, so a plain sum is the mean."""
        distributed.sum_over_ranks(self.flat)

    def num_nonfinite(self) -> Tensor:
        """1.0 when any gradient is not finite, else 0.0, as a tensor on the device (float32)."""
        return (~torch.isfinite(self.flat[: self.num_values]).all()).float()
