"""Losses of G and D and their penalties: what each draws, computes and remembers, and which objectives they form.

A loss is an object of plain values. `draw` makes every random tensor outside of compiled code, `compute` is a pure
function of networks and tensors, which torch.compile takes whole, and `move_feedback` moves what the loss remembers
between minibatches. Logits are [N,1], losses are per sample [N].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_ray.augment import Augmentation, augmentation_of
from stylegan_ray.config import LossConfig, RunConfig
from stylegan_ray.networks import mix_styles
from stylegan_ray.train.derivatives import gradient, path_lengths
from stylegan_ray.train.state import Batch, Networks, Tensors, TrainState

Augment = Callable[[Tensor], Tensor]
"""Changes images [N,C,H,W]."""


class Outcome(NamedTuple):
    """What a loss gives for one micro-batch."""

    loss: Tensor
    """To be minimized, per sample [N]."""
    means: dict[str, Tensor]
    """Detached means over the micro-batch by name: scalars, which are logged, and w [w_dim], which moves w_avg."""
    sums: Mapping[str, Tensor] = MappingProxyType({})
    """Detached sums over the micro-batch by name."""


def score(
    D: Any,
    batches: Sequence[tuple[Tensor, Tensor | None]],
    lod: float = 0.0,
    augment: Augment | None = None,
    full_precision: bool = False,
) -> tuple[Tensor, ...]:
    """Logits [N,1] of each of several equal batches (images [N,C,H,W], labels [N,L] or None), from one forward pass.

    Minibatch standard deviations do not mix batches. Training calls D here only: `augment` changes what D sees, and
    `full_precision` computes in the type of D's weights.
    """
    images, labels = zip(*batches, strict=True)
    x = images[0] if len(batches) == 1 else torch.cat(images)
    x = x if augment is None else augment(x)
    y = None if labels[0] is None else labels[0] if len(batches) == 1 else torch.cat(labels)
    return D(x, y, lod=lod, num_batches=len(batches), full_precision=full_precision).chunk(len(batches))


def map_latents(G: Any, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """ws [N,L,w] with style mixing and without truncation; and the mean of the unmixed w [w_dim]."""
    w, mixed = G.mapping(tensors["z"], tensors["labels"]), tensors["mixed"]  # [N,w]
    if mixed is None:
        ws = mix_styles(w, None, 0, G.synthesis.num_ws)
    else:
        ws = mix_styles(w, G.mapping(mixed, tensors["labels"]), tensors["cutoff"], G.synthesis.num_ws)
    return ws, w.detach().mean(dim=0)


def generate(G: Any, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Fakes [N,C,H,W]; and the mean of the unmixed w [w_dim]."""
    ws, w_mean = map_latents(G, tensors)
    return G.synthesis(ws, noise=tensors["noise"], lod=tensors["lod"]), w_mean


def squared_gradient_norm(D: Any, images: Tensor, labels: Tensor, lod: float, augment: Augment | None = None) -> Tensor:
    """Squared norm [N] of D's gradient with respect to images, before they are augmented.

    In full precision: in bfloat16 the penalty is 5 % off.
    """
    grads = gradient(lambda images: score(D, [(images, labels)], lod, augment, full_precision=True)[0], images)
    return grads.square().sum(dim=(1, 2, 3))


