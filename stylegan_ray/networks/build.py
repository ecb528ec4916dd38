"""Builders of networks; no other module of this folder reads the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stylegan_ray.config import ModelConfig
from stylegan_ray.networks.discriminator import Discriminator, DiscriminatorBlock, DiscriminatorEpilogue
from stylegan_ray.networks.generator import Generator
from stylegan_ray.networks.growing import GrowingDiscriminator, GrowingSynthesis
from stylegan_ray.networks.mapping import Mapping
from stylegan_ray.networks.shapes import Size, feature_maps, level_sizes
from stylegan_ray.networks.stylegan1 import SQRT2, Style1Block, Style1DiscriminatorBlock, Style1Epilogue
from stylegan_ray.networks.synthesis import Synthesis, SynthesisBlock

BOX = (1.0, 1.0)
"""The filter of `resample_kernel: null`: nearest neighbor upsampling, 2x2 mean downsampling."""


def build_generator(cfg: ModelConfig, resolution: int | Sequence[int], num_channels: int, label_size: int) -> Generator:
    """A new generator, initialized from torch's global random generator.

    `resolution` is one side or (H, W); raises ValueError for one that `level_sizes` refuses.
    """
    synthesis = build_synthesis(cfg, resolution, num_channels)
    return Generator(build_mapping(cfg, label_size), synthesis)


def build_mapping(cfg: ModelConfig, label_size: int, num_ws: int | None = None) -> Mapping:
    """A new mapping network of G; with `num_ws` it returns one w per layer."""
    gains = {"weight_gain": SQRT2, "act_gain": 1.0, "use_wscale": cfg.use_wscale} if cfg.family == "stylegan1" else {}
    return Mapping(
        cfg.z_dim, label_size, cfg.w_dim, num_layers=cfg.mapping_layers, hidden_dim=cfg.mapping_fmaps,
        embed_dim=cfg.mapping_embed or cfg.w_dim, lrmul=cfg.mapping_lrmul, act=cfg.mapping_nonlinearity,
        normalize=cfg.normalize_latents, label_mode=cfg.label_mode, num_ws=num_ws, **gains,
    )  # fmt: skip


def build_synthesis(
    cfg: ModelConfig, resolution: int | Sequence[int], num_channels: int
) -> Synthesis | GrowingSynthesis:
    """A new synthesis network of G."""
    sizes = level_sizes(resolution)
    widths = _widths(cfg, len(sizes))
    if cfg.family == "stylegan1":
        blocks = _style1_blocks(cfg, sizes, widths, num_channels)
        return GrowingSynthesis(sizes, blocks, cfg.w_dim, num_channels)
    options = {
        "act": cfg.nonlinearity, "taps": cfg.resample_kernel or BOX, "use_noise": cfg.use_noise,
        "clamp": cfg.conv_clamp, "grouped": cfg.fused_modconv == "grouped",
    }  # fmt: skip
    if cfg.family == "stylegan2":
        return Synthesis(
            sizes, widths, cfg.w_dim, num_channels, architecture=cfg.G_architecture, **options, **_low_precision(cfg)
        )
    blocks = [
        SynthesisBlock(
            level, size, widths[level], widths[level + 1], cfg.w_dim, num_channels, architecture="skip", is_last=False,
            **options,
        )
        for level, size in enumerate(sizes)
    ]  # fmt: skip
    return GrowingSynthesis(sizes, blocks, cfg.w_dim, num_channels)


def build_discriminator(
    cfg: ModelConfig, resolution: int | Sequence[int], num_channels: int, label_size: int
) -> Discriminator | GrowingDiscriminator:
    """A new discriminator, initialized from torch's global random generator; `resolution` as for G."""
    sizes = level_sizes(resolution)
    widths = _widths(cfg, len(sizes))
    separate = cfg.label_mode == "separate"
    if cfg.family != "stylegan2":
        if separate:
            raise ValueError(f"model.label_mode=separate needs model.family=stylegan2, not {cfg.family}; use joint")
        blocks = _style1_discriminator if cfg.family == "stylegan1" else _revised_discriminator
        return GrowingDiscriminator(
            sizes, blocks(cfg, sizes, widths, num_channels, label_size), num_channels, label_size
        )
    return Discriminator(
        sizes, widths, num_channels, label_size, architecture=cfg.D_architecture, act=cfg.nonlinearity,
        taps=cfg.resample_kernel or BOX, mbstd_group_size=cfg.mbstd_group_size,
        mbstd_num_features=_mbstd_features(cfg), clamp=cfg.conv_clamp, dense_width=widths[1] if separate else widths[0],
        mapping=_label_mapping(cfg, label_size, cfg.cmap_dim or widths[1]) if separate and label_size else None,
        **_low_precision(cfg),
    )  # fmt: skip


