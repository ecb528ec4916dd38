"""Pickles of the TensorFlow and PyTorch programs, opened by load_network: pictures, scores, tensors.

Tolerance: 2e-5 of the largest value; bytes may differ by one where the value lies on a boundary (golden README).
"""

import numpy as np
import pytest
import torch

from stylegan_ray.interop import load_network, read_networks
from stylegan_ray.interop.tensorflow import truncation
from stylegan_ray.networks import mix_styles

pytestmark = pytest.mark.golden


def close(actual, expected, tolerance=2e-5):
    actual = actual.detach().numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def nhwc_bytes(images):
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def part_and_psi(key):
    """'Gs_images_psi0.5' -> ('G_ema', 0.5), 'G_psi1' -> ('G', 1.0), 'G_ema_psi0_7' -> ('G_ema', 0.7)."""
    part, psi = key.replace("_images", "").split("_psi")
    return {"Gs": "G_ema"}.get(part, part), float(psi.replace("_", "."))


@pytest.mark.golden_files("h_tf_pickles", "*_expected.npz")
def test_tensorflow(golden, golden_path):
    meta, arrays = golden
    path = golden_path.with_name(meta["pickle"])
    networks, lod = load_network(path), meta["lod"]
    assert read_networks(path).lod == pytest.approx(lod)
    z, labels = torch.tensor(arrays["in:latents"]), torch.tensor(arrays["in:labels"])
    for key in [key.removeprefix("out:") for key in arrays if "_psi" in key]:
        part, psi = part_and_psi(key)
        close(networks[part](z, labels, psi=psi, lod=lod), arrays[f"out:{key}"])
    images = networks["G_ema"](z, labels, lod=lod)
    close(networks["D"](images, labels, lod=lod), arrays["out:D_scores"])
    psi, cutoff = truncation(meta["G_func"], {})
    actual = nhwc_bytes(networks["G_ema"](z, labels, psi=psi, cutoff=cutoff, lod=lod))
    difference = np.abs(actual.astype(int) - arrays["out:Gs_uint8_default"])
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


@pytest.mark.golden_files("h_ada_pickle", "*_expected.npz")
def test_ada(golden, golden_path):
    meta, arrays = golden
    loaded = read_networks(golden_path.with_name(meta["pickle"]))
    networks = loaded.parts()
    z, c = torch.tensor(arrays["in:z"]), torch.tensor(arrays["in:c"])
    for key in [key.removeprefix("out:") for key in arrays if "_psi" in key]:
        part, psi = part_and_psi(key)
        close(networks[part](z, c, psi=psi), arrays[f"out:{key}"])
    G_ema = networks["G_ema"]
    close(mix_styles(G_ema.mapping(z, c), None, 0, G_ema.synthesis.num_ws), arrays["out:G_ema_ws"])
    close(networks["D"](G_ema(z, c), c), arrays["out:D_logits"])
    assert loaded.augment_p == pytest.approx(float(arrays["out:augment_p"]))


@pytest.mark.golden_files("h_ada_pickle", "*_expected.npz")
def test_every_tensor_of_ada_arrives(golden, golden_path):
    meta, _ = golden
    networks = load_network(golden_path.with_name(meta["pickle"]))
    for part in networks:
        theirs = meta["state_shapes_and_norms"][part]
        expected = sorted(norm for name, (_, norm) in theirs.items() if "resample_filter" not in name)
        actual = sorted(float(value.norm()) for value in networks[part].state_dict().values())
        np.testing.assert_allclose(actual, expected, rtol=1e-5, err_msg=part)
