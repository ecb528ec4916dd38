"""The losses and penalties: tensors in, one value per sample [N] out; logits are [N,1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.config import LossConfig

Judge = Callable[[Tensor], Tensor]
"""D with its labels: logits [N,1] of images."""


def G_logistic(fake: Tensor) -> Tensor:
    """Saturating logistic loss of G (Goodfellow et al. 2014, equation 1)."""
    return -F.softplus(fake).squeeze(1)


def G_logistic_ns(fake: Tensor) -> Tensor:
    """Non-saturating logistic loss of G (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).squeeze(1)


def G_wgan(fake: Tensor) -> Tensor:
    """Wasserstein loss of G (Arjovsky et al. 2017)."""
    return -fake.squeeze(1)


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
    return relativistic(real, fake) if cfg.D == "rpgan" else D_loss_of_fakes(cfg, fake) + D_loss_of_reals(cfg, real)


def D_loss_of_fakes(cfg: LossConfig, fake: Tensor) -> Tensor:
    """What fakes bring to D's loss, logistic (Goodfellow et al. 2014, equation 1) or Wasserstein's."""
    return (fake if cfg.D.startswith("wgan") else F.softplus(fake)).squeeze(1)


def D_loss_of_reals(cfg: LossConfig, real: Tensor) -> Tensor:
    """What reals bring to it; Wasserstein's has a drift term (Karras et al. 2018, appendix A.1)."""
    if cfg.D.startswith("wgan"):
        return (cfg.wgan_epsilon * real.square() - real).squeeze(1)
    return F.softplus(-real).squeeze(1)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of the sum of function(x) with respect to x, itself differentiable."""
    if torch.compiler.is_compiling():  # compiled code has second derivatives in this form only
        return torch.func.grad(lambda x: function(x).sum())(x)
    x = x if x.requires_grad else x.detach().requires_grad_()
    (grads,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return grads


def squared_gradient_norm(judge: Judge, images: Tensor) -> Tensor:
    """Squared gradient norm of D at the images; gamma/2 of it is R1 or R2 (Mescheder et al. 2018, equations 9, 10)."""
    return gradient(judge, images).square().sum(dim=(1, 2, 3))


def wgan_gradient_penalty(judge: Judge, images: Tensor, wgan_lambda: float, wgan_target: float) -> Tensor:
    """Distance of D's gradient norm from its target (Gulrajani et al. 2017, equation 3; Karras et al. 2018)."""
    norms = squared_gradient_norm(judge, images).sqrt()
    return (norms - wgan_target).square() * (wgan_lambda / wgan_target**2)


def path_lengths(paint: Callable[[Tensor], Tensor], ws: Tensor, noise: Tensor) -> Tensor:
    """Length of the Jacobian's product with a random picture (Karras et al. 2020, equation 4).

    `paint` makes pictures from ws [N,L,w]; noise is standard normal, shaped like the pictures.
    """
    noise = noise / math.sqrt(noise.shape[2] * noise.shape[3])
    return gradient(lambda ws: paint(ws) * noise, ws).square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, pl_mean: Tensor, pl_decay: float) -> Tensor:
    """Squared distance of the lengths from their moving mean.

    The mean takes in the current lengths first, and the gradient flows through it.
    """
    return (lengths - (pl_mean + pl_decay * (lengths.mean() - pl_mean))).square()
