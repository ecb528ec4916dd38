"""Losses as objects: the registry, what is drawn and what is computed, D called together and apart."""

import math
from typing import get_args

import pytest
import torch
from support.toy import placed, toy_config, toy_state

from stylegan_ray.config import LossConfig
from stylegan_ray.train.losses import OBJECTIVES_D, OBJECTIVES_G, R1, losses_of, score, squared_gradient_norm

PAIRS = [("G", name) for name in OBJECTIVES_G] + [("D", name) for name in OBJECTIVES_D]


@pytest.mark.parametrize(("key", "objectives"), [("G", OBJECTIVES_G), ("D", OBJECTIVES_D)])
def test_the_registry_knows_every_name_of_the_configuration(key, objectives):
    assert set(objectives) == set(get_args(LossConfig.model_fields[key].annotation))


@pytest.mark.parametrize(
    ("network", "key", "others"),
    [
        ("G", "loss.pl_weight", {}),
        ("D", "loss.r1_gamma", {"loss.D": "logistic_r1"}),
        ("D", "loss.r1_gamma", {"loss.D": "rpgan"}),
        ("D", "loss.wgan_lambda", {"loss.D": "wgan_gp"}),
    ],
)
def test_a_penalty_of_weight_0_is_left_out(network, key, others):
    assert len(losses_of(toy_config(**others), network)) == 2
    assert len(losses_of(toy_config(**others, **{key: 0}), network)) == 1


@pytest.mark.parametrize(("network", "name"), PAIRS)
def test_compute_draws_and_changes_nothing(network, name):
    """Twice the same tensors give the same outcome, and neither weights, feedback nor torch's generator move."""
    cfg = toy_config(**{f"loss.{network}": name, "train.dtype": "float64"})
    state = toy_state(cfg)
    before, generator = {k: v.clone() for k, v in state.tensors().items()}, torch.get_rng_state()
    batch = placed(cfg, state)[1]
    for loss in losses_of(cfg, network):
        tensors = loss.draw(batch)
        first, second = (loss.compute(state.networks, tensors) for _ in range(2))
        assert first.loss.ndim == 1 and torch.equal(first.loss, second.loss)
        assert all(not value.requires_grad and value.ndim <= 1 for value in first.means.values())
        again = loss.compute(state.networks, loss.draw(batch))
        assert torch.equal(first.loss, again.loss), "draws follow from the place in the stream"
    assert all(torch.equal(value, before[key]) for key, value in state.tensors().items())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("preset", ["config-f", "config-a", "config-d"])
def test_score_of_several_batches_is_the_score_of_each(preset):
    state = toy_state(toy_config(preset, **{"train.dtype": "float64"}))
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(4, *state.image_shape, dtype=torch.float64, generator=generator),
            torch.eye(3, dtype=torch.float64)[[0, 1, 2, first]],
        )
        for first in range(3)
    ]
    for augment in (None, lambda images: images.flip(3) * 2):
        apart = [score(state.D, [batch], augment=augment)[0] for batch in batches]
        together = score(state.D, batches, augment=augment)
        torch.testing.assert_close(list(together), apart, rtol=1e-10, atol=1e-12)
        assert together[0].shape == (4, 1)


def test_the_penalty_is_the_gradient_at_the_reals():
    cfg = toy_config(**{"train.dtype": "float64"})
    state = toy_state(cfg)
    images = torch.randn(2, *state.image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(3, dtype=torch.float64)[:2]
    given = images.clone().requires_grad_()
    (grads,) = torch.autograd.grad(state.D(given, labels).sum(), given)
    norms = squared_gradient_norm(state.D, images, labels, 0.0)
    torch.testing.assert_close(norms, grads.square().sum(dim=(1, 2, 3)))
    tensors = {"lod": 0.0, "reals": images, "real_labels": labels}
    outcome = R1(cfg.loss, 0.995).compute(state.networks, tensors)
    torch.testing.assert_close(outcome.loss, norms * cfg.loss.r1_gamma / 2)


@pytest.mark.parametrize(
    ("network", "name", "expected"),
    [
        ("G", "logistic", lambda fake, real: -math.log1p(math.exp(fake))),
        ("G", "logistic_ns", lambda fake, real: math.log1p(math.exp(-fake))),
        ("G", "wgan", lambda fake, real: -fake),
        ("G", "rpgan", lambda fake, real: math.log1p(math.exp(real - fake))),
        ("D", "logistic", lambda fake, real: math.log1p(math.exp(fake)) + math.log1p(math.exp(-real))),
        ("D", "wgan", lambda fake, real: fake - real + 0.001 * real**2),
        ("D", "rpgan", lambda fake, real: math.log1p(math.exp(fake - real))),
    ],
)
def test_formulas(network, name, expected):
    main, *_ = losses_of(toy_config(**{f"loss.{network}": name}), network)
    fake, real = torch.tensor([[0.5], [-2.0]], dtype=torch.float64), torch.tensor([[1.5], [3.0]], dtype=torch.float64)
    losses = main.per_sample(fake, real)
    assert losses.tolist() == pytest.approx([expected(f.item(), r.item()) for f, r in zip(fake, real, strict=True)])
