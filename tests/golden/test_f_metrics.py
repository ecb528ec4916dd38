"""Metric arithmetic of the TensorFlow original and of StyleGAN2-ADA."""

import re

import numpy as np
import pytest
import torch

from stylegan_ray.interop.nvidia import network_from_ada
from stylegan_ray.metrics import (
    FeatureStats,
    frechet_distance,
    inception_score,
    kernel_distance,
    parse_metric,
    perceptual_path_length,
    precision_recall,
)
from stylegan_ray.metrics.manifold import Manifold
from stylegan_ray.metrics.path_length import PathSettings, as_seen, lerp, path_distances, path_ends, slerp
from stylegan_ray.metrics.separability import conditional_entropy, entropy, mutual_information

ORIGINAL = pytest.mark.golden_files("f_metrics", "tf_*.npz")
ADA = pytest.mark.golden_files("f_metrics", "ada_*.npz")
pytestmark = pytest.mark.golden


@pytest.fixture
def features(golden_folder):
    """The (real, fake) features that both files share, and the whole original file."""
    from_original = golden_folder / "f_metrics" / "tf_metrics.npz"
    with np.load(from_original) as file:
        return {name: file[name] for name in file.files if name != "meta"}


@ORIGINAL
def test_frechet_distance_of_the_original(golden):
    meta, arrays = golden
    distance = frechet_distance(arrays["in:real_features"], arrays["in:fake_features"])
    assert distance == pytest.approx(meta["fid"]["value"], rel=1e-5)


