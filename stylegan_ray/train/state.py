"""The state of a run, which is all that a crash must not lose; and a micro-batch of reals that a step works on."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stylegan_ray.augment import Augmentation, Parameters, check_augmentable, joined
from stylegan_ray.config import FORMAT_VERSION, RunConfig
from stylegan_ray.data.process_reals import process_reals
from stylegan_ray.networks import build_discriminator, build_generator, recompute
from stylegan_ray.rng import Draws, Place, stream, stream_key
from stylegan_ray.train.compiled import Compiled
from stylegan_ray.train.gradients import Gradients
from stylegan_ray.train.optim import LazyAdam
from stylegan_ray.train.schedule import Schedule, training_schedule
from stylegan_ray.train.stats import Means

COUNTERS: dict[str, type] = {
    "cur_nimg": int,
    "iteration": int,
    "prev_lod": float,
    "tick": int,
    "tick_start_nimg": int,
    "stream_salt": int,
    "augment_p": float,
    "augment_nimg": int,
    "num_nonfinite": int,
    "elapsed_sec": float,
}
"""Numbers of a TrainState that are saved; integers are at least 0."""

NUM_SCALARS = 8
"""Room for the logged means of a phase in its reduction."""


class Networks(NamedTuple):
    """What losses compute with."""

    G: Any
    D: Any


@dataclass
class TrainState:
    """Networks, optimizers and counters of a run; equal on every rank."""

    G: Any
    D: Any
    G_ema: Any
    trainable: dict[str, list[nn.Parameter]]
    """What is trained of G and of D: all but train.freeze_D layers."""
    optimizers: dict[str, LazyAdam]
    gradients: dict[str, Gradients]
    compiled: Compiled
    """Calls losses, compiled where train.compile says so."""
    pl_mean: Tensor
    """Moving mean of path lengths, a scalar on the device."""
    nonfinite: Tensor
    """Steps skipped since the last tick because a gradient was not finite, a scalar on the device."""
    means: Means
    augment_signs: Tensor
    """Since the last change of augment_p: the sum of signs of D's scores of reals and their number [2], float64."""
    augment_p: float
    """Probability of each augmentation of what D sees."""
    augment_nimg: int = 0
    """cur_nimg at the last change of augment_p."""
    cur_nimg: int = 0
    iteration: int = 0
    prev_lod: float = -1.0
    tick: int = 0
    tick_start_nimg: int = 0
    stream_salt: int = 0
    num_nonfinite: int = 0
    """Steps skipped in the whole run, up to the last tick."""
    elapsed_sec: float = 0.0
    data_fingerprint: str = ""

    @property
    def device(self) -> torch.device:
        return self.pl_mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pl_mean.dtype

    @property
    def networks(self) -> Networks:
        return Networks(self.G, self.D)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of generated images."""
        return (self.G.num_channels, *self.G.resolution)

    @property
    def resolution_log2(self) -> float:
        """Of the larger side of generated images."""
        return math.log2(max(self.G.resolution))

    def lod(self, cfg: RunConfig) -> float:
        """The level of detail of the last iteration, or before the first one that of the schedule."""
        if self.iteration:
            return self.prev_lod
        return training_schedule(cfg, self.cur_nimg, self.resolution_log2).lod

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, in the data type of the networks."""
        return to_device(tensor.to(self.dtype), self.device)

    @classmethod
    def create(
        cls,
        cfg: RunConfig,
        resolution: int | tuple[int, int],
        num_channels: int,
        label_size: int,
        device: torch.device | str = "cpu",
    ) -> TrainState:
        """The state of a new run; the networks are initialized on the CPU from run.seed, equal on every device."""
        check_augmentable(cfg.augment, (resolution, resolution) if isinstance(resolution, int) else resolution)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(stream(stream_key(cfg.run.seed, 0, "init"), 0).integers(2**63)))
            G = build_generator(cfg.model, resolution, num_channels, label_size)
            D = build_discriminator(cfg.model, resolution, num_channels, label_size)
        return cls.around(cfg, G, D, device)

    @classmethod
    def around(cls, cfg: RunConfig, G: nn.Module, D: nn.Module, device: torch.device | str = "cpu") -> TrainState:
        """The state of a new run with the given networks."""
        device, dtype = torch.device(device), getattr(torch, cfg.train.dtype)
        G, D = G.to(device, dtype).train(), D.to(device, dtype).train()
        G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        for network in (G.synthesis, D):
            recompute(network, cfg.train.recompute_activations)
        w_dim = G.get_buffer("w_avg").numel()
        freeze(D, cfg.train.freeze_D)
        return cls(
            G=G,
            D=D,
            G_ema=G_ema,
            trainable={"G": list(G.parameters()), "D": [p for p in D.parameters() if p.requires_grad]},
            optimizers={"G": LazyAdam(G, cfg, "G"), "D": LazyAdam(D, cfg, "D")},
            gradients={"G": Gradients(G, 2 * w_dim + NUM_SCALARS), "D": Gradients(D, w_dim + NUM_SCALARS)},
            compiled=Compiled(cfg.train.compile),
            pl_mean=torch.zeros((), device=device, dtype=dtype),
            nonfinite=torch.zeros((), device=device),
            means=Means(device),
            augment_signs=torch.zeros(2, dtype=torch.float64, device=device),
            augment_p=cfg.augment.first_p,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, not copied."""
        named = {"pl_mean": self.pl_mean, "nonfinite": self.nonfinite, "augment_signs": self.augment_signs}
        named |= {f"means.{name}": value for name, value in self.means.sums.items()}
        for part in ("G", "D", "G_ema"):
            named |= {f"{part}.{name}": value for name, value in getattr(self, part).state_dict().items()}
        for part, optimizer in self.optimizers.items():
            named |= {f"{part}_opt.{name}": value for name, value in optimizer.tensors().items()}
        return named

    def counters(self) -> dict[str, Any]:
        """A copy of everything of the state that is not a tensor, in JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            "data_fingerprint": self.data_fingerprint,
            "means": dict(self.means.counts),
            "num_steps": {part: optimizer.num_steps for part, optimizer in self.optimizers.items()},
            **{name: getattr(self, name) for name in COUNTERS},
        }

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Restores what `tensors` and `counters` returned; raises ValueError for another format."""
        if counters["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"checkpoint format {counters['format_version']} is not {FORMAT_VERSION}, the one this version reads; "
                f"continue the run with the version that wrote it"
            )
        for part in ("G", "D", "G_ema"):
            getattr(self, part).load_state_dict(_under(tensors, f"{part}."))
        for part, optimizer in self.optimizers.items():
            optimizer.load(_under(tensors, f"{part}_opt."), counters["num_steps"][part])
        self.pl_mean.copy_(tensors["pl_mean"])
        if "augment_signs" in tensors:  # checkpoints before augmentation lack it
            self.augment_signs.copy_(tensors["augment_signs"])
        self.nonfinite.copy_(tensors["nonfinite"])
        self.means.sums = {name: value.to(self.device).clone() for name, value in _under(tensors, "means.").items()}
        self.means.counts = dict(counters["means"])
        self.data_fingerprint = counters["data_fingerprint"]
        for name in COUNTERS:
            setattr(self, name, counters.get(name, getattr(self, name)))


def freeze(D: Any, num_layers: int) -> None:
    """Computes no gradients of so many layers of D, so that Adam leaves them as they are (Mo et al. 2020, FreezeD)."""
    if not num_layers:
        return
    layers = D.layers()
    if num_layers > len(layers):
        raise ValueError(f"train.freeze_D={num_layers} must be at most {len(layers)}, the layers that D can freeze")
    for layer in layers[:num_layers]:
        layer.requires_grad_(False)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; to a GPU from pinned memory on a stream for copies.

    The loop places a minibatch while the GPU computes the one before, so its copy does not wait for that.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    current = torch.cuda.current_stream(device)
    with torch.cuda.stream(copy_stream(device)):
        copied = tensor.pin_memory().to(device, non_blocking=True)
    current.wait_stream(copy_stream(device))
    copied.record_stream(current)
    return copied


@cache
def copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream for copies to a GPU."""
    return torch.cuda.Stream(device)


