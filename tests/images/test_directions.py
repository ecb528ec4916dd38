"""Directions in w: SeFa against its definition, GANSpace against numpy, edits of chosen layers."""

import numpy as np
import pytest
import torch

from stylegan_ray.config import ConfigError, ModelConfig
from stylegan_ray.images.directions import Directions, Edit, find_directions, ganspace, sefa, style_weights
from stylegan_ray.networks import build_generator


def generator(family="stylegan2", **keys):
    torch.manual_seed(2)
    return build_generator(ModelConfig(z_dim=6, w_dim=6, mapping_fmaps=6, fmap_max=8, family=family, **keys), 16, 3, 0)


def check_axes(vectors):
    """Orthogonal unit vectors whose component of largest magnitude is positive."""
    torch.testing.assert_close(vectors @ vectors.t(), torch.eye(len(vectors)).to(vectors))
    assert (vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("layers", [None, [2, 3], [5]])
def test_sefa_moves_styles_most(layers):
    """|A n| falls from direction to direction, and no other unit vector moves styles more than the first."""
    G = generator()
    found = sefa(G.synthesis, layers)
    check_axes(found.vectors)
    A = torch.cat([w for i, w in enumerate(style_weights(G.synthesis)) if layers is None or i in layers]).double()
    moves = (A @ found.vectors.t()).norm(dim=0)
    assert (moves[:-1] >= moves[1:] - 1e-9).all()
    torch.testing.assert_close(moves, torch.linalg.svdvals(A)[:6], atol=1e-7, rtol=1e-7)
    assert torch.equal(found.scales, torch.ones(6).double())


@pytest.mark.parametrize("family", ["stylegan2", "revised", "stylegan1"])
def test_style_weights_are_those_that_act_on_each_w(family):
    """A change of w in layer i changes the styles that its own affine layer computes, and by its weight."""
    G = generator(family)
    weights = style_weights(G.synthesis)
    assert len(weights) == G.synthesis.num_ws
    names = ("affine",) if family != "stylegan1" else ("style",)
    seen = []
    for name, module in G.synthesis.named_modules():
        if name.rpartition(".")[2] in names:
            module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output.detach().clone())))

    def styles(ws):
        seen.clear()
        with torch.no_grad():
            G.synthesis(ws)
        return list(seen)

    ws = torch.randn(1, G.synthesis.num_ws, 6)
    before, step = styles(ws), torch.randn(6)
    for layer, weight in enumerate(weights):
        changed = ws.clone()
        changed[:, layer] += step
        moves = [b[1] - a[1] for a, b in zip(before, styles(changed), strict=True) if not torch.equal(a[0], b[0])]
        expected = weight @ step
        assert any(m.shape[1] == len(expected) and torch.allclose(m[0], expected, atol=1e-5) for m in moves)


def test_ganspace_is_a_principal_component_analysis():
    w = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 3.0, 0.5, 2.0]) + 7
    found = ganspace(w)
    check_axes(found.vectors)
    values = np.linalg.eigvalsh(np.cov(w.double().numpy().T))[::-1]
    np.testing.assert_allclose(found.scales.numpy(), np.sqrt(values), rtol=1e-9)
    projected = w.double() @ found.vectors[0]
    assert projected.std().item() == pytest.approx(found.scales[0].item())


def test_edits_move_the_chosen_layers_by_the_strength():
    directions = Directions(torch.eye(3), torch.tensor([1.0, 2.0, 4.0]))
    ws = torch.zeros(2, 5, 3)
    styles = Edit(directions, [2, 0], [1, 4]).apply(ws, [-1.0, 0.5])
    assert styles.shape == (2, 2, 2, 5, 3)
    moved = styles[1, 0, 1]
    assert moved[1].tolist() == moved[4].tolist() == [0, 0, 2.0] and not moved[[0, 2, 3]].any()
    assert styles[0, 1, 0, 1].tolist() == [-1.0, 0, 0]


def test_mistakes_name_what_there_is():
    G = generator()
    with pytest.raises(ConfigError, match="layers 0 to 5"):
        find_directions(G, "sefa", [6])
    with pytest.raises(ConfigError, match="directions 0 to 5"):
        Edit(find_directions(G, "ganspace"), [6])
    with pytest.raises(ConfigError, match="use ganspace"):
        find_directions(generator("stylegan1", use_styles=False), "sefa")
