"""One iteration: the turns of G and D, each a sum over micro-batches, one reduction and one Adam step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stylegan_ray import distributed
from stylegan_ray.config import LossConfig, RunConfig
from stylegan_ray.data.process_reals import process_reals
from stylegan_ray.ops import penalised_gradients
from stylegan_ray.rng import Draws, Place
from stylegan_ray.train import terms
from stylegan_ray.train.copies import to_device
from stylegan_ray.train.ema import update_ema
from stylegan_ray.train.schedule import Schedule, places_of_rank, training_schedule
from stylegan_ray.train.state import TrainState
from stylegan_ray.train.stats import StopWatch
from stylegan_ray.train.terms import PENALTIES, Latents, Outcome, Penalised, Reals


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward of a term needs to know."""

    state: TrainState
    cfg: RunConfig
    schedule: Schedule
    draws: Draws
    place: Place
    images: Tensor
    """Reals as the data pipeline serves them, uint8 [N,C,H,W] on the device."""
    labels: Tensor
    """Labels of the reals [N,label_size]."""

    @property
    def num(self) -> int:
        return self.schedule.minibatch_gpu

    def reals(self) -> Tensor:
        """The reals as D sees them."""
        return process_reals(
            self.images, self.schedule.lod, None, self.cfg.train.drange_net, dtype=self.state.dtype
        )  # [N,C,H,W]

    def labelled_reals(self) -> Reals:
        return Reals(self.reals(), self.to_device(self.labels))

    def to_device(self, tensor: Tensor) -> Tensor:
        return to_device(tensor.to(self.state.dtype), self.state.device)


@dataclass(frozen=True)
class Term:
    """A loss or a penalty."""

    run: Callable[[MicroBatch], Outcome]
    scalars: tuple[str, ...]
    """Names of the means it brings."""
    generates: bool = True
    """Whether it runs G, so that w_avg moves."""
    halves: tuple[Callable[[MicroBatch], Outcome], Callable[[MicroBatch], Outcome]] | None = None
    """What may stand for it: reals, which need no G, and then fakes."""


@dataclass(frozen=True)
class Phase:
    """A turn of one network: its terms add up to one gradient."""

    network: str
    part: str
    """Which share of the time it counts to."""
    interval: int
    gain: float
    terms: tuple[Term, ...]

    @property
    def scalars(self) -> list[str]:
        return [name for term in self.terms for name in term.scalars]

    def is_due(self, iteration: int) -> bool:
        """Whether it has a turn in this iteration."""
        return iteration % self.interval == 0


def latents_of(batch: MicroBatch, purpose: str, num: int, labels: Tensor) -> Latents:
    """What G makes pictures from in training mode: style mixing, fresh noise."""
    synthesis, draws, where = batch.state.G.synthesis, batch.draws, batch.place
    num_layers = synthesis.num_ws - 2 * batch.schedule.level  # layers in use at this lod
    cutoff = draws.mixing(purpose, where, batch.cfg.model.style_mixing_prob, num_layers)
    purposes = [purpose, f"{purpose}/mixed"] if cutoff < num_layers else [purpose]
    z, *mixed = (batch.to_device(draws.latents(name, where, num, batch.state.G.z_dim)) for name in purposes)
    shapes = synthesis.noise_shapes(num, batch.schedule.lod)
    noise = draws.noise(purpose, where, shapes, batch.state.device, batch.state.dtype)
    if not mixed:
        return Latents(z, labels, None, None, noise)
    return Latents(z, labels, mixed[0], batch.to_device(torch.tensor(float(cutoff))), noise)


def latents_for_D(batch: MicroBatch, purpose: str) -> Latents:
    """The same for pictures that D sees: they carry the labels of the reals, or drawn ones in the ADA dialect."""
    joint = batch.cfg.model.label_mode == "joint"
    labels = batch.to_device(batch.labels) if joint else fake_labels(batch, purpose, batch.num)
    return latents_of(batch, purpose, batch.num, labels)


def fake_labels(batch: MicroBatch, purpose: str, num: int) -> Tensor:
    """Labels for generated pictures, drawn from the data set."""
    return batch.to_device(batch.draws.fake_labels(purpose, batch.place, num, batch.labels.shape[1]))


