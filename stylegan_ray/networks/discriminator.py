"""The discriminator of StyleGAN2 (section 4.1, figure 7): resnet, skip or orig."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stylegan_ray.networks.layers import Conv, Dense, minibatch_stddev
from stylegan_ray.networks.mapping import Mapping, checked_labels
from stylegan_ray.networks.recompute import called
from stylegan_ray.networks.shapes import Size, is_lowp, level_name
from stylegan_ray.networks.synthesis import refuse_lod
from stylegan_ray.ops import downsample2d, fir_filter, to_memory_format


class DiscriminatorBlock(nn.Module):
    """One resolution: two convolutions, the second one downsampling, and the architecture's skip connection.

    Computes in `dtype` (None: the data type of the weights), and with `full_precision` in that of the weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_channels: int,
        *,
        architecture: str,
        act: str,
        taps: Sequence[float],
        is_first: bool,
        clamp: float | None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.dtype = dtype
        has_rgb = is_first or architecture == "skip"
        self.fromrgb = Conv(num_channels, in_channels, 1, act, clamp=clamp) if has_rgb else None
        self.conv0 = Conv(in_channels, in_channels, 3, act, clamp=clamp)
        self.conv1 = Conv(in_channels, out_channels, 3, act, down=2, taps=taps, clamp=clamp)
        resnet = architecture == "resnet"
        self.skip = Conv(in_channels, out_channels, 1, down=2, taps=taps, bias=False) if resnet else None

    def forward(self, x: Tensor | None, image: Tensor | None, full_precision: bool = False) -> Tensor:
        dtype = self.conv0.weight.dtype if full_precision or self.dtype is None else self.dtype
        x, image = (None if part is None else to_memory_format(part, dtype) for part in (x, image))
        x = add_rgb(x, image, self.fromrgb)
        if self.skip is None:
            return self.conv1(self.conv0(x))
        y = self.conv1(self.conv0(x), gain=0.5**0.5)
        return self.skip(x, gain=0.5**0.5) + y  # called last: its gradients come first, as in sums


class DiscriminatorEpilogue(nn.Module):
    """The last resolution: minibatch standard deviation, convolution, dense layers."""

    def __init__(
        self,
        in_channels: int,
        dense_width: int,
        out_features: int,
        size: Size,
        num_channels: int,
        *,
        architecture: str,
        act: str,
        mbstd_group_size: int | None,
        mbstd_num_features: int,
        clamp: float | None,
    ):
        super().__init__()
        if mbstd_num_features and in_channels % mbstd_num_features:
            raise ValueError(
                f"model.mbstd_num_features={mbstd_num_features} must divide the {in_channels} feature maps of the last "
                "resolution; try 1"
            )
        self.mbstd_group_size, self.mbstd_num_features = mbstd_group_size, mbstd_num_features
        self.fromrgb = Conv(num_channels, in_channels, 1, act) if architecture == "skip" else None
        self.conv = Conv(in_channels + mbstd_num_features, in_channels, 3, act, clamp=clamp)
        self.dense0 = Dense(in_channels * size[0] * size[1], dense_width, act)
        self.out = Dense(dense_width, out_features)

    def forward(self, x: Tensor | None, image: Tensor | None, num_batches: int = 1) -> Tensor:
        x = add_rgb(x, image, self.fromrgb)
        if self.mbstd_num_features:
            x = minibatch_stddev(x, self.mbstd_group_size, self.mbstd_num_features, num_batches)
        return self.out(self.dense0(self.conv(x).flatten(1)))  # [N,out]


