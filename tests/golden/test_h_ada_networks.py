"""Networks in the dialect of StyleGAN2-ADA against its PyTorch program: values and gradients.

Tolerance: 2e-5 of the largest value for values, 1e-4 for gradients (golden README).
"""

import numpy as np
import pytest
import torch
from support import ways

from stylegan_ray.interop.nvidia import model_config, network_from_ada
from stylegan_ray.networks import mix_styles, truncate

pytestmark = pytest.mark.golden


def close(actual, expected, tolerance=2e-5):
    actual = actual.detach().numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def network(part, meta, arrays):
    prefix = f"{part}:"
    state = {name.removeprefix(prefix): torch.tensor(a) for name, a in arrays.items() if name.startswith(prefix)}
    return network_from_ada(part, meta[f"{part}_kwargs"], state)


@ways.every("networks_compiled")
@pytest.mark.golden_files("h_ada_networks", "ada_*.npz")
def test_generator(golden, way):
    meta, arrays = golden
    G = way(network("G", meta, arrays))
    z, c, grad_noise = (torch.tensor(arrays[f"in:{name}"]) for name in ("z", "c", "grad_noise"))
    w = G.mapping(z, c)
    ws = mix_styles(w, None, 0, G.synthesis.num_ws)
    close(ws, arrays["out:ws"])
    close(truncate(ws, G.w_avg, 0.5), arrays["out:ws_psi0.5"])
    close(truncate(ws, G.w_avg, 0.7, cutoff=2), arrays["out:ws_psi0.7_cut2"])
    beta = model_config("G", meta["G_kwargs"]).dlatent_avg_beta
    close(torch.lerp(w.mean(dim=0), G.w_avg, beta), arrays["out:w_avg_after_train_forward"])
    close(G(z, c, noise="none"), arrays["out:img_none"])
    close(G(z, c, psi=0.5), arrays["out:img_psi0.5_const"])
    ws = ws.detach().requires_grad_()
    images = G.synthesis(ws)
    close(images, arrays["out:img_const"])
    (grad,) = torch.autograd.grad(images, ws, grad_noise)
    close(grad, arrays["out:grad_ws"], 1e-4)


@ways.every("networks_compiled")
@pytest.mark.golden_files("h_ada_networks", "ada_*.npz")
def test_discriminator(golden, way):
    meta, arrays = golden
    D = way(network("D", meta, arrays))
    images = torch.tensor(arrays["in:images"], requires_grad=True)
    c, c_images = torch.tensor(arrays["in:c"]), torch.tensor(arrays["in:c_images"])
    scores = D(images, c_images)
    close(scores, arrays["out:logits_random"])
    close(D(images[:1], c_images[:1]), arrays["out:logits_random_first1"])
    (grad,) = torch.autograd.grad(scores.sum(), images)
    expected = arrays["out:grad_random_first2"]
    close(grad[: len(expected)], expected, 1e-4)
    if "out:logits_generated_clamped2" in arrays:
        generated = torch.tensor(arrays["out:img_const"]).clamp(-2, 2)
        close(D(generated, c), arrays["out:logits_generated_clamped2"])
