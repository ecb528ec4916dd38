"""What golden tests of training share: micro-batches with given reals, gradients by the original's variable names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from stylegan_ray.train.state import Batch

Variables = Mapping[str, np.ndarray]
Load = Callable[[Variables], nn.Module]
"""Imports a network of the original from its variables."""


@dataclass(frozen=True)
class FloatBatch(Batch):
    """A micro-batch whose reals are given as D sees them."""

    def as_D_sees(self) -> Tensor:
        return self.images.clone()


def read(path: Path):
    """The meta data and the arrays of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        return json.loads(str(file["meta"])), arrays


def under(arrays: Variables, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def close(ours: Tensor, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Fails when a value is further away than the tolerance times the largest expected one."""
    scale = max(float(np.abs(expected).max()), 1e-6)
    np.testing.assert_allclose(ours.detach().numpy(), expected, atol=tolerance * scale, rtol=0, err_msg=what)


def landings(load: Load, variables: Variables, names: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Where importing puts variables: by name, for each of our tensors that takes a variable in, a mask of its places.

    Importing moves values and adds to them, so that values that number the variables show where each one went.
    """
    number = {name: i for i, name in enumerate(names, start=1)}
    marked, base = (
        load({**variables, **{name: np.full_like(variables[name], i * times) for name, i in number.items()}})
        for times in (1, 0)
    )
    before = base.state_dict()
    found = {key: (value - before[key]).round() for key, value in marked.state_dict().items()}
    places = {
        name: {key: where == i for key, where in found.items() if (where == i).any()} for name, i in number.items()
    }
    for name, own in places.items():
        assert own, f"importing puts {name} nowhere"
    return places


def norm_of(grads: Mapping[str, Tensor]) -> float:
    """Norm of the whole gradient."""
    return float(sum(grad.square().sum() for grad in grads.values())) ** 0.5


def check_norm(grads: Mapping[str, Tensor], expected: np.ndarray, tolerance: float, what: str) -> None:
    """Fails when the whole-gradient norm differs by more than the tolerance, relative."""
    norm = norm_of(grads)
    assert abs(norm - float(expected)) <= tolerance * norm, f"gradient norm of {what}"


def check_gradients(
    grads: Mapping[str, Tensor], given: Variables, load: Load, variables: Variables, tolerance: float, what: str
) -> None:
    """Compares the given gradients with ours, relative to the largest element or, if larger, to the RMS over G or D.

    A variable's gradient is that of the parameter it is imported into, laid out the same way.
    """
    rms = norm_of(grads) / sum(grad.numel() for grad in grads.values()) ** 0.5
    like, base = (
        load({**variables, **values}).state_dict()
        for values in (given, {name: np.zeros_like(value) for name, value in given.items()})
    )  # their difference is free of what importing adds
    for name, places in landings(load, variables, given).items():
        for key, where in places.items():
            target = (like[key] - base[key])[where]
            scale = max(float(target.abs().max()), rms)
            assert (grads[key][where] - target).abs().max() <= tolerance * scale, (what, name)
