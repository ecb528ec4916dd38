"""Growing networks (configurations A to D) against the TensorFlow originals, at every lod.

Tolerance: 2e-5 of the largest value for values, 1e-4 for gradients (golden README).
"""

import numpy as np
import pytest
import torch
from support import ways

from stylegan_ray.interop.tensorflow import network_from_tf, truncation
from stylegan_ray.networks import mix_styles

pytestmark = pytest.mark.golden


def close(actual, expected, tolerance=2e-5):
    actual = actual.detach().numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def part(arrays, group):
    return {name.removeprefix(f"{group}:"): array for name, array in arrays.items() if name.startswith(f"{group}:")}


def imported(meta, arrays):
    return network_from_tf(meta["func"], meta["build_kwargs"], part(arrays, "var"))


def tensors(arrays, *names):
    return [torch.tensor(arrays[f"in:{name}"]) for name in names]


def check_mapping(meta, arrays):
    close(imported(meta, arrays)(*tensors(arrays, "latents", "labels")), arrays["out:dlatents"])


def check_synthesis(meta, arrays):
    synthesis = imported(meta, arrays)
    for name, expected in part(arrays, "out").items():
        close(synthesis(*tensors(arrays, "dlatents"), lod=float(name.removeprefix("images_lod"))), expected)


def check_discriminator(meta, arrays):
    discriminator = imported(meta, arrays)
    images, labels = tensors(arrays, "images", "labels")
    images.requires_grad_()
    for name, expected in part(arrays, "out").items():
        lod = float(name.split("_lod")[1].split("_")[0])
        scores = discriminator(images, labels, lod=lod)
        if name.startswith("scores"):
            close(scores, expected)
        else:
            (grad,) = torch.autograd.grad(scores.sum(), images)
            close(grad[: len(expected)], expected, 1e-4)


def check_generator(meta, arrays):
    G, outs = imported(meta, arrays), part(arrays, "out")
    z, labels, z2 = tensors(arrays, "latents", "labels", "latents2")
    w, second = G.mapping(z, labels), G.mapping(z2, labels)
    for run in meta["runs"]:
        name, kwargs, lod = run["name"], run["run_kwargs"], run["lod"]
        if not kwargs.get("is_training"):
            psi, cutoff = truncation(meta["func"], kwargs)
            close(G(z, labels, psi=psi, cutoff=cutoff, lod=lod), outs[name])
            continue
        settings = {"style_mixing_prob": 0.9, "dlatent_avg_beta": 0.995, **run, **kwargs}
        num_ws = G.synthesis.num_ws
        cutoff = num_ws - 2 * int(lod)
        if settings.get("mixing_uniform_draw", 1.0) < settings["style_mixing_prob"]:
            cutoff = settings["mixing_randint_draw"]
        ws = mix_styles(w, second if settings["style_mixing_prob"] else None, cutoff, num_ws)
        close(G.synthesis(ws, lod=lod), outs[f"{name}_images"])
        if f"{name}_dlatents" in outs:
            close(ws, outs[f"{name}_dlatents"])
        w_avg = torch.lerp(w.mean(dim=0), G.w_avg, settings["dlatent_avg_beta"])
        close(w_avg, outs[f"{name}_dlatent_avg_after"])


@ways.every()  # networks that grow are not compiled
@pytest.mark.golden_files("b_growing", "*.npz")
def test_network(golden, way):
    meta, arrays = golden
    func = meta["func"].rpartition(".")[2]
    check = check_generator
    if func == "G_mapping":
        check = check_mapping
    elif func.startswith("G_synthesis"):
        check = check_synthesis
    elif func.startswith("D_"):
        check = check_discriminator
    check(meta, arrays)
