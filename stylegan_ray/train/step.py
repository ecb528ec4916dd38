"""One training step: each phase that is due sums gradients over micro-batches and ranks and makes one Adam step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from stylegan_ray import distributed
from stylegan_ray.config import RunConfig
from stylegan_ray.rng import Draws
from stylegan_ray.train.augment_p import adapt_augment_p
from stylegan_ray.train.losses import Loss, losses_of
from stylegan_ray.train.optim import update_ema
from stylegan_ray.train.schedule import Schedule, places_of_rank, training_schedule
from stylegan_ray.train.state import Batch, TrainState, to_device
from stylegan_ray.train.stats import StopWatch

MicroBatches = Sequence[tuple[Tensor, Tensor]]
"""This rank's micro-batches of a minibatch in order: (uint8 images [N,C,H,W], labels [N,L])."""


def train_iteration(
    state: TrainState,
    cfg: RunConfig,
    micro_batches: MicroBatches,
    draws: Draws,
    schedule: Schedule | None = None,
    watch: StopWatch | None = None,
) -> dict[str, Tensor]:
    """One minibatch: G, its penalty when due, G_ema, D, its penalty when due. Returns means over the global minibatch.

    The schedule is that of the group that the minibatch belongs to; None reads it at cur_nimg.
    """
    schedule = schedule or training_schedule(cfg, state.cur_nimg, state.resolution_log2)
    watch = watch or StopWatch(state.device)
    batches = place(micro_batches, state, cfg, draws, schedule)
    means: dict[str, Tensor] = {}
    for phase in due_phases(cfg, "G", schedule, state.iteration):
        means |= run_phase(phase, state, batches, watch)
    with watch("G"):
        update_ema(state.G_ema, state.G, schedule.G_smoothing_beta)
    for phase in due_phases(cfg, "D", schedule, state.iteration):
        means |= run_phase(phase, state, batches, watch)
    if cfg.train.on_nonfinite == "error":
        refuse_nonfinite(state)
    state.means.add(means)
    state.cur_nimg += schedule.minibatch_size
    state.iteration += 1
    adapt_augment_p(state, cfg.augment)
    return means


@dataclass(frozen=True)
class Phase:
    """Losses whose gradients add up to one step of a network."""

    network: str
    losses: tuple[Loss, ...]
    lrate: float
    part: str
    """The Timing/share that its time counts to."""
    interval: int = 1
    """It is due every so many iterations."""
    gain: float = 1.0
    """Factor on its gradients, which pays for the interval."""


def run_phase(phase: Phase, state: TrainState, batches: Sequence[Batch], watch: StopWatch) -> dict[str, Tensor]:
    """Gradients of the losses averaged over the global minibatch, one sum over the ranks, feedback, one Adam step."""
    gradients = state.gradients[phase.network]
    with watch(phase.part):
        gradients.zero()
        for batch in batches:
            accumulate(phase, state, batch)
    with watch("reduce"):
        means = gradients.reduce()
    with watch(phase.part):
        finite = gradients.are_finite()
        logged = move_feedback(phase, state, means, finite)
        state.optimizers[phase.network].step(phase.lrate, finite)
        state.nonfinite += ~finite
    return logged


def accumulate(phase: Phase, state: TrainState, batch: Batch) -> None:
    """Adds a micro-batch's gradients and means, times its share of the global minibatch."""
    gradients = state.gradients[phase.network]
    with only_trains(phase.network, state):
        for loss in phase.losses:
            outcome = state.compiled(loss, state.networks, loss.draw(batch))
            (outcome.loss.mean() * (phase.gain * batch.share)).backward()
            gradients.add_means(outcome.means, batch.share)
            gradients.add_means(outcome.sums, 1.0)


def move_feedback(phase: Phase, state: TrainState, means: dict[str, Tensor], finite: Tensor) -> dict[str, Tensor]:
    """Moves w_avg and pl_mean, each once per phase, by means over the global minibatch; returns what is logged."""
    logged = {name: value for name, value in means.items() if value.ndim == 0}
    for loss in phase.losses:
        logged |= loss.move_feedback(state, means, finite)
    return logged


def phases_of(cfg: RunConfig, network: str, schedule: Schedule) -> list[Phase]:
    """The phases of G or D in their order: the adversarial loss and its penalty, together or, if lazy, apart."""
    lrate = schedule.G_lrate if network == "G" else schedule.D_lrate
    main, *penalties = losses_of(cfg, network)
    if not cfg.train.lazy_regularization:
        return [Phase(network, (main, *penalties), lrate, network)]
    interval = cfg.train.G_reg_interval if network == "G" else cfg.train.D_reg_interval
    lazy = [Phase(network, (penalty,), lrate, f"{network}_reg", interval, float(interval)) for penalty in penalties]
    return [Phase(network, (main,), lrate, network), *lazy]


def due_phases(cfg: RunConfig, network: str, schedule: Schedule, iteration: int) -> list[Phase]:
    """The phases of G or D in this iteration."""
    return [phase for phase in phases_of(cfg, network, schedule) if iteration % phase.interval == 0]


def place(
    micro_batches: MicroBatches, state: TrainState, cfg: RunConfig, draws: Draws, schedule: Schedule
) -> list[Batch]:
    """This rank's micro-batches on its device, with their places in the stream and all that losses draw from."""
    places = places_of_rank(state.cur_nimg, schedule, distributed.rank(), distributed.world_size())
    return [
        Batch(state, cfg, schedule, draws, where, to_device(images, state.device), labels)
        for where, (images, labels) in zip(places, micro_batches, strict=True)
    ]


@contextmanager
def only_trains(network: str, state: TrainState) -> Iterator[None]:
    """Computes no gradients of the other network's parameters inside."""
    others = state.trainable["D" if network == "G" else "G"]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def refuse_nonfinite(state: TrainState) -> None:
    """Raises FloatingPointError when a gradient of this minibatch is not finite (train.on_nonfinite=error)."""
    if state.nonfinite.item():
        raise FloatingPointError(
            f"a gradient is not finite at nimg {state.cur_nimg} (train.on_nonfinite=error); lower the learning rate, "
            f"or train with on_nonfinite=skip"
        )
