"""The losses and penalties: tensors in, one value per sample [N] out; logits are [N,1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.config import LossConfig


def G_logistic(fake: Tensor) -> Tensor:
    """Saturating logistic loss of G (Goodfellow et al. 2014, equation 1)."""
    return -F.softplus(fake).squeeze(1)


def G_logistic_ns(fake: Tensor) -> Tensor:
    """Non-saturating logistic loss of G (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).squeeze(1)


def G_wgan(fake: Tensor) -> Tensor:
    """Wasserstein loss of G (Arjovsky et al. 2017)."""
    return -fake.squeeze(1)


def D_logistic(fake: Tensor, real: Tensor) -> Tensor:
    """Logistic loss of D (Goodfellow et al. 2014, equation 1)."""
    return (F.softplus(fake) + F.softplus(-real)).squeeze(1)


def D_wgan(fake: Tensor, real: Tensor, wgan_epsilon: float) -> Tensor:
    """Wasserstein loss of D with a drift term on the reals (Karras et al. 2018, appendix A.1)."""
    return (fake - real + wgan_epsilon * real.square()).squeeze(1)


def relativistic(winner: Tensor, loser: Tensor) -> Tensor:
    """Relativistic pairing loss of whoever wants `winner` above `loser` (Huang et al. 2024, equation 2)."""
    return F.softplus(loser - winner).squeeze(1)


G_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": G_logistic,
    "logistic_ns": G_logistic_ns,
    "logistic_ns_pathreg": G_logistic_ns,
    "wgan": G_wgan,
}


def D_loss(cfg: LossConfig, fake: Tensor, real: Tensor) -> Tensor:
    """The adversarial loss of D that the configuration names."""
    if cfg.D == "rpgan":
        return relativistic(real, fake)
    return D_wgan(fake, real, cfg.wgan_epsilon) if cfg.D.startswith("wgan") else D_logistic(fake, real)


def squared_gradient_norm(logits: Tensor, images: Tensor) -> Tensor:
    """Squared gradient norm of D at the images; gamma/2 of it is R1 or R2 (Mescheder et al. 2018, equations 9, 10)."""
    (grads,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return grads.square().sum(dim=(1, 2, 3))


def wgan_gradient_penalty(logits: Tensor, images: Tensor, wgan_lambda: float, wgan_target: float) -> Tensor:
    """Distance of D's gradient norm from its target (Gulrajani et al. 2017, equation 3; Karras et al. 2018)."""
    norms = squared_gradient_norm(logits, images).sqrt()
    return (norms - wgan_target).square() * (wgan_lambda / wgan_target**2)


def path_lengths(images: Tensor, ws: Tensor, noise: Tensor) -> Tensor:
    """Length of the Jacobian's product with a random picture (Karras et al. 2020, equation 4).

    ws [N,L,w] must be what the images were made from; noise is standard normal, shaped like the images.
    """
    noise = noise / math.sqrt(images.shape[2] * images.shape[3])
    (grads,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)  # [N,L,w]
    return grads.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, pl_mean: Tensor, pl_decay: float) -> Tensor:
    """Squared distance of the lengths from their moving mean.

    The mean takes in the current lengths first, and the gradient flows through it.
    """
    return (lengths - (pl_mean + pl_decay * (lengths.mean() - pl_mean))).square()