@dataclass(frozen=True)
class Loss(ABC):
    """Base of all losses. Its values are constants of compiled code, so equal losses share one."""

    cfg: LossConfig
    w_avg_beta: float
    """Decay of w_avg, model.dlatent_avg_beta."""
    augmentation: Augmentation | None = None
    """What images undergo when D sees them."""
    purpose: ClassVar[str]
    """Names the streams of its draws; enters every seed."""

    @property
    def weight(self) -> float:
        """Weight of a penalty, which `compute` applies; a penalty of weight 0 has no phase, as in StyleGAN2-ADA."""
        return 1.0

    @abstractmethod
    def draw(self, batch: Batch) -> Tensors:
        """All tensors that `compute` takes."""

    @abstractmethod
    def compute(self, networks: Networks, tensors: Tensors) -> Outcome:
        """Losses [N] and means of a micro-batch; draws nothing, changes nothing."""

    def move_feedback(self, state: TrainState, means: dict[str, Tensor], finite: Tensor) -> dict[str, Tensor]:
        """Moves feedback by means over the global minibatch unless gradients are not finite; returns what is logged."""
        return {}

    def draw_augmentation(self, batch: Batch, *images: str) -> Tensors:
        """What `augment` takes for kinds of images that D sees together; nothing while augment_p is 0."""
        if self.augmentation is None or not batch.state.augment_p:
            return {}
        return {f"augment {images}": batch.augmentation(self.augmentation, self.purpose, images)}

    def augment(self, tensors: Tensors, *images: str) -> Augment | None:
        """The augmentation of the kinds of images for which it was drawn."""
        augmentation, parameters = self.augmentation, tensors.get(f"augment {images}")
        if augmentation is None or parameters is None:
            return None
        return lambda x: augmentation.apply(x, parameters)

    def move_w_avg(self, state: TrainState, means: dict[str, Tensor], finite: Tensor) -> None:
        """Moves w_avg towards the mean w (StyleGAN, appendix B)."""
        w_avg, w_mean = state.G.w_avg, means[f"{self.purpose}/w"]
        move(w_avg, w_mean + (w_avg - w_mean) * self.w_avg_beta, finite)


def move(value: Tensor, target: Tensor, finite: Tensor) -> None:
    """Sets a value where `finite`, a scalar on the device, is true."""
    value.copy_(torch.where(finite, target, value))


class GeneratorLoss(Loss):
    """Base of G's adversarial losses."""

    purpose = "G_main"

    sees: ClassVar[tuple[str, ...]] = ("fakes",)
    """What D scores."""

    def draw(self, batch: Batch) -> Tensors:
        tensors = batch.latents(self.purpose, batch.num, batch.drawn_labels(self.purpose, batch.num))
        return tensors | self.draw_augmentation(batch, *self.sees)

    def compute(self, networks: Networks, tensors: Tensors) -> Outcome:
        images, w_mean = generate(networks.G, tensors)
        batches = [(images, tensors["labels"])]
        if "reals" in self.sees:
            batches.append((tensors["reals"], tensors["real_labels"]))
        loss = self.per_sample(*score(networks.D, batches, tensors["lod"], self.augment(tensors, *self.sees)))
        return Outcome(loss, {"Loss/G/loss": loss.detach().mean(), f"{self.purpose}/w": w_mean})

    @abstractmethod
    def per_sample(self, fake: Tensor, *real: Tensor) -> Tensor:
        """Losses [N] from logits [N,1]."""

    def move_feedback(self, state: TrainState, means: dict[str, Tensor], finite: Tensor) -> dict[str, Tensor]:
        self.move_w_avg(state, means, finite)
        return {}


class Saturating(GeneratorLoss):
    """Saturating logistic loss of G (Goodfellow et al. 2014, equation 1)."""

    def per_sample(self, fake: Tensor, *real: Tensor) -> Tensor:
        return -F.softplus(fake).squeeze(1)


class NonSaturating(GeneratorLoss):
    """Non-saturating logistic loss of G (Goodfellow et al. 2014, section 3)."""

    def per_sample(self, fake: Tensor, *real: Tensor) -> Tensor:
        return F.softplus(-fake).squeeze(1)


class WassersteinOfG(GeneratorLoss):
    """Wasserstein loss of G (Arjovsky et al. 2017)."""

    def per_sample(self, fake: Tensor, *real: Tensor) -> Tensor:
        return -fake.squeeze(1)


class RelativisticOfG(GeneratorLoss):
    """Relativistic pairing loss of G, which wants fakes above reals (Huang et al. 2024, equation 2)."""

    sees = ("fakes", "reals")

    def draw(self, batch: Batch) -> Tensors:
        return super().draw(batch) | batch.reals()

    def per_sample(self, fake: Tensor, *real: Tensor) -> Tensor:
        return F.softplus(real[0] - fake).squeeze(1)


