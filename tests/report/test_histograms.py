"""Histograms of weights."""

import pytest
import torch
from support.toy import toy_config, toy_state

from stylegan_ray.report.histograms import NUM_BINS, finite_weights, histogram_edges


@pytest.fixture
def state():
    return toy_state(toy_config())


def test_every_trainable_tensor_is_listed(state):
    found = dict(finite_weights({"G": state.G, "D": state.D}))
    parameters = {f"{part}/{name}": p for part in "GD" for name, p in getattr(state, part).named_parameters()}
    assert found.keys() == parameters.keys()
    assert all(torch.equal(found[name], parameter.detach()) for name, parameter in parameters.items())


def test_weights_that_are_not_finite_are_named(state, caplog):
    with torch.no_grad():
        state.D.get_parameter("b4.out.weight")[0, 0] = float("nan")
    assert len(list(finite_weights({"D": state.D}))) == len(list(state.D.parameters())) - 1
    assert "D.b4.out.weight" in caplog.text


@pytest.mark.parametrize("values", [torch.arange(-3.0, 4.0), torch.full((5,), 3.0), torch.zeros(1)])
def test_bins_hold_every_value(values):
    edges = histogram_edges(values)
    assert len(edges) == NUM_BINS + 1 and (edges[1:] > edges[:-1]).all()
    assert edges[0] <= values.min() and edges[-1] >= values.max()
