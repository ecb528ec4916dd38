"""Table of the layers of a network."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stylegan_ray.networks.generator import Generator
from stylegan_ray.networks.growing import GrowingDiscriminator, GrowingSynthesis


class LayerRow(NamedTuple):
    name: str
    num_parameters: int
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] | None


def layer_table(network: nn.Module) -> list[LayerRow]:
    """Name, parameter count, output shape (of one sample) and weight shape of every layer of G or D.

    Runs forward passes of a copy on the meta device, of a growing network at every resolution: nothing is computed.
    """
    network = copy.deepcopy(network).to("meta")
    rows = [name for name, module in network.named_modules() if _is_row(name, module)]
    counts = dict.fromkeys(rows, 0)
    for name, parameter in network.named_parameters():
        counts[max((row for row in rows if name.startswith(f"{row}.")), key=len)] += parameter.numel()
    table: list[LayerRow] = []

    def record(name: str):
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            weight = getattr(module, "weight", None)
            shape = tuple(weight.shape) if isinstance(weight, Tensor) else None
            if name not in {row.name for row in table}:
                table.append(LayerRow(name, counts[name], tuple(output.shape[1:]), shape))

        return hook

    for name in rows:
        network.get_submodule(name).register_forward_hook(record(name))
    with torch.no_grad():
        for lod in _lods(network):
            network(*_example(network), lod=lod)
    table += [_of_parameters(name, network, counts[name]) for name in rows if name not in {row.name for row in table}]
    return sorted(table, key=lambda row: rows.index(row.name))


def _of_parameters(name: str, network: nn.Module, count: int) -> LayerRow:
    """The row of a module that is not called itself: a growing block, which owns its constant."""
    constant = next(network.get_submodule(name).parameters(recurse=False))
    return LayerRow(name, count, tuple(constant.shape[1:]), None)


def _lods(network: Any) -> list[float]:
    """lod of the full resolution, and of the lower ones of a growing network."""
    part = network.synthesis if isinstance(network, Generator) else network
    is_growing = isinstance(part, GrowingSynthesis | GrowingDiscriminator)
    return [float(lod) for lod in range(len(part.sizes) if is_growing else 1)]


def _is_row(name: str, module: nn.Module) -> bool:
    """Whether a module has a row: it owns parameters and is no style of another layer."""
    return any(True for _ in module.parameters(recurse=False)) and not name.endswith("affine")


def _example(network: Any) -> list[Tensor]:
    labels = torch.empty(1, network.label_size, device="meta")
    if isinstance(network, Generator):
        return [torch.empty(1, network.z_dim, device="meta"), labels]
    return [torch.empty(1, network.num_channels, *network.resolution, device="meta"), labels]
