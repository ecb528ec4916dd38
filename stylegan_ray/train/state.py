"""All that a run must not lose in a crash."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_ray.config import FORMAT_VERSION, RunConfig
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.rng import stream, stream_key
from stylegan_ray.train.compiled import Programs
from stylegan_ray.train.gradients import Gradients
from stylegan_ray.train.optim import LazyAdam
from stylegan_ray.train.stats import Means

COUNTERS = (
    "cur_nimg",
    "iteration",
    "prev_lod",
    "tick",
    "tick_start_nimg",
    "stream_salt",
    "num_nonfinite",
    "elapsed_sec",
)


@dataclass
class TrainState:
    """Networks, optimisers and counters of a run; the same on every rank."""

    G: Any
    D: Any
    G_ema: Any
    optimizers: dict[str, LazyAdam]
    gradients: dict[str, Gradients]
    programs: Programs
    """Runs the terms of the losses, compiled where train.compile says so."""
    pl_mean: Tensor
    """Moving mean of path lengths, a scalar on the device."""
    nonfinite: Tensor
    """Steps skipped since the last tick because a gradient was not finite, a scalar on the device."""
    means: Means
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
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what G makes."""
        return (self.G.num_channels, *self.G.resolution)

    @classmethod
    def create(
        cls,
        cfg: RunConfig,
        resolution: int | tuple[int, int],
        num_channels: int,
        label_size: int,
        device: torch.device | str = "cpu",
    ) -> TrainState:
        """A new run's state; the networks are drawn on the CPU from run.seed, equal on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(stream(stream_key(cfg.run.seed, 0, "init"), 0).integers(2**63)))
            G = build_generator(cfg.model, resolution, num_channels, label_size)
            D = build_discriminator(cfg.model, resolution, num_channels, label_size)
        return cls.around(cfg, G, D, device)

    @classmethod
    def around(cls, cfg: RunConfig, G: nn.Module, D: nn.Module, device: torch.device | str = "cpu") -> TrainState:
        """A new run's state with the given networks."""
        device, dtype = torch.device(device), getattr(torch, cfg.train.dtype)
        G, D = G.to(device, dtype).train(), D.to(device, dtype).train()
        G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        w_dim = G.get_buffer("w_avg").numel()
        return cls(
            G=G,
            D=D,
            G_ema=G_ema,
            optimizers={"G": LazyAdam(G, cfg, "G"), "D": LazyAdam(D, cfg, "D")},
            gradients={"G": Gradients(G, 2 * w_dim + NUM_SCALARS), "D": Gradients(D, w_dim + NUM_SCALARS)},
            programs=Programs(cfg.train.compile, cfg.train.cuda_graphs),
            pl_mean=torch.zeros((), device=device, dtype=dtype),
            nonfinite=torch.zeros((), device=device),
            means=Means(device),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, not copied."""
        named = {"pl_mean": self.pl_mean, "nonfinite": self.nonfinite}
        named |= {f"means.{name}": value for name, value in self.means.sums.items()}
        for part in ("G", "D", "G_ema"):
            named |= {f"{part}.{name}": value for name, value in getattr(self, part).state_dict().items()}
        for part, optimizer in self.optimizers.items():
            named |= {f"{part}_opt.{name}": value for name, value in optimizer.tensors().items()}
        return named

    def counters(self) -> dict[str, Any]:
        """Everything of the state that is not a tensor, in JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            "data_fingerprint": self.data_fingerprint,
            "means": self.means.counts,
            "num_steps": {part: optimizer.num_steps for part, optimizer in self.optimizers.items()},
            **{name: getattr(self, name) for name in COUNTERS},
        }

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Takes over what `tensors` and `counters` gave; raises ValueError for another format."""
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
        self.nonfinite.copy_(tensors["nonfinite"])
        self.means.sums = {name: value.to(self.device).clone() for name, value in _under(tensors, "means.").items()}
        self.means.counts = dict(counters["means"])
        self.data_fingerprint = counters["data_fingerprint"]
        for name in COUNTERS:
            setattr(self, name, counters[name])


NUM_SCALARS = 8
"""Room for scalars that ride in a reduction."""


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
