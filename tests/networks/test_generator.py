"""The generator: truncation, style mixing, initial images."""

import torch

from stylegan_ray.networks import build_generator, mix_styles, truncate


def test_truncation():
    ws, w_avg = torch.randn(2, 4, 5), torch.randn(5)
    torch.testing.assert_close(truncate(ws, w_avg, 0.0), w_avg.expand(2, 4, 5))
    assert truncate(ws, w_avg, 1.0) is ws and truncate(ws, w_avg, 0.5, cutoff=0) is ws
    half = truncate(ws, w_avg, 0.5, cutoff=3)
    torch.testing.assert_close(half[:, :3], (ws[:, :3] + w_avg) / 2)
    torch.testing.assert_close(half[:, 3:], ws[:, 3:])
    torch.testing.assert_close(truncate(ws, w_avg, -1.0, cutoff=9), 2 * w_avg - ws)


def test_mixing():
    w1, w2 = torch.randn(2, 5), torch.randn(2, 5)
    for cutoff in range(5):
        ws = mix_styles(w1, w2, cutoff, 4)
        assert all(torch.equal(ws[:, layer], w1 if layer < cutoff else w2) for layer in range(4))
    assert torch.equal(mix_styles(w1, None, 2, 4), w1[:, None].expand(2, 4, 5))


def test_forward_composes_mapping_truncation_and_synthesis(small):
    G = build_generator(small(), 8, 3, 2).double()
    G.w_avg.normal_()
    z, labels = torch.randn(2, 6, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    ws = mix_styles(G.mapping(z, labels), None, 0, G.synthesis.num_ws)
    expected = G.synthesis(truncate(ws, G.w_avg, 0.7, 2))
    torch.testing.assert_close(G(z, labels, psi=0.7, cutoff=2), expected)
    assert (G.z_dim, G.w_dim, G.label_size, G.resolution, G.num_channels) == (6, 5, 2, (8, 8), 3)


def test_images_start_in_a_usable_range(small):
    torch.manual_seed(0)
    G = build_generator(small(fmap_base=512, fmap_max=64, w_dim=64, mapping_fmaps=64), 32, 3, 0)
    assert 0.1 < G(torch.randn(16, 6)).std().item() < 3