def G_main(batch: MicroBatch) -> Outcome:
    """The adversarial term of G."""
    state, cfg = batch.state, batch.cfg.loss
    latents = latents_of(batch, "G_main", batch.num, fake_labels(batch, "G_main", batch.num))
    reals = batch.labelled_reals() if cfg.G == "rpgan" else None
    return state.programs(terms.G_main, state.G, state.D, cfg, batch.schedule.lod, latents, reals)


def G_reg(batch: MicroBatch) -> Outcome:
    """Path length regularisation of G, on latents of its own."""
    state, cfg = batch.state, batch.cfg.loss
    num = max(batch.num // cfg.pl_minibatch_shrink, 1)
    latents = latents_of(batch, "G_reg", num, fake_labels(batch, "G_reg", num))
    noise = batch.draws.pl_noise(batch.place, (num, *state.picture_shape), state.device, state.dtype)
    with penalised_gradients():
        return state.programs(terms.G_reg, state.G, cfg, batch.schedule.lod, latents, noise, state.pl_mean)


def D_main(batch: MicroBatch) -> Outcome:
    """The adversarial term of D."""
    state, latents = batch.state, latents_for_D(batch, "D_main")
    given = (batch.cfg.loss, batch.schedule.lod, latents, batch.labelled_reals())
    return state.programs(terms.D_main, state.G, state.D, *given)


def D_reals(batch: MicroBatch) -> Outcome:
    """The part of D's adversarial term that needs no G."""
    state = batch.state
    return state.programs(terms.D_reals, state.D, batch.cfg.loss, batch.schedule.lod, batch.labelled_reals())


def D_fakes(batch: MicroBatch) -> Outcome:
    """The other part."""
    state, latents = batch.state, latents_for_D(batch, "D_main")
    return state.programs(terms.D_fakes, state.G, state.D, batch.cfg.loss, batch.schedule.lod, latents)


def D_reg(batch: MicroBatch) -> Outcome:
    """The gradient penalties of D."""
    state, cfg, latents, mix = batch.state, batch.cfg.loss, None, None
    if cfg.D != "logistic_r1":
        latents = latents_for_D(batch, "D_reg")
    if cfg.D == "wgan_gp":
        mix = batch.to_device(batch.draws.uniforms("wgan_mix", batch.place, batch.num))
    given = Penalised(batch.labelled_reals(), latents, mix)
    with penalised_gradients():
        return state.programs(terms.D_reg, state.G, state.D, cfg, batch.schedule.lod, given)


def penalty_weight(cfg: LossConfig) -> float:
    """The weight of D's gradient penalty."""
    return cfg.wgan_lambda if cfg.D == "wgan_gp" else cfg.r1_gamma


G_MAIN = Term(G_main, ("Loss/G/loss",))
G_REG = Term(G_reg, ("Loss/G/reg", "pl_length"))
D_MAIN = Term(
    D_main,
    ("Loss/D/loss", "Loss/scores/real", "Loss/scores/fake", "Loss/signs/real"),
    halves=(D_reals, D_fakes),
)
D_REG = Term(D_reg, ("Loss/D/reg",), generates=False)


LEAST_PIXELS = 1 << 15
"""In a micro-batch, so that D takes reals and fakes one after the other without loss: on a CPU as fast from 8 pictures
of 64x64, 1.18 times slower for 32x32, faster for 256x256."""


def reals_first(batch: MicroBatch) -> bool:
    """Whether D judges reals before fakes: then it does so while the gradients of G are still being summed."""
    if batch.cfg.train.D_reals_first is None:
        pixels = batch.images[:, 0].numel()
        return distributed.world_size() > 1 and pixels >= LEAST_PIXELS and batch.cfg.loss.D != "rpgan"
    return batch.cfg.train.D_reals_first


def phases_of(cfg: RunConfig) -> tuple[list[Phase], list[Phase]]:
    """The turns of G, then those of D, in the order of an iteration; G_ema moves in between.

    A penalty of weight 0 has no turn, as in StyleGAN2-ADA.
    """
    G_regs = (G_REG,) if cfg.loss.G == "logistic_ns_pathreg" and cfg.loss.pl_weight else ()
    D_regs = (D_REG,) if cfg.loss.D in PENALTIES and penalty_weight(cfg.loss) else ()
    turns = []
    for network, main, regs, interval in (
        ("G", G_MAIN, G_regs, cfg.train.G_reg_interval),
        ("D", D_MAIN, D_regs, cfg.train.D_reg_interval),
    ):
        if not cfg.train.lazy_regularization:
            turns.append([Phase(network, network, 1, 1.0, (main, *regs))])
            continue
        lazy = [Phase(network, f"{network}_reg", interval, float(interval), regs)] if regs else []
        turns.append([Phase(network, network, 1, 1.0, (main,)), *lazy])
    return turns[0], turns[1]


def train_iteration(
    state: TrainState,
    cfg: RunConfig,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    draws: Draws,
    schedule: Schedule | None = None,
    watch: StopWatch | None = None,
) -> dict[str, Tensor]:
    """One minibatch through G, G regularisation, G_ema, D, D regularisation; returns means over the minibatch.

    `micro_batches` are those of this rank, in order: (uint8 images [N,C,H,W], labels [N,L]). The schedule is that of
    the group the minibatch belongs to; None reads it at cur_nimg.
    """
    schedule = schedule or training_schedule(cfg, state.cur_nimg, _resolution_log2(state))
    watch = watch or StopWatch(state.device)
    batches = place(state, cfg, micro_batches, draws, schedule)
    stats: dict[str, Tensor] = {}
    G_turns, D_turns = (
        [Turn(phase, state, batches, watch) for phase in phases if phase.is_due(state.iteration)]
        for phases in phases_of(cfg)
    )
    for turn in G_turns:
        turn.add_gradients()
        if reals_first(batches[0]):  # meanwhile; the rest is for a second turn of G, or quicker with fakes
            D_turns[0].add_reals(max(len(batches) // 2, 1))
        stats |= turn.finish()
    with watch("G"):
        update_ema(state.G_ema, state.G, schedule.G_smoothing_beta)
    for turn in D_turns:
        stats |= turn.run()
    state.cur_nimg += schedule.minibatch_size
    state.iteration += 1
    for name, value in stats.items():
        state.means.add(name, value)
    return stats


def place(
    state: TrainState,
    cfg: RunConfig,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    draws: Draws,
    schedule: Schedule,
) -> list[MicroBatch]:
    """This rank's micro-batches of the minibatch at cur_nimg, with all that the terms need."""
    places = places_of_rank(state.cur_nimg, schedule, distributed.rank(), distributed.world_size())
    return [
        MicroBatch(state, cfg, schedule, draws, where, to_device(images, state.device), labels)
        for where, (images, labels) in zip(places, micro_batches, strict=True)
    ]


def _resolution_log2(state: TrainState) -> float:
    return float(torch.tensor(max(state.G.resolution), dtype=torch.float64).log2())


class Job(NamedTuple):
    """A forward and backward of one term, or of half of it, on one micro-batch."""

    number: int
    """Of the term in its phase."""
    run: Callable[[MicroBatch], Outcome]
    batch: MicroBatch
    is_last: bool


class Turn:
    """A phase at work: gradients averaged over the minibatch, one reduction, feedback, one step."""

    def __init__(self, phase: Phase, state: TrainState, batches: Sequence[MicroBatch], watch: StopWatch) -> None:
        self.phase, self.state, self.watch = phase, state, watch
        self.cfg, self.schedule = batches[0].cfg, batches[0].schedule
        self.gradients = state.gradients[phase.network]
        self.jobs = [job for batch in batches for job in jobs(phase, batch, is_last=batch is batches[-1])]
        self.is_new = True

    def run(self) -> dict[str, Tensor]:
        """All of it, or all that is left; returns the phase's means."""
        self.add_gradients()
        return self.finish()

    def add_reals(self, most: int) -> None:
        """Adds the gradients of reals, of the next so many micro-batches: G may be about to make its step."""
        for place, job in enumerate(self.jobs):
            term = self.phase.terms[job.number]
            if most and term.halves and job.run is term.run:
                self._add(job._replace(run=term.halves[0], is_last=False))
                self.jobs[place] = job._replace(run=term.halves[1])
                most -= 1

    def add_gradients(self) -> None:
        """Adds all that is left, and starts to sum over the ranks."""
        for job in self.jobs:
            self._add(job)
        self.gradients.are_complete()

    def finish(self) -> dict[str, Tensor]:
        """Waits for the sums, moves feedback and makes the step; returns the phase's means."""
        with self.watch("reduce"):
            self.gradients.reduce()
        with self.watch(self.phase.part):
            nonfinite = self.gradients.num_nonfinite()
            means = move_feedback(self.phase, self.state, self.cfg, nonfinite)
            step(self.phase, self.state, self.cfg, self.schedule, nonfinite)
        return means

    def _add(self, job: Job) -> None:
        with self.watch(self.phase.part):
            if self.is_new:
                self.gradients.zero()
                self.is_new = False
            add(self.phase, job, 1.0 / self.schedule.num_micro_batches)


def jobs(phase: Phase, batch: MicroBatch, is_last: bool = False) -> list[Job]:
    """All terms of a phase on a micro-batch, which may be the last one of this rank."""
    last = phase.terms[-1]
    return [Job(number, term.run, batch, is_last and term is last) for number, term in enumerate(phase.terms)]


def accumulate(phase: Phase, batch: MicroBatch, share: float) -> None:
    """Adds a micro-batch's gradients and feedback, weighted by its share of the global minibatch."""
    for job in jobs(phase, batch):
        add(phase, job, share)


def add(phase: Phase, job: Job, share: float) -> None:
    """Adds the gradients and feedback of one job.

    In the last one of a rank, sums over the ranks start as soon as gradients are complete.
    """
    batch = job.batch
    gradients, lod = batch.state.gradients[phase.network], batch.schedule.lod
    passengers = gradients.passengers
    with frozen(batch.state.D) if phase.network == "G" else nullcontext():
        outcome = job.run(batch)
        if job.is_last:
            gradients.is_last_backward((phase.part, math.floor(lod), math.ceil(lod)))
        (outcome.loss.mean() * (phase.gain * share)).backward()
    for name, value in outcome.scalars.items():
        passengers[phase.scalars.index(name)] += value * share
    if outcome.w_mean is not None:
        _seat_of_w(passengers, phase, job.number, len(outcome.w_mean)).add_(outcome.w_mean, alpha=share)


def move_feedback(phase: Phase, state: TrainState, cfg: RunConfig, nonfinite: Tensor) -> dict[str, Tensor]:
    """Moves w_avg and pl_mean by the reduced means, unless a gradient was not finite; returns the phase's means."""
    passengers = state.gradients[phase.network].passengers
    means = dict(zip(phase.scalars, passengers.clone(), strict=False))
    beta, w_avg = cfg.model.dlatent_avg_beta, state.G.w_avg
    for number, term in enumerate(phase.terms):
        if term.generates:
            w_mean = _seat_of_w(passengers, phase, number, len(w_avg))
            _move(w_avg, w_mean + (w_avg - w_mean) * beta, nonfinite)
    if "pl_length" in means:
        _move(state.pl_mean, state.pl_mean + cfg.loss.pl_decay * (means["pl_length"] - state.pl_mean), nonfinite)
        means["Loss/pl_mean"] = state.pl_mean.clone()
    return means


def step(phase: Phase, state: TrainState, cfg: RunConfig, schedule: Schedule, nonfinite: Tensor) -> None:
    """One Adam step of the phase's network, skipped and counted (or refused) when a gradient is not finite."""
    if cfg.train.on_nonfinite == "error" and nonfinite.item():
        raise FloatingPointError(
            f"a gradient of {phase.network} is not finite at nimg {state.cur_nimg} (train.on_nonfinite=error); "
            f"lower the learning rate, or train with on_nonfinite=skip"
        )
    state.nonfinite += nonfinite
    lrate = schedule.G_lrate if phase.network == "G" else schedule.D_lrate
    state.optimizers[phase.network].step(lrate, nonfinite)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Computes no gradients of the network's parameters inside."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def _seat_of_w(passengers: Tensor, phase: Phase, number: int, w_dim: int) -> Tensor:
    start = len(phase.scalars) + number * w_dim
    return passengers[start : start + w_dim]


def _move(value: Tensor, target: Tensor, nonfinite: Tensor) -> None:
    value.copy_(torch.where(nonfinite > 0, value, target))
