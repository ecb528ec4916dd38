"""Gradients in one buffer, means beside them, and whether they are finite."""

import pytest
import torch
from torch import nn

from stylegan_ray.train.gradients import Gradients


def test_gradients_and_means_share_a_buffer():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    grads = Gradients(network, 4)
    network(torch.ones(1, 3)).sum().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert torch.equal(grads.flat[: grads.num_values], expected) and expected.any()
    grads.add_means({"loss": torch.tensor(3.0), "w": torch.tensor([1.0, 2.0])}, 0.5)
    assert grads.flat[grads.num_values :].tolist() == [1.5, 0.5, 1.0, 0.0]
    grads.zero()
    assert not grads.flat.any() and all(not parameter.grad.any() for parameter in network.parameters())


def test_means_are_weighted_by_shares_and_begin_anew():
    grads = Gradients(nn.Linear(2, 2), 3)
    for share, loss in ((0.25, 4.0), (0.75, 8.0)):
        grads.add_means({"loss": torch.tensor(loss), "w": torch.tensor([loss, 0.0])}, share)
    means = grads.reduce()
    assert means["loss"].shape == () and means["loss"] == 7 and means["w"].tolist() == [7, 0]
    grads.zero()
    grads.add_means({"other": torch.tensor(1.0)}, 1.0)
    assert grads.reduce() == {"other": torch.tensor(1.0)} and means["loss"] == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_found_at_every_place(value):
    grads = Gradients(nn.Linear(299, 7), 4)
    grads.flat.copy_(torch.randn(len(grads.flat), generator=torch.Generator().manual_seed(0)))
    grads.flat[grads.num_values :] = value
    assert grads.are_finite(), "means are no gradients"
    for place in (*range(40), 1000, grads.num_values - 1):
        before = grads.flat[place].clone()
        grads.flat[place] = value
        assert not grads.are_finite(), place
        grads.flat[place] = before
