"""G_ema as one function of its inputs, as exported programs need it: truncation included, noise fixed, in float32."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_ray.interop.native import Networks
from stylegan_ray.interop.requirements import Written, require_parts
from stylegan_ray.networks import build_generator, mix_styles


class SamplingProgram(nn.Module):
    """z [N,z], psi [] (and labels [N,L]) -> images [N,C,H,W] in -1..1, with the noise that G_ema stores."""

    def __init__(self, G: Any, lod: float = 0.0):
        super().__init__()
        self.G, self.lod = G, lod

    def forward(self, z: Tensor, psi: Tensor, labels: Tensor | None = None) -> Tensor:
        G = self.G
        w = G.mapping(z, labels)
        w = w * psi + G.w_avg * (1 - psi)  # psi is a tensor here; at 1 this is w exactly
        return G.synthesis(mix_styles(w, None, 0, G.synthesis.num_ws), noise="const", lod=self.lod)


def sampling_program(networks: Networks, format_name: str) -> tuple[SamplingProgram, tuple[str, ...]]:
    """The program of G_ema and notes for the user; raises ConfigError where there is no G_ema.

    Its modulated convolutions scale activations, since convolutions with one group for each sample cannot be exported
    for any number of samples, and every resolution computes in float32.
    """
    require_parts(networks, ["G_ema"], format_name)
    theirs = networks.G_ema
    model = networks.config.model.model_copy(update={"num_lowp_res": 0, "fused_modconv": "scaled"})
    with torch.random.fork_rng(devices=[]):
        G = build_generator(model, theirs.resolution, theirs.num_channels, theirs.label_size)
    G.load_state_dict({name: value.float() for name, value in theirs.state_dict().items()})
    notes = []
    if networks.config.model.num_lowp_res:
        notes.append("the program computes all resolutions in float32; model.num_lowp_res is left out")
    if networks.config.train.drange_net != (-1, 1):
        low, high = networks.config.train.drange_net
        notes.append(f"images are in {low:g}..{high:g}, as train.drange_net of the training")
    return SamplingProgram(G.eval().requires_grad_(False), networks.lod), tuple(notes)


def example_inputs(program: SamplingProgram) -> dict[str, Tensor]:
    """Inputs for two images by name, in the order of `forward`; labels only where the network has them."""
    G = program.G
    labels = {"labels": torch.zeros(2, G.label_size).index_fill_(1, torch.tensor([0]), 1)} if G.label_size else {}
    return {"z": torch.ones(2, G.z_dim), "psi": torch.tensor(1.0), **labels}


def dynamic_shapes(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of samples as a symbol, in every input but psi."""
    batch = torch.export.Dim("batch", min=1)
    return {name: None if name == "psi" else {0: batch} for name in inputs}


def export_program(program: SamplingProgram) -> torch.export.ExportedProgram:
    """The program as torch.export traces it, for any number of samples."""
    inputs = example_inputs(program)
    return torch.export.export(program, tuple(inputs.values()), dynamic_shapes=dynamic_shapes(inputs), strict=False)


def write(networks: Networks) -> Written:
    """A .pt2 file, which torch.export.load reads; it is called with z and psi, and labels of a conditional network."""
    program, notes = sampling_program(networks, "a .pt2 file")
    file = io.BytesIO()
    torch.export.save(export_program(program), file)
    return Written(file.getvalue(), notes)
