"""Pickles (G, D, Gs) in the format of NVIDIA's TensorFlow programs, written without those programs.

The original stores the source text of its networks in the file and executes it. It is not part of this package, so the
text is empty: programs that read the variables as data load the file, the TensorFlow programs themselves do not.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stylegan_ray.config import ConfigError, ModelConfig
from stylegan_ray.interop import tensorflow
from stylegan_ray.interop.native import PARTS, Networks
from stylegan_ray.interop.requirements import OURS, Written, precision_notes, require_parts, require_square
from stylegan_ray.interop.unpickler import Record

FORMAT = "a TensorFlow-format .pkl"
VERSION = 4
"""Of the state of a network in the original's files."""
FUNCS = {
    "stylegan2": ("G_main", "G_mapping", "G_synthesis_stylegan2", "D_stylegan2"),
    "revised": ("G_main", "G_mapping", "G_synthesis_stylegan_revised", "D_stylegan"),
    "stylegan1": ("G_style", "G_mapping", "G_synthesis", "D_basic"),
}
"""Functions of the original that build G, its mapping, its synthesis and D, by family."""
NETWORK_CLASS = b"cdnnlib.tflib.network\nNetwork\n"
"""The opcode that names the class of a network."""


def write(networks: Networks) -> Written:
    """The file; raises ConfigError by key for networks that the format cannot hold."""
    require_parts(networks, PARTS, FORMAT)
    G_model, D_model = networks.config.model, networks.D_model or networks.config.model
    require_square(networks.G.resolution, FORMAT)
    for model in (G_model, D_model):
        _refuse_labels_of_ada(model, networks.G.label_size)
    _refuse_dense_width(D_model, networks)
    records = (
        _generator("G", networks.G, G_model, networks.lod),
        _discriminator(networks.D, D_model, networks.lod),
        _generator("Gs", networks.G_ema, G_model, networks.lod),
    )
    content = b"\x80\x03" + b"".join(map(_pickled, records)) + b"\x87."  # a tuple of three
    notes = ("the file has no program text: NVIDIA's TensorFlow programs, which execute it, cannot load the file",)
    return Written(content, (*notes, *precision_notes([G_model, D_model])))


def _refuse_labels_of_ada(model: ModelConfig, label_size: int) -> None:
    if label_size and model.label_mode == "separate":
        raise ConfigError(f"model.label_mode=separate with labels cannot be stored in {FORMAT}; {OURS}")


def _refuse_dense_width(model: ModelConfig, networks: Networks) -> None:
    """StyleGAN2-ADA's dense layer is as wide as its block, the original's as the stage below it."""
    kwargs = _kwargs(networks.D, model, "D")
    with torch.device("meta"):
        like = tensorflow.build(tensorflow.full_name(FUNCS[model.family][3]), kwargs).state_dict()
    for name, value in networks.D.state_dict().items():
        if value.shape != like[name].shape:
            raise ConfigError(
                f"model.label_mode={model.label_mode}: {name} of D is {tuple(value.shape)}, and {FORMAT} assumes "
                f"{tuple(like[name].shape)}; {OURS}"
            )


def _generator(name: str, G: Any, model: ModelConfig, lod: float) -> Record:
    func, mapping, synthesis, _ = FUNCS[model.family]
    kwargs = _kwargs(G, model, "G")
    own, parts = _split(tensorflow.tf_variables(G))
    components = {
        "synthesis": _record("G_synthesis", synthesis, kwargs, {"lod": np.float32(lod)} | parts["synthesis"]),
        "mapping": _record("G_mapping", mapping, {"dlatent_broadcast": G.synthesis.num_ws} | kwargs, parts["mapping"]),
    }
    kwargs = kwargs | ({"synthesis_func": synthesis} if model.family == "revised" else {})
    return _record(name, func, kwargs, {"lod": np.float32(lod)} | own, components)


def _discriminator(D: Any, model: ModelConfig, lod: float) -> Record:
    variables = {"lod": np.float32(lod)} | tensorflow.tf_variables(D)
    return _record("D", FUNCS[model.family][3], _kwargs(D, model, "D"), variables)


def _split(variables: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A generator's own variables, and those of its components without their prefix."""
    own: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {"mapping": {}, "synthesis": {}}
    for name, value in variables.items():
        prefix, _, rest = name.partition("/")
        target = parts.get(prefix.removeprefix("G_")) if rest else None
        (own if target is None else target)[rest or name] = value
    return own, parts


def _kwargs(network: Any, model: ModelConfig, part: str) -> dict[str, Any]:
    """Keyword arguments of the original that build this network: its shape, and what is not the default."""
    kwargs = {
        "num_channels": network.num_channels, "resolution": network.resolution[0], "label_size": network.label_size,
    }  # fmt: skip
    return kwargs | tensorflow.build_kwargs(part, model)


def _record(
    name: str, func: str, kwargs: Mapping[str, Any], variables: Mapping[str, Any], components: Mapping | None = None
) -> Record:
    """The state of one network as the original stores it."""
    return Record(
        {"state": {
            "version": VERSION, "name": name, "static_kwargs": dict(kwargs), "components": dict(components or {}),
            "build_module_src": "", "build_func_name": func,
            "variables": [(key, np.array(value, np.float32, order="C")) for key, value in variables.items()],
        }}
    )  # fmt: skip


def _pickled(value: Any) -> bytes:
    """The opcodes that put a value on the stack: records by the name of their class, which is not needed here."""
    if isinstance(value, Record):
        return NETWORK_CLASS + b")\x81" + _pickled(value.state) + b"b"  # cls.__new__(cls), then its state
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, tuple):
        assert len(value) == 2, value
        return b"".join(map(_pickled, value)) + b"\x86"
    opcodes = pickle.dumps(value, protocol=3)[2:-1]  # without its first two bytes (protocol) and the last one (stop)
    return opcodes.replace(b"cnumpy._core.", b"cnumpy.core.", 1)  # the name that every version of numpy knows