Tensors = dict[str, Any]
"""What a loss draws, by name: `lod`, a number; `z` [N,z_dim], `labels` [N,label_size], `mixed` (second latents
[N,z_dim], or None), `cutoff` (layers below it take the first latents, a scalar) and `noise` (a tensor per layer, or
"const" for the stored ones), from which G generates; `reals` [N,C,H,W] before augmentation and `real_labels`."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch: its reals, its place in the stream, and where its random numbers come from."""

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
        """Number of reals."""
        return self.schedule.minibatch_gpu

    @property
    def share(self) -> float:
        """Its share of the global minibatch."""
        return 1.0 / self.schedule.num_micro_batches

    def as_D_sees(self) -> Tensor:
        """Reals [N,C,H,W] in train.drange_net, faded at a lod between two resolutions."""
        return process_reals(self.images, self.schedule.lod, None, self.cfg.train.drange_net, dtype=self.state.dtype)

    def reals(self) -> Tensors:
        """The reals and their labels."""
        return {
            "lod": self.schedule.lod, "reals": self.as_D_sees(), "real_labels": self.state.to_device(self.labels),
        }  # fmt: skip

    def latents(self, purpose: str, num: int, labels: Tensor) -> Tensors:
        """What G generates `num` images from in training mode: style mixing, fresh noise."""
        state, draws = self.state, self.draws
        synthesis = state.G.synthesis
        num_layers = synthesis.num_ws - 2 * self.schedule.level  # layers in use at this lod
        cutoff = draws.mixing(purpose, self.place, self.cfg.model.style_mixing_prob, num_layers)
        z, mixed = draws.latents(purpose, self.place, num, state.G.z_dim), None
        if cutoff < num_layers:
            mixed = state.to_device(draws.latents(f"{purpose}/mixed", self.place, num, state.G.z_dim))
        shapes = synthesis.noise_shapes(num, self.schedule.lod)
        return {
            "lod": self.schedule.lod,
            "z": state.to_device(z),
            "labels": labels,
            "mixed": mixed,
            "cutoff": None if mixed is None else state.to_device(torch.tensor(float(cutoff))),
            "noise": draws.noise(purpose, self.place, shapes, state.device, state.dtype),
        }

    def drawn_labels(self, purpose: str, num: int) -> Tensor:
        """Labels [num,label_size] of random training images."""
        return self.state.to_device(self.draws.fake_labels(purpose, self.place, num, self.labels.shape[1]))

    def augmentation(self, augmentation: Augmentation, purpose: str, images: Sequence[str]) -> Parameters:
        """The parameters for kinds of images of this micro-batch, such as fakes and reals, that D sees together."""
        state, kinds = self.state, [f"{purpose}/augment/{kind}" for kind in images]
        numbers = joined([augmentation.draw(self.draws, kind, self.place, self.num) for kind in kinds])
        parameters = augmentation.parameters(numbers, state.augment_p, state.image_shape, state.compiled.wanted)
        if augmentation.needs_noise:
            shape = (self.num, *state.image_shape)
            fields = [self.draws.augment_noise(kind, self.place, shape, state.device, state.dtype) for kind in kinds]
            parameters["noise"] = torch.cat(fields)
        return {name: state.to_device(v) if isinstance(v, Tensor) else v for name, v in parameters.items()}

    def latents_for_D(self, purpose: str) -> Tensors:
        """What D's fakes are generated from: with the labels of the reals, or drawn ones where labels are separate."""
        joint = self.cfg.model.label_mode == "joint"
        labels = self.state.to_device(self.labels) if joint else self.drawn_labels(purpose, self.num)
        return self.latents(purpose, self.num, labels)
