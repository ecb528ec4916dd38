"""ONNX files of G_ema: `images` from `z`, with `labels` of a conditional network and truncation `psi` if given."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.interop.native import Networks
from stylegan_ray.interop.requirements import Written
from stylegan_ray.interop.torch_export import dynamic_shapes, example_inputs, sampling_program

OPSET = 20
LARGEST = 2**31
"""Bytes of a protobuf message, which an ONNX file is."""


def write(networks: Networks) -> Written:
    """The ONNX file; needs the extra `export`. Raises ConfigError without it, and for networks of 2 GB or more."""
    check_installed()
    program, notes = sampling_program(networks, "an ONNX file")
    if (size := sum(p.numel() * p.element_size() for p in program.parameters())) >= LARGEST:
        raise ConfigError(f"G_ema takes {size:,} bytes, and an ONNX file holds at most {LARGEST:,}; write .pt2")
    model = _trace(program)
    _make_optional(model, "psi", 1.0)
    _describe(model, networks)
    return Written(model.SerializeToString(), notes)


def check_installed() -> None:
    """Raises ConfigError without the packages of the extra `export`."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ConfigError(f".onnx needs {' and '.join(missing)}: pip install 'stylegan-ray[export]'")


def _trace(program: Any) -> Any:
    """The ONNX model of a program, with any number of samples; its inputs are all required."""
    inputs = example_inputs(program)
    with _quiet():
        exported = torch.onnx.export(
            program, tuple(inputs.values()), dynamo=True, opset_version=OPSET, input_names=list(inputs),
            output_names=["images"], dynamic_shapes=dynamic_shapes(inputs), verbose=False,
        )  # fmt: skip
    assert exported is not None
    return exported.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's report of its steps and of packages that it does not find."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _make_optional(model: Any, name: str, value: float) -> None:
    """Gives an input a default: an initializer of the same name (ONNX IR, "overridable initializers")."""
    from onnx import numpy_helper

    assert any(given.name == name for given in model.graph.input), name
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))


def _describe(model: Any, networks: Networks) -> None:
    """Names the program and its network in the file."""
    G = networks.G_ema
    model.producer_name, model.graph.name = "stylegan_ray", "G_ema"
    height, width = G.resolution
    model.doc_string = (
        f"StyleGAN2 generator: images [N,{G.num_channels},{height},{width}] from z [N,{G.z_dim}], standard normal; "
        "psi: truncation, 1 is off"
    )
