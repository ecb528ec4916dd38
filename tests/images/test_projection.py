"""Projection: schedules and regularizer of the paper, and generated images that are found again."""

import math

import numpy as np
import pytest
import torch

from stylegan_ray.config import ConfigError, ModelConfig
from stylegan_ray.images.generate import Sampler, stored_noise
from stylegan_ray.images.grid import pil_uint8
from stylegan_ray.images.perceptual import Lpips, Pyramid, choose_distance, pixel_levels, saturated
from stylegan_ray.images.projection import (
    ProjectionPlan,
    noise_levels,
    noise_regularization,
    normalized,
    project,
    psnr,
    w_statistics,
)
from stylegan_ray.metrics.detectors import Detector
from stylegan_ray.metrics.vgg16 import PerceptualVGG16
from stylegan_ray.networks import build_generator


def generator(resolution=8, family="stylegan2", labels=0):
    """A small random generator whose noise is weak, as in a trained network."""
    torch.manual_seed(3)
    model = ModelConfig(
        z_dim=8, w_dim=8, mapping_fmaps=8, mapping_layers=2, mapping_lrmul=1, fmap_base=256, fmap_max=16, family=family
    )
    G = build_generator(model, resolution, 3, labels)
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if "noise_strength" in name:
                parameter.fill_(0.05)
    return G.eval()


@pytest.fixture(scope="module")
def G():
    return generator()


@pytest.fixture(scope="module")
def statistics(G):
    return w_statistics(G)


def image_of(G, seed):
    sampler = Sampler(G)
    ws = sampler.styles([seed])
    return ws, pil_uint8(next(sampler.images(ws)))


def test_schedules_are_those_of_the_paper():
    plan = ProjectionPlan()
    assert (plan.num_steps, plan.noise_weight) == (1000, 1e5)
    rates = [plan.lrate(step) for step in range(1001)]
    assert rates[0] == 0 and rates[25] == pytest.approx(0.05), "linear over the first 50 steps"
    assert rates[50] == rates[400] == rates[750] == pytest.approx(0.1)
    assert rates[875] == pytest.approx(0.05) and rates[1000] == pytest.approx(0), "a cosine over the last 250"
    assert plan.w_noise_std(0, 2.0) == pytest.approx(0.1)
    assert plan.w_noise_std(375, 2.0) == pytest.approx(0.1 / 4), "t = 1/2, squared"
    assert plan.w_noise_std(750, 2.0) == plan.w_noise_std(999, 2.0) == 0


def test_sigma_is_the_mean_distance_to_the_mean(G, statistics):
    torch.manual_seed(0)
    with torch.no_grad():
        w = G.mapping(torch.randn(5000, 8))
    torch.testing.assert_close(statistics.mean, w.mean(dim=0), atol=0.1, rtol=0)
    sigma = (w - w.mean(dim=0)).square().sum(dim=1).mean().sqrt().item()
    assert statistics.sigma == pytest.approx(sigma, rel=0.04)


def test_noise_is_regularized_at_every_size_down_to_8():
    x = torch.randn(1, 1, 32, 16, generator=torch.Generator().manual_seed(0))
    assert [tuple(level.shape[2:]) for level in noise_levels(x)] == [(32, 16), (16, 8)]
    assert [tuple(level.shape[2:]) for level in noise_levels(x[..., :8, :8])] == [(8, 8)]
    half = noise_levels(x)[1]
    torch.testing.assert_close(half[0, 0, 0, 0], x[0, 0, :2, :2].sum() / 2, msg="the mean of 2x2 values, doubled")
    expected = 0.0
    for level in (x, half):
        n = level[0, 0].numpy().astype(np.float64)
        expected += np.mean(n * np.roll(n, 1, 0)) ** 2 + np.mean(n * np.roll(n, 1, 1)) ** 2
    assert noise_regularization([x]).item() == pytest.approx(expected, rel=1e-4)
    assert noise_regularization([torch.ones(1, 1, 8, 8)]).item() == pytest.approx(2), "a flat map correlates fully"


def test_maps_are_normalized():
    x = normalized(torch.randn(1, 1, 8, 8) * 3 + 5)
    assert x.mean().item() == pytest.approx(0, abs=1e-6) and x.var(unbiased=False).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("noise", ["optimize", "const"])
def test_a_generated_image_is_found_again(G, statistics, noise):
    ws, target = image_of(G, 5)
    distance = choose_distance("pyramid").build()(target[None].float())
    result = project(G, distance, statistics, ProjectionPlan(num_steps=120, space="w+", noise=noise))
    assert psnr(pil_uint8(result.image), target) > 25
    assert result.w.shape == ws.shape and not torch.equal(result.w, result.w[:, :1].expand_as(result.w))
    with torch.no_grad():
        torch.testing.assert_close(G.synthesis(result.w, noise=result.noise)[0], result.image)
    for found, stored in zip(result.noise, stored_noise(G.synthesis), strict=True):
        assert torch.equal(found, stored) == (noise == "const")


