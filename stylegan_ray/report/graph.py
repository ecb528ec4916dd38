"""The graph of the networks for TensorBoard, by the tracer of torch.utils.tensorboard."""

from __future__ import annotations

import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_ray.config import ConfigError, RunConfig
from stylegan_ray.run_folder import TENSORBOARD


class GeneratorAndDiscriminator(nn.Module):
    """D(G(z)), since TensorBoard shows one graph."""

    def __init__(self, G: Any, D: nn.Module) -> None:
        super().__init__()
        self.G, self.D = G, D

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.D(self.G(z, labels, noise="const"), labels)


def check_graph(cfg: RunConfig) -> None:
    """Raises ConfigError when train.save_tf_graph is set and TensorBoard is missing, whose tracer it needs."""
    if cfg.train.save_tf_graph and find_spec("tensorboard") is None:
        raise ConfigError(
            "train.save_tf_graph=true needs the package tensorboard; install stylegan-ray[tensorboard], or leave it out"
        )


def graph_file(G: Any, D: nn.Module) -> tuple[str, bytes]:
    """Name and content of an event file with the graph of D(G(z)) at full resolution, for one sample."""
    from torch.utils.tensorboard import SummaryWriter

    like = next(G.parameters())
    inputs = tuple(like.new_zeros(1, size) for size in (G.z_dim, G.label_size))
    with TemporaryDirectory() as folder:
        with torch.no_grad(), torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
            # The tracer warns of shapes that become constants, as they should.
            with SummaryWriter(folder, filename_suffix=f".{time.time_ns()}.graph") as writer:
                writer.add_graph(GeneratorAndDiscriminator(G, D), inputs)
        (file,) = Path(folder).iterdir()
        return f"{TENSORBOARD}/{file.name}", file.read_bytes()
