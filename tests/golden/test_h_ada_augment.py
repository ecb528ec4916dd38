"""ADA's pipeline against StyleGAN2-ADA's: the same numbers give the same images.

With a percentile every parameter is that quantile of its distribution and every augmentation happens; else numbers are
those that the original drew, in the order of its calls. Tolerance: 2e-5 of the largest value (golden README).
"""

from contextlib import nullcontext

import pytest
import torch
from support.golden_checks import close

from stylegan_ray import ops
from stylegan_ray.augment import Numbers, Pipeline, Strengths

pytestmark = pytest.mark.golden

CALLS = {
    "xflip": ["xflip", "xflip?"],
    "rotate90": ["rotate90", "rotate90?"],
    "xint": ["xint.x xint.y", "xint?"],
    "scale": ["scale", "scale?"],
    "rotate": ["rotate.before", "rotate.before?"],
    "aniso": ["aniso", "aniso?"],
    "rotate (again)": ["rotate.after", "rotate.after?"],
    "xfrac": ["xfrac.x xfrac.y", "xfrac?"],
    "brightness": ["brightness", "brightness?"],
    "contrast": ["contrast", "contrast?"],
    "lumaflip": ["lumaflip", "lumaflip?"],
    "hue": ["hue", "hue?"],
    "saturation": ["saturation", "saturation?"],
    "imgfilter": [f"imgfilter.{band}{gate}" for band in range(4) for gate in ("", "?")],
    "noise": ["noise", "noise?", "NOISE"],
    "cutout": ["cutout?", "cutout.x cutout.y"],
}
"""What the original draws for each augmentation, call by call, in our names."""


def at_percentile(q, num):
    """Every number at a quantile; the original's normal quantiles lack a factor sqrt(2)."""
    full = lambda value: torch.full((num,), float(value), dtype=torch.float64)  # noqa: E731
    normal = torch.erfinv(torch.tensor(2 * q - 1, dtype=torch.float64))
    uniforms = {name: full(0 if name.endswith("?") else q) for name in Pipeline.uniforms}
    normals = {name: full(normal) for name in Pipeline.normals}
    uniforms["rotate.after"] = full(0.5)
    normals["noise"] = full(torch.erfinv(torch.tensor(q, dtype=torch.float64)))
    return Numbers(uniforms, normals)


def as_drawn(case, arrays, num):
    """The numbers that the original drew; and its noise."""
    names = [
        name
        for kind, calls in CALLS.items()
        if case["kwargs"].get(kind.split()[0]) and not (kind in ("hue", "saturation") and "gray" in case["input"])
        for name in calls
    ]
    uniforms = {name: torch.zeros(num, dtype=torch.float64) for name in Pipeline.uniforms}
    normals = {name: torch.zeros(num, dtype=torch.float64) for name in Pipeline.normals}
    drawn = sorted(key for key in arrays if key.startswith(f"draw:{case['key']}_"))
    assert len(drawn) == len(names)
    noise = None
    for call, key in zip(names, drawn, strict=True):
        values = torch.from_numpy(arrays[key])
        if call == "NOISE":
            noise = values
            continue
        target = normals if key.endswith("randn") else uniforms
        for name, column in zip(call.split(), values.reshape(num, -1).unbind(1), strict=True):
            assert name in target
            target[name] = column.double()
    return Numbers(uniforms, normals), noise


@pytest.mark.parametrize("way", [None, "resampled", "gathered"])
@pytest.mark.golden_files("h_ada_augment", "augment*.npz")
def test_images(golden, way):
    meta, arrays = golden
    for case in meta["cases"]:
        images = torch.from_numpy(arrays[f"in:{case['input']}"])
        num, *shape = images.shape
        kwargs = {key: tuple(value) if isinstance(value, list) else value for key, value in case["kwargs"].items()}
        pipeline = Pipeline(Strengths(**kwargs))
        if case["debug_percentile"] is None:
            numbers, noise = as_drawn(case, arrays, num)
        else:
            numbers = at_percentile(case["debug_percentile"], num)
            noise = torch.from_numpy(arrays[f"draw:{case['additive_noise']}"]) if "additive_noise" in case else None
        for fixed_shapes in (False, True):
            parameters = pipeline.parameters(numbers, case["p"], tuple(shape), fixed_shapes)
            parameters = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in parameters.items()}
            parameters |= {} if noise is None else {"noise": noise}
            with ops.forced(way) if way else nullcontext():
                close(pipeline.apply(images, parameters), arrays[f"out:{case['key']}"], 2e-5, case["key"])


@pytest.mark.golden_files("h_ada_augment", "augment*.npz")
def test_filters(golden):
    from stylegan_ray.augment.bands import filter_bank
    from stylegan_ray.ops.warp import SYM6

    _, arrays = golden
    close(torch.from_numpy(filter_bank()), arrays["buffers:Hz_fbank"], 1e-6, "filter bank")
    close(ops.fir_filter(SYM6), arrays["buffers:Hz_geom"], 1e-6, "sym6")