def test_in_w_the_w_itself_is_found_again(G, statistics):
    """Although black and white pixels of the target do not say how far the network exceeds the range."""
    ws, target = image_of(G, 5)
    assert (target == 0).any() and (target == 255).any()
    distance = choose_distance("pyramid").build()(target[None].float())
    result = project(G, distance, statistics, ProjectionPlan(num_steps=80, noise="const"))
    assert psnr(pil_uint8(result.image), target) > 35
    assert torch.equal(result.w, result.w[:, :1].expand_as(result.w))
    assert (result.w - ws)[0, 0].norm() < 0.1 * (statistics.mean - ws[0, 0]).norm()


def test_equal_plans_give_equal_results(G, statistics):
    _, target = image_of(G, 1)
    distance = choose_distance("pyramid").build()(target[None].float())

    def result(seed):
        return project(G, distance, statistics, ProjectionPlan(num_steps=4, seed=seed)).w

    assert torch.equal(result(0), result(0)) and not torch.equal(result(0), result(1))


def test_from_a_saved_w_the_image_is_found_at_once(G, statistics):
    ws, target = image_of(G, 7)
    distance = choose_distance("pyramid").build()(target[None].float())
    plan = ProjectionPlan(num_steps=1, w_noise=0, noise="const", space="w+")
    assert psnr(pil_uint8(project(G, distance, statistics, plan, start=ws).image), target) == math.inf


def test_growing_networks_are_projected_at_their_lod():
    G = generator(family="stylegan1", labels=3)
    statistics = w_statistics(G, class_index=2, num=100)
    distance = choose_distance("pyramid").build()(torch.zeros(1, 3, 8, 8))
    result = project(G, distance, statistics, ProjectionPlan(num_steps=2), lod=1.0)
    assert [tuple(x.shape) for x in result.noise] == G.synthesis.noise_shapes(1, 1.0)


def test_the_pyramid_is_zero_at_the_target_alone():
    target = torch.rand(1, 1, 24, 40) * 255
    distance = choose_distance("pyramid").build()(target)
    assert isinstance(distance, Pyramid) and distance(target).item() == 0
    assert [tuple(level.shape[2:]) for level in pixel_levels(target)] == [(24, 40), (12, 20)]
    nearer, farther = distance(target + 5).item(), distance(target + 20).item()
    assert 0 < nearer < farther


@pytest.mark.parametrize("size", [(8, 8), (48, 32)])
def test_lpips_takes_images_of_any_size_and_its_gradient_is_finite(size):
    """Black and white parts leave all channels of a position at 0, where the length of features has no slope."""
    torch.manual_seed(0)
    module = PerceptualVGG16().requires_grad_(False)
    for layer in module.layers:
        if hasattr(layer, "bias"):
            layer.bias.fill_(-0.5)
    target = torch.rand(1, 3, *size) * 255
    images = torch.zeros(2, 3, *size, requires_grad=True)
    distance = Lpips(Detector("lpips", "", "none", module), target)
    assert distance(target).item() == 0
    distance(images).sum().backward()
    assert images.grad.isfinite().all()


def test_only_at_black_and_white_of_the_target_values_are_clamped():
    target = torch.tensor([0.0, 255.0, 100.0, 100.0])
    images = torch.tensor([-9.0, 300.0, -9.0, 300.0], requires_grad=True)
    found = saturated(images, target)
    assert found.tolist() == [0, 255, -9, 300]
    found.sum().backward()
    assert images.grad.tolist() == [0, 0, 1, 1]
    assert saturated(torch.tensor([40.0]), target[:1]).item() == 40


def test_lpips_shrinks_images_above_256_pixels(monkeypatch):
    seen = []
    detector = Detector("lpips", "", "none", torch.nn.Module())
    monkeypatch.setattr(Detector, "__call__", lambda _, images: (seen.append(images), None) and (images.flatten(1), 0))
    Lpips(detector, torch.ones(1, 3, 600, 300))
    assert tuple(seen[0].shape) == (1, 3, 200, 100) and (seen[0] - 1).abs().max() < 1e-6


def test_which_distance_is_said(tmp_path):
    found = choose_distance("auto", str(tmp_path))
    assert "tiny" in found.description and "prefetch lpips" in found.description
    with pytest.raises(ConfigError, match="--distance pyramid"):
        choose_distance("lpips", str(tmp_path))
