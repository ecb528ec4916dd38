"""From seeds to images."""

import numpy as np
import pytest
import torch

from stylegan_ray.config import ConfigError, ModelConfig
from stylegan_ray.images.generate import Sampler, class_labels, latents, mixed_styles, walk
from stylegan_ray.images.options import numbers
from stylegan_ray.networks import build_generator


@pytest.fixture(scope="module")
def G():
    """A tiny conditional generator with noise and an average w that matter."""
    torch.manual_seed(5)
    G = build_generator(ModelConfig(z_dim=6, w_dim=5, mapping_fmaps=7, mapping_layers=2, fmap_max=4), 16, 3, 4)
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if "noise_strength" in name or name.endswith("bias"):
                parameter.normal_()
        G.w_avg.normal_()
    return G


def made(sampler, seeds, class_index=None):
    return torch.stack(list(sampler.images(sampler.styles(seeds, class_index), seeds)))


def test_numbers():
    assert numbers("0-3,7, 12-13", "--seeds") == [0, 1, 2, 3, 7, 12, 13]
    assert numbers("85", "--seeds") == [85]
    for wrong in ("", "a-b", "1-", "-3", "5-2", "1;2"):
        with pytest.raises(ConfigError, match="--seeds"):
            numbers(wrong, "--seeds")


def test_seeds_give_the_latents_that_ada_draws():
    known = [0.44122749, -0.33087015, 2.43077119]  # np.random.RandomState(5).randn(1, 3)
    np.testing.assert_allclose(latents([1, 5], 3)[1].numpy(), known, atol=1e-8)


def test_labels():
    assert class_labels([0, 5, 7], 4, None).argmax(dim=1).tolist() == [0, 1, 3]
    assert class_labels([0, 5], 4, 2).tolist() == [[0, 0, 1, 0]] * 2
    assert class_labels([0, 5], 0, None).shape == (2, 0)
    with pytest.raises(ConfigError, match="classes 0 to 3"):
        class_labels([0], 4, 4)
    with pytest.raises(ConfigError, match="leave --class out"):
        class_labels([0], 0, 0)


def test_images_are_those_of_the_generator(G):
    seeds = [3, 9, 2]
    labels = torch.nn.functional.one_hot(torch.tensor([1, 1, 1]), 4).float()
    with torch.no_grad():
        expected = G(latents(seeds, 6).float(), labels, psi=0.6, cutoff=3, noise="const")
    torch.testing.assert_close(made(Sampler(G, psi=0.6, cutoff=3, batch=2), seeds, class_index=1), expected)


@pytest.mark.parametrize("noise", ["const", "random", "none"])
def test_the_image_of_a_seed_does_not_depend_on_its_batch(G, noise):
    many = made(Sampler(G, noise=noise, batch=4), [7, 8, 9, 10, 11])
    alone = made(Sampler(G, noise=noise, batch=1), [10])
    torch.testing.assert_close(many[3:4], alone)


def test_noise_modes_differ(G):
    images = {noise: made(Sampler(G, noise=noise), [1]) for noise in ("const", "random", "none")}
    assert not torch.allclose(images["const"], images["none"], atol=1e-3)
    assert not torch.allclose(images["const"], images["random"], atol=1e-3)


def test_psi_0_gives_one_image(G):
    images = made(Sampler(G, psi=0.0), [1, 2], class_index=0)
    torch.testing.assert_close(images[0], images[1])


def test_mixed_styles():
    rows, columns = torch.zeros(2, 5, 3), torch.arange(1.0, 4.0).reshape(3, 1, 1).expand(3, 5, 3)
    mixed = mixed_styles(rows, columns, [1, 4])
    assert mixed.shape == (6, 5, 3)
    assert mixed[:, :, 0].tolist() == [[0, k, 0, 0, k] for k in (1, 2, 3)] * 2
    with pytest.raises(ConfigError, match="layers 0 to 4"):
        mixed_styles(rows, columns, [5])


def test_a_walk_passes_its_keys_smoothly_and_is_closed():
    keys = torch.randn(4, 3, 2, dtype=torch.float64)
    path = walk(keys, 50)
    assert path.shape == (200, 3, 2)
    torch.testing.assert_close(path[::50], keys)
    closed = torch.cat([path, path[:2]])
    speed = closed.diff(dim=0)
    jumps = speed.diff(dim=0).norm(dim=(1, 2)).max()
    assert jumps < 0.05 * speed.norm(dim=(1, 2)).max() * 4, "no corner at a key, nor where the circle closes"


def test_a_walk_between_equal_keys_is_constant():
    torch.testing.assert_close(walk(torch.ones(3, 2), 5), torch.ones(15, 2))


def test_gradients_are_enabled_between_two_images(G):
    images = Sampler(G).images(Sampler(G).styles([0, 1]))
    next(images)
    assert torch.is_grad_enabled()
