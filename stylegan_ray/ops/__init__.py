"""Image operations of the networks; each fast path stands beside the plain twin that defines it."""

from stylegan_ray.ops.activation import ACTIVATIONS, bias_act, bias_act_reference
from stylegan_ray.ops.convolution import (
    conv2d,
    conv2d_reference,
    conv_transpose2d,
    conv_transpose2d_reference,
    laid_out,
    laid_out_reference,
    penalised_gradients,
)
from stylegan_ray.ops.fir import downsample2d, filter2d, fir_filter, upfirdn2d, upfirdn2d_reference, upsample2d
from stylegan_ray.ops.modulated import modulated_conv2d, modulated_conv2d_reference
from stylegan_ray.ops.resample import conv2d_resample, conv2d_resample_reference

__all__ = [
    "ACTIVATIONS",
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
    "laid_out",
    "laid_out_reference",
    "modulated_conv2d",
    "modulated_conv2d_reference",
    "penalised_gradients",
    "upfirdn2d",
    "upfirdn2d_reference",
    "upsample2d",
]
