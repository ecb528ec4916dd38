"""The losses and penalties: tensors in, one value per sample out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def G_logistic_ns(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of G, per sample [N] (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake_logits).squeeze(1)


def D_logistic(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Logistic loss of D, per sample [N] (Goodfellow et al. 2014, equation 1)."""
    return (F.softplus(fake_logits) + F.softplus(-real_logits)).squeeze(1)


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Squared gradient norm of D at the images, per sample [N] (Mescheder et al. 2018, equation 9, without gamma/2)."""
    (grads,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return grads.square().sum(dim=(1, 2, 3))


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """Length of the Jacobian's product with a random picture, per sample [N] (Karras et al. 2020, equation 4).

    ws [N,L,w] must be what the images were made from; noise is standard normal, shaped like the images.
    """
    noise = noise / math.sqrt(images.shape[2] * images.shape[3])
    (grads,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)  # [N,L,w]
    return grads.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, pl_mean: Tensor, pl_decay: float) -> Tensor:
    """Squared distance of the lengths from their moving mean, per sample [N].

    The mean takes in the current lengths first, and the gradient flows through it.
    """
    return (lengths - (pl_mean + pl_decay * (lengths.mean() - pl_mean))).square()
