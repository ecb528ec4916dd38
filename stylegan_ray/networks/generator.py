"""The generator: mapping, truncation and synthesis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stylegan_ray.networks.mapping import Mapping
from stylegan_ray.networks.shapes import Size
from stylegan_ray.untrusted import NonfiniteError


class Generator(nn.Module):
    """z [N,z] (and labels [N,L]) -> images [N,C,H,W]. `w_avg` [w] is the center of truncation."""

    w_avg: Tensor

    def __init__(self, mapping: Mapping, synthesis: Any):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.resolution: Size = synthesis.resolution
        self.z_dim, self.w_dim, self.label_size = mapping.z_dim, mapping.w_dim, mapping.label_size
        self.num_channels: int = synthesis.num_channels
        self.register_buffer("w_avg", torch.zeros(mapping.w_dim))

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: Any = "const",
        lod: float = 0.0,
    ) -> Tensor:
        """Images from w truncated towards w_avg by `psi` in layers below `cutoff` (None: all); psi 1 is off."""
        ws = mix_styles(self.mapping(z, labels), None, 0, self.synthesis.num_ws)
        return self.synthesis(truncate(ws, self.w_avg, psi, cutoff), noise=noise, lod=lod)


def require_finite(images: Tensor) -> Tensor:
    """The images of a generator; raises NonfiniteError where they hold NaN or infinite values."""
    if not bool(torch.isfinite(images).all()):
        raise NonfiniteError(
            "the network makes images of NaN or infinite values: its weights are too large, as of a training that had "
            "diverged, or of a damaged file; use an earlier network"
        )
    return images


def mix_styles(w1: Tensor, w2: Tensor | None, cutoff: int | Tensor, num_ws: int) -> Tensor:
    """ws [N,num_ws,w]: w1 in layers below `cutoff`, w2 in the others (StyleGAN, section 3.1); w2 None: all w1."""
    ws = w1[:, None].expand(-1, num_ws, -1)
    if w2 is None:
        return ws
    first = torch.arange(num_ws, device=ws.device) < cutoff  # [L]
    return torch.where(first[:, None], ws, w2[:, None])


def truncate(ws: Tensor, w_avg: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
    """w_avg + psi * (w - w_avg) in layers below `cutoff` (StyleGAN, appendix B)."""
    if psi == 1 or (cutoff is not None and cutoff <= 0):
        return ws
    near = torch.lerp(w_avg.to(ws.dtype).expand_as(ws[:, :cutoff]), ws[:, :cutoff], psi)
    return near if cutoff is None else torch.cat([near, ws[:, cutoff:]], dim=1)
