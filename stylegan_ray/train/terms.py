"""The terms of the losses as computations on tensors alone, so that a compiler can take each of them as a whole.

Nothing is drawn here, and nothing is added up or moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylegan_ray.config import LossConfig
from stylegan_ray.networks import judge_together, mix_styles
from stylegan_ray.train import losses


class Latents(NamedTuple):
    """All that G makes pictures from."""

    z: Tensor
    """[N,z]"""
    labels: Tensor
    """[N,label_size]"""
    mixed: Tensor | None
    """Second latents [N,z], or None without style mixing."""
    cutoff: Tensor | None
    """Layers below this one keep the first latents, a scalar."""
    noise: Sequence[Tensor] | str
    """Noise inputs, or "const" for the fixed ones."""


class Reals(NamedTuple):
    images: Tensor
    """As D sees them [N,C,H,W]."""
    labels: Tensor
    """[N,label_size]"""


class Outcome(NamedTuple):
    """What a term gives back for one micro-batch."""

    loss: Tensor
    """To be minimised, per sample [N]."""
    w_mean: Tensor | None
    """Mean of the unmixed w [w_dim], which moves w_avg; None when G made nothing."""
    scalars: dict[str, Tensor]
    """Detached means over the micro-batch, by name."""


def mapped(G: Any, latents: Latents) -> tuple[Tensor, Tensor]:
    """ws [N,L,w] in training mode: style mixing, no truncation; and the mean of the unmixed w."""
    w = G.mapping(latents.z, latents.labels)  # [N,w]
    if latents.mixed is None or latents.cutoff is None:
        ws = mix_styles(w, None, 0, G.synthesis.num_ws)
    else:
        ws = mix_styles(w, G.mapping(latents.mixed, latents.labels), latents.cutoff, G.synthesis.num_ws)
    return ws, w.detach().mean(dim=0)


def generated(G: Any, latents: Latents, lod: float) -> tuple[Tensor, Tensor]:
    """Pictures, and the mean of w."""
    ws, w_mean = mapped(G, latents)
    return G.synthesis(ws, noise=latents.noise, lod=lod), w_mean


def G_main(G: Any, D: Any, cfg: LossConfig, lod: float, latents: Latents, reals: Reals | None) -> Outcome:
    """The adversarial term of G; only the relativistic one looks at reals."""
    images, w_mean = generated(G, latents, lod)
    if reals is None:
        loss = losses.G_LOSSES[cfg.G](D(images, latents.labels, lod=lod))
    else:
        fake, real = judge_together(D, [(images, latents.labels), reals], lod)
        loss = losses.relativistic(fake, real)
    return Outcome(loss, w_mean, {"Loss/G/loss": loss.detach().mean()})


def G_reg(G: Any, cfg: LossConfig, lod: float, latents: Latents, noise: Tensor, pl_mean: Tensor) -> Outcome:
    """Path length regularisation of G (Karras et al. 2020, section 3.2)."""
    ws, w_mean = mapped(G, latents)
    lengths = losses.path_lengths(lambda ws: G.synthesis(ws, noise=latents.noise, lod=lod), ws, noise)
    reg = losses.path_length_penalty(lengths, pl_mean, cfg.pl_decay) * cfg.pl_weight
    return Outcome(reg, w_mean, {"Loss/G/reg": reg.detach().mean(), "pl_length": lengths.detach().mean()})


def D_main(G: Any, D: Any, cfg: LossConfig, lod: float, latents: Latents, reals: Reals) -> Outcome:
    """The adversarial term of D, on fakes and reals together."""
    with torch.no_grad():
        images, w_mean = generated(G, latents, lod)
    fake, real = judge_together(D, [(images, latents.labels), reals], lod)
    loss = losses.D_loss(cfg, fake, real)
    return Outcome(
        loss, w_mean, {"Loss/D/loss": loss.detach().mean(), **scores_of_fakes(fake), **scores_of_reals(real)}
    )


def D_reals(D: Any, cfg: LossConfig, lod: float, reals: Reals) -> Outcome:
    """The part of it that needs no G."""
    real = D(reals.images, reals.labels, lod=lod)
    loss = losses.D_loss_of_reals(cfg, real)
    return Outcome(loss, None, {"Loss/D/loss": loss.detach().mean(), **scores_of_reals(real)})


def D_fakes(G: Any, D: Any, cfg: LossConfig, lod: float, latents: Latents) -> Outcome:
    """The other part."""
    with torch.no_grad():
        images, w_mean = generated(G, latents, lod)
    fake = D(images, latents.labels, lod=lod)
    loss = losses.D_loss_of_fakes(cfg, fake)
    return Outcome(loss, w_mean, {"Loss/D/loss": loss.detach().mean(), **scores_of_fakes(fake)})


def scores_of_reals(real: Tensor) -> dict[str, Tensor]:
    real = real.detach()
    return {"Loss/scores/real": real.mean(), "Loss/signs/real": real.sign().mean()}


def scores_of_fakes(fake: Tensor) -> dict[str, Tensor]:
    return {"Loss/scores/fake": fake.detach().mean()}


class Penalised(NamedTuple):
    """What the gradient penalties of D look at; each takes what it needs."""

    reals: Reals
    latents: Latents | None
    mix: Tensor | None
    """Where between a real and a generated picture, per sample [N]."""


def D_reg(G: Any, D: Any, cfg: LossConfig, lod: float, given: Penalised) -> Outcome:
    """The gradient penalties of D."""
    reg = torch.stack([penalty(G, D, cfg, lod, given) for penalty in PENALTIES[cfg.D]]).sum(dim=0)
    return Outcome(reg, None, {"Loss/D/reg": reg.detach().mean()})


def r1(G: Any, D: Any, cfg: LossConfig, lod: float, given: Penalised) -> Tensor:
    """R1: the gradient of D at the reals."""
    images, labels = given.reals
    return losses.squared_gradient_norm(precise(D, labels, lod), images) * (cfg.r1_gamma / 2)


def r2(G: Any, D: Any, cfg: LossConfig, lod: float, given: Penalised) -> Tensor:
    """R2: the gradient of D at generated pictures."""
    assert given.latents is not None
    with torch.no_grad():
        images, _ = generated(G, given.latents, lod)
    return losses.squared_gradient_norm(precise(D, given.latents.labels, lod), images) * (cfg.r1_gamma / 2)


def wgan_gp(G: Any, D: Any, cfg: LossConfig, lod: float, given: Penalised) -> Tensor:
    """WGAN-GP: the gradient of D between reals and generated pictures."""
    assert given.latents is not None and given.mix is not None
    with torch.no_grad():
        images, _ = generated(G, given.latents, lod)
    mixed = torch.lerp(given.reals.images, images, given.mix.reshape(-1, 1, 1, 1))
    judge = precise(D, given.latents.labels, lod)
    return losses.wgan_gradient_penalty(judge, mixed, cfg.wgan_lambda, cfg.wgan_target)


def precise(D: Any, labels: Tensor, lod: float) -> losses.Judge:
    """D in full precision: in bfloat16 the penalty came out 5 % off."""
    return lambda images: D(images, labels, lod=lod, full_precision=True)


PENALTIES: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "logistic_r1": (r1,), "logistic_r2": (r2,), "rpgan": (r1, r2), "wgan_gp": (wgan_gp,),
}  # fmt: skip
"""Gradient penalties of each loss of D that has any."""
