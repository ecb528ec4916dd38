"""Layers of StyleGAN1."""

import pytest
import torch
import torch.nn.functional as F

from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.networks.stylegan1 import Blur, PlainConv, StyledLayer


def test_fused_downscaling_is_convolution_and_mean():
    plain, fused = (PlainConv(3, 4, 3, down=True, fused=fused).double() for fused in (False, True))
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(plain(x), fused(x))


def test_fused_upscaling_is_nearest_neighbor_and_convolution_with_the_flipped_kernel():
    plain, fused = (PlainConv(3, 4, 3, up=True, fused=fused).double() for fused in (False, True))
    fused.load_state_dict({"weight": plain.weight.detach().flip((2, 3))})
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(plain(x), fused(x))


def test_styles_replace_the_statistics_of_maps():
    """Adaptive instance normalization: mean and deviation depend on w alone (section 2, equation 1)."""
    layer = StyledLayer(4, 5, (16, 16), "lrelu").double()
    w = torch.randn(2, 5, dtype=torch.float64)
    scale, shift = layer.style(w).chunk(2, dim=1)
    x = layer(torch.randn(2, 4, 16, 16, dtype=torch.float64) * 9 + 3, w, None)
    torch.testing.assert_close(x.mean(dim=(2, 3)), shift)
    torch.testing.assert_close(x.std(dim=(2, 3), unbiased=False), (scale + 1).abs(), atol=1e-5, rtol=1e-5)


def test_blur_keeps_the_size_and_flat_images():
    x = torch.ones(1, 2, 8, 6)
    torch.testing.assert_close(Blur([1, 2, 1])(x)[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])
    assert Blur([1, 3, 3, 1])(x).shape == x.shape and Blur(None)(x) is x
    torch.testing.assert_close(Blur([1, 2, 1])(x)[0, 0, 0, 0], torch.tensor(9 / 16))


@pytest.mark.parametrize(
    "options",
    [{"use_wscale": False}, {"const_input_layer": False}, {"use_styles": False}, {"use_pixel_norm": True},
     {"use_instance_norm": False}, {"blur_filter": None}, {"fused_scale": "on"}, {"use_noise": False}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_every_option_builds_and_trains(small, options):
    cfg = small(family="stylegan1", **options)
    G, D = build_generator(cfg, 16, 3, 0), build_discriminator(cfg, 16, 3, 0)
    D(G(torch.randn(4, 6), lod=0.5), lod=0.5).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in D.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in G.synthesis.parameters()) > 10


def test_without_wscale_the_factor_is_in_the_initial_values():
    torch.manual_seed(0)
    with_scale, without = (PlainConv(64, 64, 3, use_wscale=flag) for flag in (True, False))
    x = torch.randn(2, 64, 8, 8)
    assert with_scale.weight.std().item() == pytest.approx(1.0, rel=0.02)
    assert without.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert with_scale(x).std().item() == pytest.approx(without(x).std().item(), rel=0.05)


def test_layers_fuse_from_128_pixels_on(small):
    G = build_generator(small(family="stylegan1"), 128, 3, 0)
    assert [G.synthesis.b64.up.fused, G.synthesis.b128.up.fused] == [False, True]
    assert F.mse_loss(G(torch.zeros(1, 6)), G(torch.zeros(1, 6))).item() == 0