@ADA
def test_frechet_distance_of_ada(golden, features):
    meta, arrays = golden
    real, fake = features["in:real_features"], features["in:fake_features"]
    assert frechet_distance(real, fake, dialect="ada") == pytest.approx(meta["fid"], rel=1e-6)
    stats = FeatureStats.of(real)
    np.testing.assert_allclose(stats.mean(), arrays["out:real_mean"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(stats.cov("ada"), arrays["out:real_cov"], rtol=1e-5, atol=1e-6)
    for key, value in meta.items():
        if match := re.fullmatch(r"fid_first(\d+)", key):
            num = int(match[1])
            assert frechet_distance(real[:num], fake[:num], dialect="ada") == pytest.approx(value, rel=1e-6)


@ORIGINAL
def test_inception_score_of_the_original(golden):
    meta, arrays = golden
    for num_splits, expected in meta["inception_score"].items():
        for values in (arrays["in:probs"], arrays["in:logits"]):
            mean, std = inception_score(values, int(num_splits))
            assert mean == pytest.approx(expected["value_mean"], rel=1e-5)
            assert std == pytest.approx(expected["value_std"], rel=1e-4, abs=1e-6)


@ADA
def test_inception_score_of_ada(golden, features):
    meta, _ = golden
    for num_splits, expected in meta["inception_score"].items():
        assert inception_score(features["in:probs"], int(num_splits)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@ORIGINAL
def test_precision_recall_of_the_original(golden):
    meta, arrays = golden
    real, fake = arrays["in:real_features"], arrays["in:fake_features"]
    for nhood_size, expected in meta["pr"].items():
        precision, recall = precision_recall(real, fake, int(nhood_size))
        assert abs(precision - expected["value_precision"]) * len(fake) <= 2.01  # half rounding decides borderline ones
        assert abs(recall - expected["value_recall"]) * len(real) <= 2.01


@ORIGINAL
def test_manifold_of_the_original(golden):
    meta, arrays = golden
    real, fake = arrays["in:real_features"], arrays["in:fake_features"]
    sizes = meta["pr34"]["nhood_sizes"]
    reals, fakes = Manifold(real, sizes), Manifold(fake, sizes)
    for manifold, side in ((reals, "ref"), (fakes, "eval")):
        np.testing.assert_allclose(manifold.radii, arrays[f"out:pr34_{side}_kth_sq_dist"], rtol=4e-3, atol=4e-3)
    probe, back = reals.probe(fake), fakes.probe(real)
    for hits, expected in ((probe.inside, "precision"), (back.inside, "recall")):
        assert (hits != arrays[f"out:pr34_{expected}_hits"]).sum(axis=0).max() <= 2
        np.testing.assert_allclose(hits.mean(axis=0), meta["pr34"][expected], atol=2.01 / len(hits))
    assert (probe.nearest != arrays["out:pr34_nearest"]).sum() <= 2
    np.testing.assert_allclose(probe.realism, arrays["out:pr34_realism"], rtol=1e-2)


@ORIGINAL
def test_clamped_manifold_of_the_original(golden):
    _, arrays = golden
    for key, expected in arrays.items():
        if match := re.fullmatch(r"out:pr(\d)_clamp(\d+)_kth_sq_dist", key):
            clamped = Manifold(arrays["in:real_features"], [int(match[1])], clamp_percentile=float(match[2])).radii
            differ = ~np.isclose(clamped, expected, rtol=4e-3, atol=4e-3)
            assert differ.sum() <= 2


@ADA
def test_precision_recall_of_ada(golden, features):
    meta, _ = golden
    real, fake = features["in:real_features"], features["in:fake_features"]
    for nhood_size, expected in meta["pr"].items():
        result = precision_recall(real, fake, int(nhood_size), dialect="ada")
        np.testing.assert_allclose(result, expected, atol=2.01 / len(real))


@ADA
def test_kernel_distance_of_ada(golden, features):
    meta, arrays = golden
    real, fake = features["in:real_features"], features["in:fake_features"]
    given = kernel_distance(real, fake, subsets=arrays["out:kid_subset_indices"])
    assert given == pytest.approx(meta["kid"]["value"], rel=1e-5)
    for key in ("kid_full",):
        settings = meta[key]
        drawn = kernel_distance(real, fake, settings["num_subsets"], settings["max_subset_size"])
        assert drawn == pytest.approx(
            settings["value"], rel=1e-5
        )  # every picture is in the subset, so any draw will do


@ORIGINAL
def test_path_length_of_the_original(golden):
    meta, arrays = golden
    assert perceptual_path_length(arrays["in:ppl_distances"]) == pytest.approx(meta["ppl_from_distances"], rel=1e-6)


@ADA
def test_path_length_of_ada(golden, features):
    meta, _ = golden
    distances = features["in:ppl_distances"]
    assert perceptual_path_length(distances) == pytest.approx(meta["ppl_from_distances"], rel=1e-6)
    for key, value in meta.items():
        if match := re.fullmatch(r"ppl_from_first(\d+)_distances", key):
            assert perceptual_path_length(distances[: int(match[1])]) == pytest.approx(value, rel=1e-6)


@ORIGINAL
def test_interpolation_of_the_original(golden):
    meta, arrays = golden
    a, b, t = (torch.from_numpy(arrays[f"in:slerp_{name}"]) for name in "abt")
    epsilon = meta["metric_defaults"]["ppl_zfull"]["epsilon"]
    for result, key in ((slerp(a, b, t), "slerp"), (slerp(a, b, t + epsilon), "slerp_eps"), (lerp(a, b, t), "lerp")):
        np.testing.assert_allclose(result, arrays[f"out:{key}"], rtol=2e-5, atol=1e-6)


@ADA
def test_interpolation_of_ada(golden, features):
    _, arrays = golden
    a, b, t = (torch.from_numpy(features[f"in:slerp_{name}"]) for name in "abt")
    np.testing.assert_allclose(slerp(a, b, t), arrays["out:slerp"], rtol=2e-5, atol=1e-6)


@ORIGINAL
def test_linear_separability_of_the_original(golden):
    meta, _ = golden
    for case in meta["linear_separability"]:
        for measure in (mutual_information, entropy, conditional_entropy):
            assert measure(case["joint"]) == pytest.approx(case[measure.__name__], rel=1e-5, abs=1e-6)


@ORIGINAL
def test_names_mean_what_the_original_means(golden):
    meta, _ = golden
    for name, settings in meta["metric_defaults"].items():
        spec = parse_metric(name)
        assert spec.num_gen == settings.get("num_images", settings.get("num_samples"))
        assert spec.num_splits == settings.get("num_splits", spec.num_splits)
        assert spec.nhood_size == settings.get("nhood_size", spec.nhood_size)
        assert spec.keep * spec.num_gen == settings.get("num_keep", spec.keep * spec.num_gen)
        if spec.path:
            given = {key: settings[key] for key in ("space", "sampling", "crop", "epsilon")}
            assert spec.path == PathSettings(**given)


def noise_inputs(arrays, key):
    """Noise inputs of the synthesis in its order, as drawn for a case."""
    names = [name for name in arrays if name.startswith(f"draw:{key}_noise/")]
    names.sort(key=lambda name: [int(number) for number in re.findall(r"\.b(\d+)\.conv(\d)\.", name)[0]])
    return [torch.from_numpy(arrays[name])[None, None] for name in names]


@ADA
def test_path_sampler_of_ada(golden):
    meta, arrays = golden
    wiring = meta["ppl_wiring"]
    state = {name[2:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("G:")}
    G = network_from_ada("G", wiring["G_kwargs"], state)
    for case in wiring["cases"]:
        key = case["key"]
        settings = PathSettings(case["space"], case["sampling"], case["crop"], case["epsilon"])
        z0, z1 = torch.from_numpy(arrays[f"draw:{key}_z0z1"]).chunk(2)
        t = torch.from_numpy(arrays[f"draw:{key}_t"])
        with torch.no_grad():
            w = torch.cat(path_ends(G.mapping, z0, z1, t, settings))
            noise = [plane.expand(len(w), -1, -1, -1) for plane in noise_inputs(arrays, key)]
            images = G.synthesis(w[:, None].expand(-1, G.synthesis.num_ws, -1), noise=noise)
            seen = as_seen(images, settings.crop)
        assert list(seen.shape) == case["network_input_shape"]
        distances = path_distances(*(seen.flatten(1) * 0.02).chunk(2), settings.epsilon)
        # Differences of nearly equal pictures lose digits: float32 rounding of the pictures over epsilon^2.
        np.testing.assert_allclose(distances, arrays[f"out:{key}"], rtol=1e-3, err_msg=key)
