"""The operations against StyleGAN2-ADA's reference code path: values, gradients, second derivatives.

Tolerance: 2e-5 of the largest value for values, 1e-4 for gradients, 3e-4 for second derivatives (golden README).
"""

import numpy as np
import pytest
import torch

from stylegan_ray import ops

pytestmark = pytest.mark.golden


def close(actual, expected, tolerance):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-6))


@pytest.mark.golden_files("h_ada_ops", "upfirdn2d*.npz")
def test_fir_operations(golden):
    meta, arrays = golden
    for case in meta["cases"]:
        if case["op"] == "setup_filter":
            kwargs = {{"flip_filter": "flip"}.get(key, key): value for key, value in case["kwargs"].items()}
            actual = ops.fir_filter(case["f"], **kwargs)
            close(actual, arrays[f"out:{case['key']}"], 2e-5)
            continue
        x = torch.tensor(arrays[case.get("x", "in:x")], requires_grad=True)
        f = None if case["filter"] == "none" else torch.tensor(arrays[f"filter:{case['filter']}"])
        y = getattr(ops, case["op"])(x, f, **case["kwargs"])
        close(y, arrays[f"out:{case['key']}"], 2e-5)
        if f"out:{case['key']}_gradout" not in arrays:
            continue
        (dx,) = torch.autograd.grad(y, x, torch.tensor(arrays[f"out:{case['key']}_gradout"]))
        close(dx, arrays[f"out:{case['key']}_dx"], 1e-4)


@pytest.mark.golden_files("h_ada_ops", "conv2d_resample*.npz")
def test_conv2d_resample(golden):
    meta, arrays = golden
    for case in meta["cases"]:
        x, w = torch.tensor(arrays[case["x"]]), torch.tensor(arrays[case["w"]])
        f = None if case["filter"] == "none" else torch.tensor(arrays[f"filter:{case['filter']}"])
        for op in (ops.conv2d_resample, ops.conv2d_resample_reference):
            close(op(x, w, f, **case["kwargs"]), arrays[f"out:{case['key']}_y"], 2e-5)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.golden_files("h_ada_ops", "modulated_conv2d*.npz")
def test_modulated_conv2d(golden, grouped):
    meta, arrays = golden
    f = ops.fir_filter([1, 3, 3, 1])
    for case in meta["cases"]:
        out = {key.split("_")[-1]: array for key, array in arrays.items() if key.startswith(f"out:{case['key']}_")}
        x, w, s = (torch.tensor(out[name], requires_grad=True) for name in ("x", "w", "s"))
        noise = torch.tensor(out["noise"]) if case["noise"] else None
        y = ops.modulated_conv2d(x, w, s, noise, resample_filter=f, grouped=grouped, **case["kwargs"])
        close(y, out["y"], 2e-5)
        gradients = torch.autograd.grad(y, (x, w, s), torch.tensor(out["gradout"]))
        for name, gradient in zip(("dx", "dw", "ds"), gradients, strict=True):
            close(gradient, out[name], 1e-4)


@pytest.mark.golden_files("h_ada_ops", "bias_act*.npz")
def test_bias_act(golden):
    meta, arrays = golden
    for case in meta["cases"]:
        key = f"out:{case['key']}_"
        x, b = (torch.tensor(arrays.get(key + name, arrays[f"in:{name}"]), requires_grad=True) for name in ("x", "b"))
        g, v = torch.tensor(arrays["in:gradout"], requires_grad=True), torch.tensor(arrays["in:v"])
        y = ops.bias_act(x, b, dim=case["dim"], act=case["act"], **case["kwargs"])
        close(y, arrays[key + "y"], 2e-5)
        if key + "dx" not in arrays:
            continue
        dx, db = torch.autograd.grad(y, (x, b), g, create_graph=True)
        close(dx, arrays[key + "dx"], 1e-4)
        close(db, arrays[key + "db"], 1e-4)
        d2x, d2g = torch.autograd.grad((dx * v).sum(), (x, g), allow_unused=True)
        close(torch.zeros_like(x) if d2x is None else d2x, arrays[key + "d2x"], 3e-4)
        close(d2g, arrays[key + "d2g"], 3e-4)
