"""Image operations of the networks; beside each fast path is the plain twin that defines it.

`forced(way)` selects one way of computing them, for tests and benchmarks.
"""

from stylegan_ray.ops.activation import ACTIVATIONS, bias_act, bias_act_reference
from stylegan_ray.ops.convolution import (
    conv2d,
    conv2d_reference,
    conv_transpose2d,
    conv_transpose2d_reference,
    is_penalized,
    penalized_gradients,
    to_memory_format,
    to_memory_format_reference,
)
from stylegan_ray.ops.fir import downsample2d, filter2d, fir_filter, upfirdn2d, upfirdn2d_reference, upsample2d
from stylegan_ray.ops.modulated import modulated_conv2d, modulated_conv2d_reference
from stylegan_ray.ops.resample import conv2d_resample, conv2d_resample_reference
from stylegan_ray.ops.warp import sample2d, sample2d_reference, warp2d, warp2d_reference, warp_margin
from stylegan_ray.ops.ways import Way, forced

__all__ = [
    "ACTIVATIONS",
    "Way",
    "bias_act",
    "bias_act_reference",
    "conv2d",
    "conv2d_reference",
    "conv2d_resample",
    "conv2d_resample_reference",
    "conv_transpose2d",
    "conv_transpose2d_reference",
    "downsample2d",
    "filter2d",
    "fir_filter",
    "forced",
    "is_penalized",
    "modulated_conv2d",
    "modulated_conv2d_reference",
    "penalized_gradients",
    "sample2d",
    "sample2d_reference",
    "to_memory_format",
    "to_memory_format_reference",
    "upfirdn2d",
    "upfirdn2d_reference",
    "upsample2d",
    "warp2d",
    "warp2d_reference",
    "warp_margin",
]
