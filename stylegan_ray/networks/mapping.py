"""The mapping network from z and label to w (StyleGAN, section 2)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stylegan_ray.networks.layers import Dense, normal


class Mapping(nn.Module):
    """Dense layers z [N,z] (and labels [N,L]) -> w [N,w].

    `label_mode` joint embeds the label linearly and normalizes it together with z (TensorFlow original); separate
    gives the embedding its own bias and normalization (StyleGAN2-ADA). With z_dim 0 the label alone is mapped. With
    `num_ws` the result is repeated for that many layers, [N,num_ws,w].
    """

    def __init__(
        self,
        z_dim: int,
        label_size: int,
        w_dim: int,
        *,
        num_layers: int = 8,
        hidden_dim: int = 512,
        embed_dim: int = 512,
        lrmul: float = 0.01,
        act: str = "lrelu",
        normalize: bool = True,
        label_mode: str = "joint",
        num_ws: int | None = None,
        weight_gain: float = 1.0,
        act_gain: float | None = None,
        use_wscale: bool = True,
    ):
        super().__init__()
        self.z_dim, self.label_size, self.w_dim = z_dim, label_size, w_dim
        self.num_layers, self.normalize, self.label_mode, self.num_ws = num_layers, normalize, label_mode, num_ws
        embed_dim = 0 if label_size == 0 else z_dim if label_mode == "joint" else embed_dim
        if label_size and label_mode == "joint":
            self.label_weight = nn.Parameter(normal(embed_dim, label_size))  # no equalized learning rate
        elif label_size:
            self.embed = Dense(label_size, embed_dim)
        widths = [z_dim + embed_dim, *[hidden_dim] * (num_layers - 1), w_dim]
        for i, (wide, narrow) in enumerate(pairwise(widths)):
            layer = Dense(
                wide, narrow, act, lrmul=lrmul, weight_gain=weight_gain, act_gain=act_gain, use_wscale=use_wscale
            )
            self.add_module(f"dense{i}", layer)

    def forward(self, z: Tensor | None, labels: Tensor | None = None) -> Tensor:
        x = self._joint(z, labels) if self.label_mode == "joint" else self._separate(z, labels)
        for i in range(self.num_layers):
            x = self.get_submodule(f"dense{i}")(x)
        return x if self.num_ws is None else x[:, None].expand(-1, self.num_ws, -1)

    def _joint(self, z: Tensor | None, labels: Tensor | None) -> Tensor:
        assert z is not None
        labels = checked_labels(labels, self.label_size, z)
        if labels is not None:
            z = torch.cat([z, labels @ self.label_weight.t()], dim=1)  # [N,2z]
        return unit_power(z) if self.normalize else z

    def _separate(self, z: Tensor | None, labels: Tensor | None) -> Tensor:
        parts = [z] if z is not None and self.z_dim else []
        if self.label_size:
            parts.append(self.embed(checked_labels(labels, self.label_size, self.embed.weight)))
        return torch.cat([unit_power(part) if self.normalize else part for part in parts], dim=1)


def unit_power(x: Tensor) -> Tensor:
    """x scaled to a mean square of one over features."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def checked_labels(labels: Tensor | None, label_size: int, like: Tensor) -> Tensor | None:
    """The labels in the data type of `like`, None for a network without labels; raises ValueError for a wrong size."""
    given = None if labels is None else labels.shape[1]
    if label_size == 0 and not given:
        return None
    if given != label_size:
        what = "no labels were" if given is None else f"labels of {given} numbers were"
        raise ValueError(f"this network was built for labels of {label_size} numbers (label_size), but {what} given")
    return labels.to(like.dtype)  # type: ignore[union-attr]
