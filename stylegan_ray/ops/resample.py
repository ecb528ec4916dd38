"""Convolution with FIR up- or downsampling around it (StyleGAN2, appendix B: filtered resampling)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stylegan_ray.ops.convolution import conv2d, conv_transpose2d, widened
from stylegan_ray.ops.fir import Pads, filter_size, four_pads, upfirdn2d, upfirdn2d_reference


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """Upsamples, pads, convolves with `w` [O,I/groups,kh,kw] and downsamples; `padding` counts upsampled pixels.

    Computes the cross-correlation, or the true convolution if `flip_weight` is False, the orientation in which a
    transposed convolution needs no flip. Runs the cheapest order of steps that equals the plain twin.
    """
    pads, dtype = resampling_pads(f, up, down, padding), x.dtype
    if up > 1 or down > 1:  # widened once: filter and convolution would both round what passes between them
        x, w, bias = widened(x), widened(w), None if bias is None else widened(bias)
        return _resampled(x, w, f, up, down, pads, groups, flip_weight, flip_filter, bias).to(dtype)
    if pads[0] == pads[1] >= 0 and pads[2] == pads[3] >= 0:
        return conv2d(x, _correlated(w, flip_weight), bias, padding=(pads[2], pads[0]), groups=groups)
    return conv2d_resample_reference(x, w, f, up, down, padding, groups, flip_weight, flip_filter, bias)


def conv2d_resample_reference(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """The definition of `conv2d_resample`: filter the upsampled image, convolve, filter again and downsample."""
    pads = resampling_pads(f, up, down, padding)
    filter_up, filter_down = (f if n > 1 else None for n in (up, down))
    x = upfirdn2d_reference(x, filter_up, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    x = conv2d(x, _correlated(w, flip_weight), groups=groups)
    return _biased(upfirdn2d_reference(x, filter_down, down=down, flip_filter=flip_filter), bias)


def resampling_pads(f: Tensor | None, up: int, down: int, padding: int | Sequence[int]) -> Pads:
    """Padding of the upsampled image, including what the resampling filters need."""
    x0, x1, y0, y1 = four_pads(padding)
    fw, fh = filter_size(f)
    if up > 1:
        x0, x1, y0, y1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2, y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2
        y0, y1 = y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2
    return x0, x1, y0, y1


def _resampled(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: Pads,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
    bias: Tensor | None,
) -> Tensor:
    """Filter and convolution in the cheapest order."""
    is_point = w.shape[2:] == (1, 1)
    if up == 1:
        if is_point:
            x = upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter)
            return conv2d(x, w, bias, groups=groups)
        x = upfirdn2d(x, f, padding=pads, flip_filter=flip_filter)
        return conv2d(x, _correlated(w, flip_weight), bias, stride=down, groups=groups)
    if is_point and down == 1:
        x = conv2d(x, w, groups=groups)
        x = upfirdn2d(x, f, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    else:
        x = _transposed(x, w, f, up, down, pads, groups, flip_weight, flip_filter)
    return _biased(x, bias)


def _transposed(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pads: Pads,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> Tensor:
    """The transposed convolution first, on fewer pixels, then the filter."""
    kh, kw = w.shape[2:]
    if groups > 1:
        w = w.reshape(groups, -1, *w.shape[1:]).transpose(1, 2).flatten(0, 1)  # [I,O/groups,kh,kw]
    else:
        w = w.transpose(0, 1)  # [I,O,kh,kw]
    w = w.flip((2, 3)) if flip_weight else w
    x0, x1, y0, y1 = pads[0] - (kw - 1), pads[1] - (kw - up), pads[2] - (kh - 1), pads[3] - (kh - up)
    crop_x, crop_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    x = conv_transpose2d(x, w, stride=up, padding=(crop_y, crop_x), groups=groups)
    pads = (x0 + crop_x, x1 + crop_x, y0 + crop_y, y1 + crop_y)
    x = upfirdn2d(x, f, padding=pads, gain=up**2, flip_filter=flip_filter)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x


def _correlated(w: Tensor, flip_weight: bool) -> Tensor:
    return w if flip_weight else w.flip((2, 3))


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias[:, None, None]
