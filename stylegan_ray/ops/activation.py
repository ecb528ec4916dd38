"""Bias, activation, gain and clamp."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SQRT2 = 2.0**0.5


class Activation(NamedTuple):
    function: Callable[[Tensor, float], Tensor]
    alpha: float
    """Default slope."""
    gain: float
    """Default gain, which keeps unit variance."""


ACTIVATIONS = {
    "linear": Activation(lambda x, alpha: x, 0.0, 1.0),
    "relu": Activation(lambda x, alpha: F.relu(x), 0.0, SQRT2),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), 0.2, SQRT2),
    "tanh": Activation(lambda x, alpha: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, alpha: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, alpha: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, alpha: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, alpha: torch.sigmoid(x) * x, 0.0, SQRT2),
}
"""Activations by name, with the defaults of StyleGAN2 and StyleGAN2-ADA."""

HOMOGENEOUS = frozenset({"linear", "relu", "lrelu"})
"""act(g * x) = g * act(x) for g > 0, so a gain may be applied before them."""


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    overwrite: bool = False,
) -> Tensor:
    """clamp(act(x + b) * gain), with `b` along dimension `dim`; homogeneous activations apply the gain with the bias.

    `overwrite` allows the result to reuse the memory of x, whose value is lost then.
    """
    function, default_alpha, default_gain = ACTIVATIONS[act]
    alpha, gain = default_alpha if alpha is None else alpha, default_gain if gain is None else gain
    if act not in HOMOGENEOUS or gain <= 0:
        return bias_act_reference(x, b, dim, act, alpha, gain, clamp)
    if b is not None and gain == 1 and overwrite:
        x = x.add_(_along(b, dim, x.ndim))
    elif b is not None:
        x = torch.add(_along(b * gain, dim, x.ndim), x, alpha=gain)
    elif gain != 1:
        x = x * gain
    overwrite = overwrite or b is not None or gain != 1
    if act == "lrelu" and alpha > 0 and overwrite:  # in place, so that backward stores the result only
        x = F.leaky_relu(x, alpha, inplace=True)
    else:
        x = function(x, alpha)
    return x if clamp is None else x.clamp(-clamp, clamp)


def bias_act_reference(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """The definition of `bias_act`, step by step."""
    function, default_alpha, default_gain = ACTIVATIONS[act]
    if b is not None:
        x = x + _along(b, dim, x.ndim)
    x = function(x, default_alpha if alpha is None else alpha) * (default_gain if gain is None else gain)
    return x if clamp is None else x.clamp(-clamp, clamp)


def _along(b: Tensor, dim: int, ndim: int) -> Tensor:
    return b.reshape([-1 if i == dim else 1 for i in range(ndim)])
