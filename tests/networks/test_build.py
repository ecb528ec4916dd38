"""Builders: initial values, seeds, names, counts."""

import pytest
import torch

from stylegan_ray.config import load_config
from stylegan_ray.networks import build_discriminator, build_generator, layer_table


def both(cfg, resolution=16, label_size=0):
    return build_generator(cfg, resolution, 3, label_size), build_discriminator(cfg, resolution, 3, label_size)


@pytest.mark.parametrize("family", ["stylegan2", "revised", "stylegan1"])
def test_the_seed_decides_the_initial_values(small, family):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append([network.state_dict() for network in both(small(family=family))])
    for first, again, other in zip(*states, strict=True):
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_initial_values_are_those_of_the_paper(small):
    G, D = both(small(fmap_base=2048, fmap_max=64, w_dim=64))
    for network in (G, D):
        for name, parameter in network.named_parameters():
            if name.endswith("affine.bias"):
                assert torch.equal(parameter, torch.ones_like(parameter))
            elif name.endswith(("bias", "noise_strength")):
                assert not parameter.any()
            elif parameter.numel() > 1000:
                std = 100 if name.startswith("mapping.dense") else 1
                assert parameter.std().item() == pytest.approx(std, rel=0.15), name
    assert not G.w_avg.any() and G.synthesis.b16.conv1.noise_const.std().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("family", ["stylegan2", "revised", "stylegan1"])
def test_no_two_tensors_share_memory(small, family):
    """safetensors refuses shared tensors."""
    for network in both(small(family=family), label_size=2):
        pointers = [value.data_ptr() for value in network.state_dict().values()]
        assert len(set(pointers)) == len(pointers)


def test_names_are_stable(small):
    G, D = both(small(G_architecture="resnet"), label_size=2)
    assert [name for name in G.state_dict() if "b8" in name] == [
        f"synthesis.b8.{name}"
        for name in ("conv0.weight", "conv0.bias", "conv0.noise_strength", "conv0.noise_const", "conv0.affine.weight",
                     "conv0.affine.bias", "conv1.weight", "conv1.bias", "conv1.noise_strength", "conv1.noise_const",
                     "conv1.affine.weight", "conv1.affine.bias", "skip.weight")
    ]  # fmt: skip
    assert {"w_avg", "mapping.label_weight", "mapping.dense0.weight", "synthesis.b4.constant"} <= set(G.state_dict())
    assert {"b16.fromrgb.weight", "b8.conv1.bias", "b4.conv.weight", "b4.dense0.weight", "b4.out.bias"} <= set(
        D.state_dict()
    )


@pytest.mark.parametrize(("preset", "G_count", "D_count"), [("config-f", 30_370_060, 29_012_513)])
def test_full_size_networks_are_counted_without_memory(preset, G_count, D_count):
    cfg = load_config(preset).model
    with torch.device("meta"):
        networks = build_generator(cfg, 1024, 3, 0), build_discriminator(cfg, 1024, 3, 0)
    for network, count in zip(networks, (G_count, D_count), strict=True):
        table = layer_table(network)
        assert sum(row.num_parameters for row in table) == count
        assert sum(p.numel() for p in network.parameters()) == count
    assert ("b1024.conv0", 9248, (32, 1024, 1024), (32, 32, 3, 3)) in table


@pytest.mark.parametrize("family", ["stylegan2", "revised", "stylegan1"])
def test_the_table_does_not_change_the_network(small, family):
    for network in both(small(family=family), resolution=(16, 12), label_size=2):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        table = layer_table(network)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert not any(module._forward_hooks for module in network.modules())
        assert len({row.name for row in table}) == len(table)
        last = table[-1]
        assert last.output_shape in ((3, 16, 12), (6, 16, 12), (2,), (1,))
