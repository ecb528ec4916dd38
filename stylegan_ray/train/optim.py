"""Adam as the original counts it, with lazy regularization and epsilon outside the bias correction; and G_ema."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stylegan_ray.config import RunConfig
from stylegan_ray.train.schedule import lazy_ratio


class LazyAdam:
    """torch's fused Adam, shared by the main and the regularization phases of one network."""

    def __init__(self, network: nn.Module, cfg: RunConfig, which: str) -> None:
        self.ratio = lazy_ratio(cfg, which)
        self.beta2 = cfg.optim.beta2**self.ratio
        self.epsilon = cfg.optim.epsilon
        self.num_steps = 0
        betas = (cfg.optim.beta1**self.ratio, self.beta2)
        self.names = [name for name, _ in network.named_parameters()]
        fused = not next(network.parameters()).is_meta  # tensors without memory make no step
        self.adam = torch.optim.Adam(network.parameters(), lr=0.0, betas=betas, eps=self.epsilon, fused=fused)

    def step(self, lrate: float, finite: Tensor) -> None:
        """One update at a learning rate before its lazy correction; none where `finite`, on the device, is false."""
        self.num_steps += 1
        # The original adds epsilon to the uncorrected sqrt(v), torch to the corrected one.
        epsilon = self.epsilon / math.sqrt(1.0 - self.beta2**self.num_steps)
        self.adam.param_groups[0].update(lr=lrate * self.ratio, eps=epsilon)
        self.adam.found_inf = (~finite).float()  # type: ignore[attr-defined]  # what torch's GradScaler sets
        self.adam.step()

    def reset(self) -> None:
        """Forgets moments and step count."""
        self.adam.state.clear()
        self.num_steps = 0

    def tensors(self) -> dict[str, Tensor]:
        """The moments and per-parameter step counts by name; zeros before the first step."""
        named = {}
        for name, parameter in zip(self.names, self.adam.param_groups[0]["params"], strict=True):
            moments = self.adam.state.get(parameter, {})
            for part in ("exp_avg", "exp_avg_sq"):
                named[f"{part}.{name}"] = moments.get(part, torch.zeros_like(parameter.detach()))
            named[f"step.{name}"] = moments.get("step", torch.zeros((), dtype=torch.float32, device=parameter.device))
        return named

    def load(self, named: dict[str, Tensor], num_steps: int) -> None:
        """Restores what `tensors` returned."""
        self.num_steps = num_steps
        for name, parameter in zip(self.names, self.adam.param_groups[0]["params"], strict=True):
            state: dict[str, Any] = {"step": named[f"step.{name}"].to(parameter.device, torch.float32).clone()}
            for part in ("exp_avg", "exp_avg_sq"):
                state[part] = torch.empty_like(parameter).detach().copy_(named[f"{part}.{name}"])
            self.adam.state[parameter] = state


@torch.no_grad()
def update_ema(G_ema: nn.Module, G: nn.Module, beta: float) -> None:
    """Moves the parameters of G_ema towards those of G, keeping the share beta of themselves; copies the buffers."""
    get_ema_multi_avg_fn(beta)(list(G_ema.parameters()), list(G.parameters()), None)
    for kept, buffer in zip(G_ema.buffers(), G.buffers(), strict=True):
        kept.copy_(buffer)
