"""The two builders: the only readers of the configuration in this folder."""

from __future__ import annotations

from collections.abc import Sequence

from stylegan_ray.config import ModelConfig
from stylegan_ray.networks.discriminator import Discriminator
from stylegan_ray.networks.generator import Generator
from stylegan_ray.networks.mapping import Mapping
from stylegan_ray.networks.shapes import feature_maps, level_sizes
from stylegan_ray.networks.synthesis import Synthesis

BOX = (1.0, 1.0)
"""The filter of `resample_kernel: null`: nearest neighbour up, mean of 2x2 down."""


def build_generator(cfg: ModelConfig, resolution: int | Sequence[int], num_channels: int, label_size: int) -> Generator:
    """A new generator; its initial values come from torch's global generator."""
    synthesis = build_synthesis(cfg, resolution, num_channels)
    return Generator(build_mapping(cfg, label_size), synthesis)


def build_mapping(cfg: ModelConfig, label_size: int, num_ws: int | None = None) -> Mapping:
    """The mapping network of G."""
    return Mapping(
        cfg.z_dim, label_size, cfg.w_dim, num_layers=cfg.mapping_layers, hidden_dim=cfg.mapping_fmaps,
        embed_dim=cfg.mapping_embed or cfg.w_dim, lrmul=cfg.mapping_lrmul, act=cfg.mapping_nonlinearity,
        normalize=cfg.normalize_latents, label_mode=cfg.label_mode, num_ws=num_ws,
    )  # fmt: skip


def build_synthesis(cfg: ModelConfig, resolution: int | Sequence[int], num_channels: int) -> Synthesis:
    """The synthesis network of G."""
    sizes = level_sizes(resolution)
    return Synthesis(
        sizes, _widths(cfg, len(sizes)), cfg.w_dim, num_channels, architecture=cfg.G_architecture,
        act=cfg.nonlinearity, taps=cfg.resample_kernel or BOX, use_noise=cfg.use_noise, clamp=cfg.conv_clamp,
        grouped=cfg.fused_modconv == "grouped",
    )  # fmt: skip


def build_discriminator(
    cfg: ModelConfig, resolution: int | Sequence[int], num_channels: int, label_size: int
) -> Discriminator:
    """A new discriminator; its initial values come from torch's global generator."""
    sizes = level_sizes(resolution)
    widths = _widths(cfg, len(sizes))
    separate = cfg.label_mode == "separate"
    return Discriminator(
        sizes, widths, num_channels, label_size, architecture=cfg.D_architecture, act=cfg.nonlinearity,
        taps=cfg.resample_kernel or BOX, mbstd_group_size=cfg.mbstd_group_size,
        mbstd_num_features=_mbstd_features(cfg), clamp=cfg.conv_clamp, dense_width=widths[1] if separate else widths[0],
        mapping=_label_mapping(cfg, label_size, cfg.cmap_dim or widths[1]) if separate and label_size else None,
    )  # fmt: skip


def _mbstd_features(cfg: ModelConfig) -> int:
    """Feature maps of the minibatch standard deviation layer; 0: no layer."""
    off = (0,) if cfg.label_mode == "separate" else (0, 1)  # the PyTorch port keeps the layer for groups of one
    return 0 if cfg.mbstd_group_size in off else cfg.mbstd_num_features


def _label_mapping(cfg: ModelConfig, label_size: int, cmap_dim: int) -> Mapping:
    return Mapping(
        0, label_size, cmap_dim, num_layers=cfg.D_mapping_layers, hidden_dim=cmap_dim, embed_dim=cmap_dim,
        lrmul=cfg.mapping_lrmul, act=cfg.mapping_nonlinearity, label_mode="separate",
    )  # fmt: skip


def _widths(cfg: ModelConfig, num_levels: int) -> list[int]:
    return feature_maps(num_levels + 1, cfg.fmap_base, cfg.fmap_decay, cfg.fmap_min, cfg.fmap_max)
