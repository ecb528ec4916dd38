"""Growing networks: layers in use, fades, non-square images."""

import pytest
import torch

from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.networks.growing import enlarge

FAMILIES = ["revised", "stylegan1"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("lod", "sizes"), [(0, "4 8 16"), (0.4, "4 8 16"), (1, "4 8"), (1.7, "4 8"), (2, "4")])
def test_layers_above_the_lod_are_not_computed(small, family, lod, sizes):
    G, D = build_generator(small(family=family), 16, 3, 0), build_discriminator(small(family=family), 16, 3, 0)
    computed = []
    for network in (G.synthesis, D):
        for name, block in network.named_children():
            for layer in block.children():
                layer.register_forward_hook(lambda m, i, o, name=name: computed.append(name))
    images = G(torch.randn(4, 6), lod=lod)
    assert images.shape == (4, 3, 16, 16)
    assert D(images, lod=lod).shape == (4, 1)
    assert {name[1:] for name in computed} == set(sizes.split())


@pytest.mark.parametrize("family", FAMILIES)
def test_unused_layers_get_no_gradient(small, family):
    G, D = build_generator(small(family=family), 16, 3, 0), build_discriminator(small(family=family), 16, 3, 0)
    G(torch.randn(4, 6), lod=1.0).square().sum().backward()
    D(torch.randn(4, 3, 16, 16), lod=1.0).square().sum().backward()
    for network in (G.synthesis, D):
        blocks = {name: {p.grad is not None for p in block.parameters()} for name, block in network.named_children()}
        assert blocks["b16"] == {False} and True in blocks["b8"] and True in blocks["b4"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("resolution", [16, (16, 12)])
def test_fades_are_straight_lines_between_resolutions(small, family, resolution):
    """At lod 1 the image is the enlarged lower resolution; in between it is a blend, and D is continuous."""
    G = build_generator(small(family=family), resolution, 3, 2).double()
    D = build_discriminator(small(family=family), resolution, 3, 2).double()
    z, labels = torch.randn(2, 6, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    full, quarter, half = (G(z, labels, lod=lod) for lod in (0.0, 0.25, 1.0))
    torch.testing.assert_close(quarter, torch.lerp(full, half, 0.25))
    assert torch.equal(half, enlarge(half[:, :, ::2, ::2]))
    near, at = D(half, labels, lod=1 - 1e-9), D(half, labels, lod=1.0)
    torch.testing.assert_close(near, at, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_shapes_follow_the_lod(small, family):
    G = build_generator(small(family=family), (16, 8), 3, 0)
    first = 2 if family == "stylegan1" else 1
    assert len(G.synthesis.noise_shapes(2)) == first + 4
    shapes = G.synthesis.noise_shapes(2, lod=1.5)
    assert shapes == [(2, 1, 4, 2)] * first + [(2, 1, 8, 4)] * 2
    ws = torch.randn(2, 6, 5)
    images = G.synthesis(ws, noise=[torch.randn(shape) for shape in shapes], lod=1.5)
    assert images.shape == (2, 3, 16, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_lods_out_of_range_are_refused(small, family):
    G, D = build_generator(small(family=family), 16, 3, 0), build_discriminator(small(family=family), 16, 3, 0)
    for lod in (-0.1, 2.1):
        with pytest.raises(ValueError, match="lowest resolution"):
            G(torch.randn(1, 6), lod=lod)
        with pytest.raises(ValueError, match="lowest resolution"):
            D(torch.randn(1, 3, 16, 16), lod=lod)


def test_growing_networks_need_joint_labels(small):
    with pytest.raises(ValueError, match="label_mode=separate"):
        build_discriminator(small(family="revised", label_mode="separate"), 16, 3, 2)
