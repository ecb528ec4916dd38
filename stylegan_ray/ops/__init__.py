"""Image operations of the networks; each fast path stands beside the plain twin that defines it."""

from stylegan_ray.ops.activation import ACTIVATIONS, bias_act, bias_act_reference
from stylegan_ray.ops.fir import downsample2d, filter2d, fir_filter, upfirdn2d, upfirdn2d_reference, upsample2d
from stylegan_ray.ops.modulated import modulated_conv2d, modulated_conv2d_reference
from stylegan_ray.ops.resample import conv2d_resample, conv2d_resample_reference

__all__ = [
    "ACTIVATIONS",
    "bias_act",
    "bias_act_reference",
    "conv2d_resample",
    "conv2d_resample_reference",
    "downsample2d",
    "filter2d",
    "fir_filter",
    "modulated_conv2d",
    "modulated_conv2d_reference",
    "upfirdn2d",
    "upfirdn2d_reference",
    "upsample2d",
]