def _style1_blocks(cfg: ModelConfig, sizes: list[Size], widths: list[int], num_channels: int) -> list[nn.Module]:
    return [
        Style1Block(
            level, size, widths[level], widths[level + 1], cfg.w_dim, num_channels, act=cfg.nonlinearity,
            blur=cfg.blur_filter, fused_scale=cfg.fused_scale, const_input_layer=cfg.const_input_layer,
            use_wscale=cfg.use_wscale, use_noise=cfg.use_noise, use_pixel_norm=cfg.use_pixel_norm,
            use_instance_norm=cfg.use_instance_norm, use_styles=cfg.use_styles,
        )
        for level, size in enumerate(sizes)
    ]  # fmt: skip


def _revised_discriminator(
    cfg: ModelConfig, sizes: list[Size], widths: list[int], num_channels: int, label_size: int
) -> list[nn.Module]:
    options = {"architecture": "skip", "act": cfg.nonlinearity, "clamp": cfg.conv_clamp}
    taps = cfg.resample_kernel or BOX
    blocks: list[nn.Module] = [
        DiscriminatorBlock(widths[level + 1], widths[level], num_channels, taps=taps, is_first=False, **options)
        for level in reversed(range(1, len(sizes)))
    ]
    epilogue = DiscriminatorEpilogue(
        widths[1], widths[0], max(label_size, 1), sizes[0], num_channels, mbstd_group_size=cfg.mbstd_group_size,
        mbstd_num_features=_mbstd_features(cfg), **options,
    )  # fmt: skip
    return [*blocks, epilogue]


def _style1_discriminator(
    cfg: ModelConfig, sizes: list[Size], widths: list[int], num_channels: int, label_size: int
) -> list[nn.Module]:
    options = {"act": cfg.nonlinearity, "use_wscale": cfg.use_wscale}
    blocks: list[nn.Module] = [
        Style1DiscriminatorBlock(
            sizes[level], widths[level + 1], widths[level], num_channels, blur=cfg.blur_filter,
            fused_scale=cfg.fused_scale, **options,
        )
        for level in reversed(range(1, len(sizes)))
    ]  # fmt: skip
    epilogue = Style1Epilogue(
        sizes[0], widths[1], widths[0], max(label_size, 1), num_channels, mbstd_group_size=cfg.mbstd_group_size,
        mbstd_num_features=_mbstd_features(cfg), **options,
    )  # fmt: skip
    return [*blocks, epilogue]


def _mbstd_features(cfg: ModelConfig) -> int:
    """Number of maps that the minibatch standard deviation layer adds; 0: no layer."""
    off = (0,) if cfg.label_mode == "separate" else (0, 1)  # StyleGAN2-ADA keeps the layer for groups of one
    return 0 if cfg.mbstd_group_size in off else cfg.mbstd_num_features


def _low_precision(cfg: ModelConfig) -> dict[str, Any]:
    return {"num_lowp_res": cfg.num_lowp_res, "lowp_dtype": getattr(torch, cfg.lowp_dtype)}


def _label_mapping(cfg: ModelConfig, label_size: int, cmap_dim: int) -> Mapping:
    return Mapping(
        0, label_size, cmap_dim, num_layers=cfg.D_mapping_layers, hidden_dim=cmap_dim, embed_dim=cmap_dim,
        lrmul=cfg.mapping_lrmul, act=cfg.mapping_nonlinearity, label_mode="separate",
    )  # fmt: skip


def _widths(cfg: ModelConfig, num_levels: int) -> list[int]:
    return feature_maps(num_levels + 1, cfg.fmap_base, cfg.fmap_decay, cfg.fmap_min, cfg.fmap_max)