class PathLength(Loss):
    """Path length regularization of G (Karras et al. 2020, section 3.2), on latents of its own."""

    purpose = "G_reg"

    @property
    def weight(self) -> float:
        return self.cfg.pl_weight

    def draw(self, batch: Batch) -> Tensors:
        state, num = batch.state, max(batch.num // self.cfg.pl_minibatch_shrink, 1)
        tensors = batch.latents(self.purpose, num, batch.drawn_labels(self.purpose, num))
        noise = batch.draws.pl_noise(batch.place, (num, *state.image_shape), state.device, state.dtype)
        return tensors | {"pl_noise": noise, "pl_mean": state.pl_mean}

    def compute(self, networks: Networks, tensors: Tensors) -> Outcome:
        G, pl_mean = networks.G, tensors["pl_mean"]
        ws, w_mean = map_latents(G, tensors)
        synthesize = lambda ws: G.synthesis(ws, noise=tensors["noise"], lod=tensors["lod"])  # noqa: E731
        lengths = path_lengths(synthesize, ws, tensors["pl_noise"])
        # The moving mean takes in the current lengths first, and the gradient flows through it.
        target = pl_mean + self.cfg.pl_decay * (lengths.mean() - pl_mean)
        penalty = (lengths - target).square() * self.weight
        means = {"Loss/G/reg": penalty.detach().mean(), "pl_length": lengths.detach().mean()}
        return Outcome(penalty, means | {f"{self.purpose}/w": w_mean})

    def move_feedback(self, state: TrainState, means: dict[str, Tensor], finite: Tensor) -> dict[str, Tensor]:
        self.move_w_avg(state, means, finite)
        move(state.pl_mean, state.pl_mean + self.cfg.pl_decay * (means["pl_length"] - state.pl_mean), finite)
        return {"Loss/pl_mean": state.pl_mean.clone()}


class DiscriminatorLoss(Loss):
    """Base of D's adversarial losses."""

    purpose = "D_main"

    def draw(self, batch: Batch) -> Tensors:
        seen = self.draw_augmentation(batch, "fakes", "reals")
        return batch.latents_for_D(self.purpose) | batch.reals() | seen

    def compute(self, networks: Networks, tensors: Tensors) -> Outcome:
        with torch.no_grad():
            images, w_mean = generate(networks.G, tensors)
        batches = [(images, tensors["labels"]), (tensors["reals"], tensors["real_labels"])]
        fake, real = score(networks.D, batches, tensors["lod"], self.augment(tensors, "fakes", "reals"))
        signs = real.detach().sign()
        loss = self.per_sample(fake, real)
        means = {
            "Loss/D/loss": loss.detach().mean(),
            "Loss/scores/real": real.detach().mean(),
            "Loss/scores/fake": fake.detach().mean(),
            "Loss/signs/real": signs.mean(),
        }
        sums = {"signs": torch.stack([signs.sum(), torch.full_like(signs, 1).sum()])}
        return Outcome(loss, means | {f"{self.purpose}/w": w_mean}, sums)

    @abstractmethod
    def per_sample(self, fake: Tensor, real: Tensor) -> Tensor:
        """Losses [N] from logits [N,1]."""

    def move_feedback(self, state: TrainState, means: dict[str, Tensor], finite: Tensor) -> dict[str, Tensor]:
        self.move_w_avg(state, means, finite)
        move(state.augment_signs, state.augment_signs + means["signs"], finite)
        return {}


class Logistic(DiscriminatorLoss):
    """Logistic loss of D (Goodfellow et al. 2014, equation 1)."""

    def per_sample(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(fake).squeeze(1) + F.softplus(-real).squeeze(1)


class WassersteinOfD(DiscriminatorLoss):
    """Wasserstein loss of D (Arjovsky et al. 2017) with a drift term (Karras et al. 2018, appendix A.1)."""

    def per_sample(self, fake: Tensor, real: Tensor) -> Tensor:
        return fake.squeeze(1) + (self.cfg.wgan_epsilon * real.square() - real).squeeze(1)


class RelativisticOfD(DiscriminatorLoss):
    """Relativistic pairing loss of D, which wants reals above fakes (Huang et al. 2024, equation 2)."""

    def per_sample(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(fake - real).squeeze(1)


class GradientPenalty(Loss):
    """Base of D's gradient penalties."""

    purpose = "D_reg"

    @property
    def weight(self) -> float:
        return self.cfg.r1_gamma

    def compute(self, networks: Networks, tensors: Tensors) -> Outcome:
        penalty = self.per_sample(networks, tensors)
        return Outcome(penalty, {"Loss/D/reg": penalty.detach().mean()})

    @abstractmethod
    def per_sample(self, networks: Networks, tensors: Tensors) -> Tensor:
        """Penalties [N]."""


class R1(GradientPenalty):
    """gamma/2 times the squared norm of D's gradient at reals (Mescheder et al. 2018, equation 9)."""

    def draw(self, batch: Batch) -> Tensors:
        return batch.reals() | self.draw_augmentation(batch, "reals")

    def per_sample(self, networks: Networks, tensors: Tensors) -> Tensor:
        reals, labels, augment = tensors["reals"], tensors["real_labels"], self.augment(tensors, "reals")
        return squared_gradient_norm(networks.D, reals, labels, tensors["lod"], augment) * (self.weight / 2)


class R2(GradientPenalty):
    """gamma/2 times the squared norm of D's gradient at fakes (Mescheder et al. 2018, equation 10)."""

    def draw(self, batch: Batch) -> Tensors:
        return batch.latents_for_D(self.purpose) | self.draw_augmentation(batch, "fakes")

    def per_sample(self, networks: Networks, tensors: Tensors) -> Tensor:
        with torch.no_grad():
            fakes, _ = generate(networks.G, tensors)
        labels, augment = tensors["labels"], self.augment(tensors, "fakes")
        return squared_gradient_norm(networks.D, fakes, labels, tensors["lod"], augment) * (self.weight / 2)


class R1AndR2(R1, R2):
    """The sum of both (Huang et al. 2024, section 2)."""

    def draw(self, batch: Batch) -> Tensors:
        return R1.draw(self, batch) | R2.draw(self, batch)

    def per_sample(self, networks: Networks, tensors: Tensors) -> Tensor:
        return R1.per_sample(self, networks, tensors) + R2.per_sample(self, networks, tensors)


class WassersteinPenalty(GradientPenalty):
    """Distance of D's gradient norm from its target, between reals and fakes.

    Gulrajani et al. 2017, equation 3; with another target than 1 divided by its square (Karras et al. 2018).
    """

    @property
    def weight(self) -> float:
        return self.cfg.wgan_lambda

    def draw(self, batch: Batch) -> Tensors:
        mix = batch.state.to_device(batch.draws.uniforms("wgan_mix", batch.place, batch.num))  # [N]
        seen = self.draw_augmentation(batch, "mixes")
        return batch.latents_for_D(self.purpose) | batch.reals() | {"mix": mix} | seen

    def per_sample(self, networks: Networks, tensors: Tensors) -> Tensor:
        with torch.no_grad():
            fakes, _ = generate(networks.G, tensors)
        images = torch.lerp(tensors["reals"], fakes, tensors["mix"].reshape(-1, 1, 1, 1))
        labels, augment = tensors["labels"], self.augment(tensors, "mixes")
        norms = squared_gradient_norm(networks.D, images, labels, tensors["lod"], augment).sqrt()
        return (norms - self.cfg.wgan_target).square() * (self.weight / self.cfg.wgan_target**2)


class Objective(NamedTuple):
    """What a network minimizes."""

    main: type[Loss]
    penalty: type[Loss] | None = None


OBJECTIVES_G = {
    "logistic_ns_pathreg": Objective(NonSaturating, PathLength),
    "logistic_ns": Objective(NonSaturating),
    "logistic": Objective(Saturating),
    "wgan": Objective(WassersteinOfG),
    "rpgan": Objective(RelativisticOfG),
}
"""Objectives of G by the value of loss.G."""
OBJECTIVES_D = {
    "logistic_r1": Objective(Logistic, R1),
    "logistic_r2": Objective(Logistic, R2),
    "logistic": Objective(Logistic),
    "wgan": Objective(WassersteinOfD),
    "wgan_gp": Objective(WassersteinOfD, WassersteinPenalty),
    "rpgan": Objective(RelativisticOfD, R1AndR2),
}
"""Objectives of D by the value of loss.D."""


def losses_of(cfg: RunConfig, network: str) -> tuple[Loss, ...]:
    """The adversarial loss of G or D, and its penalty unless that has weight 0."""
    objective = OBJECTIVES_G[cfg.loss.G] if network == "G" else OBJECTIVES_D[cfg.loss.D]
    values = (cfg.loss, cfg.model.dlatent_avg_beta, augmentation_of(cfg.augment))
    main, *penalties = (kind(*values) for kind in objective if kind is not None)
    return main, *(penalty for penalty in penalties if penalty.weight)
