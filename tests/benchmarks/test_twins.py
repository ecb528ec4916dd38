"""Networks on plain twins: the same values, by other operations."""

import pytest
import torch
from support.toy import CHANNELS, LABELS, RESOLUTION, toy_config

from benchmarks.twins import plain_twins, twins_by_id
from stylegan_ray import ops
from stylegan_ray.networks import build_discriminator, build_generator, layers
from stylegan_ray.ops import fir
from stylegan_ray.train import losses


@pytest.fixture
def fast_filters(monkeypatch):
    """Counts the calls of the fast path that every resampling ends in."""
    calls = []
    apply = fir._UpFirDn.apply
    monkeypatch.setattr(fir._UpFirDn, "apply", lambda *args: calls.append(args) or apply(*args))
    return calls


def gradients(G, D):
    z = torch.randn(4, G.z_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.eye(LABELS, dtype=torch.float64)[[0, 1, 2, 0]]
    loss = D(G(z, labels, noise="const"), labels).square().sum()
    return torch.autograd.grad(loss, [*G.parameters(), *D.parameters()], allow_unused=True)


@pytest.mark.parametrize("fused_modconv", ["scaled", "grouped"])
def test_plain_twins_give_the_same_gradients_without_any_fast_path(fused_modconv, fast_filters):
    torch.manual_seed(0)
    model = toy_config(**{"model.fused_modconv": fused_modconv}).model
    G = build_generator(model, RESOLUTION, CHANNELS, LABELS).double()
    D = build_discriminator(model, RESOLUTION, CHANNELS, LABELS).double()
    fast = gradients(G, D)
    assert fast_filters
    fast_filters.clear()
    with plain_twins():
        plain = gradients(G, D)
    assert not fast_filters
    for a, b in zip(fast, plain, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_names_come_back_even_after_an_error():
    before = vars(layers).copy()
    with pytest.raises(KeyError), plain_twins():
        assert layers.bias_act is not ops.bias_act
        raise KeyError
    assert vars(layers) == before


def test_every_operation_with_a_twin_is_exchanged():
    names = {"bias_act", "conv2d", "conv_transpose2d", "to_memory_format", "modulated_conv2d", "upfirdn2d"}
    assert {id(getattr(ops, name)) for name in names} <= set(twins_by_id())
    assert id(losses.score) in twins_by_id()