class Discriminator(nn.Module):
    """images [N,C,H,W] (and labels [N,L]) -> logits [N,1].

    With labels the logit is the sum of outputs times label (`label_mode` joint), or of outputs times the mapped label
    divided by the root of its size (separate: projection, Miyato and Koyama 2018). `num_batches` equal batches may be
    concatenated: minibatch standard deviations do not mix them; mbstd_num_features 0 omits that layer. The highest
    `num_lowp_res` resolutions compute in `lowp_dtype`, unless `full_precision`.
    """

    taps: Tensor

    def __init__(
        self,
        sizes: Sequence[Size],
        widths: Sequence[int],
        num_channels: int,
        label_size: int,
        *,
        architecture: str = "resnet",
        act: str = "lrelu",
        taps: Sequence[float] = (1, 3, 3, 1),
        mbstd_group_size: int | None = 4,
        mbstd_num_features: int = 1,
        dense_width: int,
        mapping: Mapping | None = None,
        clamp: float | None = None,
        num_lowp_res: int = 0,
        lowp_dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__()
        self.sizes, self.resolution = list(sizes), sizes[-1]
        self.num_channels, self.label_size, self.architecture = num_channels, label_size, architecture
        options = {"architecture": architecture, "act": act, "clamp": clamp}
        for level in reversed(range(1, len(sizes))):
            is_first = level == len(sizes) - 1
            dtype = lowp_dtype if is_lowp(level, len(sizes), num_lowp_res) else None
            block = DiscriminatorBlock(
                widths[level + 1], widths[level], num_channels, taps=taps, is_first=is_first, dtype=dtype, **options
            )
            self.add_module(level_name(sizes[level]), block)
        self.register_buffer("taps", fir_filter(taps, separable=True), persistent=False)
        self.mapping = mapping
        out_features = max(label_size, 1) if mapping is None else mapping.w_dim
        epilogue = DiscriminatorEpilogue(
            widths[1], dense_width, out_features, sizes[0], num_channels, mbstd_group_size=mbstd_group_size,
            mbstd_num_features=mbstd_num_features, **options,
        )  # fmt: skip
        self.add_module(level_name(sizes[0]), epilogue)

    def layers(self) -> list[nn.Module]:
        """Layers above the last resolution, from the highest one: fromrgb, conv0, conv1 and skip, where it has them."""
        blocks = [self.get_submodule(level_name(size)) for size in reversed(self.sizes[1:])]
        found = [getattr(block, name) for block in blocks for name in ("fromrgb", "conv0", "conv1", "skip")]
        return [layer for layer in found if layer is not None]

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        lod: float = 0.0,
        num_batches: int = 1,
        full_precision: bool = False,
    ) -> Tensor:
        refuse_lod(lod)
        check_images(images, self.num_channels, self.resolution)
        labels = checked_labels(labels, self.label_size, images)
        x, image = None, images
        *blocks, epilogue = (self.get_submodule(level_name(size)) for size in reversed(self.sizes))
        for block in blocks:
            x = called(block, block, x, image, full_precision)
            image = downsample2d(image, self.taps) if image is not None and self.architecture == "skip" else None
        assert x is not None
        x = epilogue(to_memory_format(x, images.dtype), None if image is None else image.to(images.dtype), num_batches)
        return label_logit(x, labels, self.mapping)


def label_logit(x: Tensor, labels: Tensor | None, mapping: Mapping | None = None) -> Tensor:
    """Logits [N,1] from the outputs x [N,F] of the last layer."""
    if labels is None:
        return x
    if mapping is None:
        return (x * labels).sum(dim=1, keepdim=True)
    cmap = mapping(None, labels)  # [N,cmap]
    return (x * cmap).sum(dim=1, keepdim=True) / cmap.shape[1] ** 0.5


def add_rgb(x: Tensor | None, image: Tensor | None, fromrgb: nn.Module | None) -> Tensor:
    """x plus the features of the image, for a block with FromRGB."""
    if image is None or fromrgb is None:
        assert x is not None
        return x
    return fromrgb(image) if x is None else x + fromrgb(image)


def check_images(images: Tensor, num_channels: int, resolution: Size) -> None:
    if images.ndim != 4 or tuple(images.shape[1:]) != (num_channels, *resolution):
        raise ValueError(f"images {tuple(images.shape)} must be [N, {num_channels}, {resolution[0]}, {resolution[1]}]")
