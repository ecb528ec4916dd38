"""Gradients that penalties are made of, themselves differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from stylegan_ray.ops import penalized_gradients


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of the sum of function(x) with respect to x, itself differentiable."""
    if torch.compiler.is_compiling():  # compiled code has second derivatives in this form only
        return torch.func.grad(lambda x: function(x).sum())(x)
    x = x if x.requires_grad else x.detach().requires_grad_()
    with penalized_gradients():
        (grads,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return grads


def path_lengths(synthesize: Callable[[Tensor], Tensor], ws: Tensor, noise: Tensor) -> Tensor:
    """Lengths [N] of the Jacobian's product with a random image (Karras et al. 2020, equation 4).

    `synthesize` makes images from ws [N,L,w]; noise is standard normal, shaped like the images.
    """
    noise = noise / math.sqrt(noise.shape[2] * noise.shape[3])
    return gradient(lambda ws: synthesize(ws) * noise, ws).square().sum(dim=2).mean(dim=1).sqrt()
