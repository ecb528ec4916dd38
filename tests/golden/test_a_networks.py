"""Networks of configurations E and F against the TensorFlow original: values and gradients.

Tolerance: 2e-5 of the largest value for values, 1e-4 for gradients (golden README).
"""

import numpy as np
import pytest
import torch
from support import ways

from stylegan_ray.interop.tensorflow import network_from_tf, truncation
from stylegan_ray.networks import mix_styles

pytestmark = pytest.mark.golden


def close(actual, expected, tolerance):
    actual = actual.detach().numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def part(arrays, group):
    return {name.removeprefix(f"{group}:"): array for name, array in arrays.items() if name.startswith(f"{group}:")}


def imported(meta, arrays):
    return network_from_tf(meta["func"], meta["build_kwargs"], part(arrays, "var"))


def tensors(arrays, *names, requires_grad=False):
    return [torch.tensor(arrays[f"in:{name}"], requires_grad=requires_grad) for name in names]


@pytest.mark.golden_files("a_mapping", "*.npz")
def test_mapping(golden):
    meta, arrays = golden
    mapping = imported(meta, arrays)
    close(mapping(*tensors(arrays, "latents", "labels")), arrays["out:dlatents"], 2e-5)


@ways.every("networks_compiled")
@pytest.mark.golden_files("a_synthesis", "*.npz")
def test_synthesis(golden, way):
    meta, arrays = golden
    synthesis = way(imported(meta, arrays))
    (ws,) = tensors(arrays, "dlatents", requires_grad=True)
    images = synthesis(ws, noise="const")
    close(images, arrays["out:images"], 2e-5)
    (grad,) = torch.autograd.grad(images, ws, *tensors(arrays, "grad_noise"))
    close(grad, arrays["out:grad_dlatents"], 1e-4)


@ways.every("networks_compiled")
@pytest.mark.golden_files("a_discriminator", "*.npz")
def test_discriminator(golden, way):
    meta, arrays = golden
    discriminator = way(imported(meta, arrays))
    outs = part(arrays, "out")
    for name in outs:
        num = int(name.split("_b")[1].split("_")[0])
        (images,) = tensors(arrays, "images", requires_grad=True)
        scores = discriminator(images[:num], *[labels[:num] for labels in tensors(arrays, "labels")])
        if name.startswith("scores"):
            close(scores, outs[name], 2e-5)
        else:
            (grad,) = torch.autograd.grad(scores.sum(), images)
            close(grad[: len(outs[name])], outs[name], 1e-4)


@ways.every("networks_compiled")
@pytest.mark.golden_files("a_gmain", "*.npz")
def test_generator(golden, way):
    meta, arrays = golden
    G, outs = way(imported(meta, arrays)), part(arrays, "out")
    z, labels, z2 = tensors(arrays, "latents", "labels", "latents2")
    w, second, num_ws = G.mapping(z, labels), G.mapping(z2, labels), G.synthesis.num_ws
    for run in meta["runs"]:
        name, kwargs = run["name"], run["run_kwargs"]
        if not kwargs.get("is_training"):
            psi, cutoff = truncation(meta["func"], kwargs)
            close(G(z, labels, psi=psi, cutoff=cutoff), outs[name], 2e-5)
            continue
        settings = {"style_mixing_prob": 0.9, "dlatent_avg_beta": 0.995, **run, **kwargs}
        mixes = settings.get("mixing_uniform_draw", 1.0) < settings["style_mixing_prob"]
        ws = mix_styles(w, second, settings["mixing_randint_draw"] if mixes else num_ws, num_ws)
        close(G.synthesis(ws, noise="const"), outs[f"{name}_images"], 2e-5)
        if f"{name}_dlatents" in outs:
            close(ws, outs[f"{name}_dlatents"], 2e-5)
        w_avg = torch.lerp(w.mean(dim=0), G.w_avg, settings["dlatent_avg_beta"])
        close(w_avg, outs[f"{name}_dlatent_avg_after"], 2e-5)
