"""Names, layouts and conventions of the TensorFlow programs."""

import numpy as np
import pytest
import torch

from stylegan_ray.interop.tensorflow import build, model_config, network_from_tf, tf_gradients, tf_variables, truncation

KWARGS = {"latent_size": 6, "dlatent_size": 5, "mapping_fmaps": 7, "label_size": 2, "num_channels": 3,
          "resolution": 16, "fmap_base": 32, "fmap_max": 6}  # fmt: skip
FUNCS = {
    "networks_stylegan2.G_main": {},
    "networks_stylegan2.D_stylegan2": {"architecture": "skip"},
    "networks_stylegan2.G_synthesis_stylegan_revised": {},
    "networks_stylegan2.D_stylegan": {},
    "training.networks_stylegan.G_style": {"const_input_layer": False},
    "networks_stylegan.D_basic": {"fused_scale": True},
}


@pytest.fixture(params=FUNCS)
def exported(request):
    """A function, its arguments, and random variables for it."""
    func, kwargs = request.param, KWARGS | FUNCS[request.param]
    rng = np.random.default_rng(0)
    shapes = {name: array.shape for name, array in tf_variables(build(func, kwargs)).items()}
    return func, kwargs, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_variables_go_in_and_out_unchanged(exported):
    func, kwargs, variables = exported
    back = tf_variables(network_from_tf(func, kwargs, variables))
    assert back.keys() == variables.keys()
    for name, value in variables.items():
        np.testing.assert_allclose(back[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_missing_and_unknown_variables_are_named(exported):
    func, kwargs, variables = exported
    name = next(iter(variables))
    with pytest.raises(ValueError, match=f"missing .*{name}"):
        network_from_tf(func, kwargs, {key: value for key, value in variables.items() if key != name})
    with pytest.raises(ValueError, match=r"not used .*'surprise'"):
        network_from_tf(func, kwargs, variables | {"surprise": np.zeros(1)})
    with pytest.raises(ValueError, match=name):
        network_from_tf(func, kwargs, variables | {name: np.zeros((3, 2, 1))})


def test_gradients_follow_their_variables(exported):
    """A step along a gradient in the original's layout is the same step in ours."""
    func, kwargs, variables = exported
    network = network_from_tf(func, kwargs, variables)
    loss = sum((p * torch.randn_like(p)).sum() for p in network.parameters())
    loss.backward()
    gradients = tf_gradients(network)
    moved = network_from_tf(func, kwargs, {n: v + gradients.get(n, 0) for n, v in variables.items()})
    for (name, before), after in zip(network.named_parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(after - before, before.grad, atol=1e-5, rtol=1e-5, msg=name)


def test_unknown_functions_and_arguments_are_refused():
    with pytest.raises(ValueError, match=r"pggan\.G_paper is not known"):
        model_config("pggan.G_paper", {})
    with pytest.raises(ValueError, match="fmap_bsae"):
        model_config("networks_stylegan2.G_main", {"fmap_bsae": 3})
    with pytest.raises(ValueError, match=r"model\.nonlinearity='tanh'"):
        model_config("networks_stylegan2.G_main", {"nonlinearity": "tanh"})


def test_defaults_of_the_originals():
    cfg = model_config("networks_stylegan2.G_main", {"resample_kernel": None})
    assert cfg.resample_kernel is None and cfg.fmap_base == 16384 and cfg.G_architecture == "skip"
    cfg = model_config("networks_stylegan.D_basic", {"fused_scale": False, "blur_filter": None})
    assert (cfg.family, cfg.fused_scale, cfg.blur_filter, cfg.fmap_base) == ("stylegan1", "off", None, 8192)


@pytest.mark.parametrize(
    ("func", "run_kwargs", "expected"),
    [
        ("networks_stylegan2.G_main", {}, (0.5, None)),
        ("networks_stylegan2.G_main", {"truncation_psi": 0.7, "truncation_cutoff": 3}, (0.7, 3)),
        ("networks_stylegan2.G_main", {"is_validation": True}, (1.0, None)),
        ("networks_stylegan2.G_main", {"is_validation": True, "truncation_psi_val": 0.6}, (0.6, None)),
        ("networks_stylegan.G_style", {}, (0.7, 8)),
        ("networks_stylegan.G_style", {"truncation_cutoff": None}, (1.0, None)),
        ("networks_stylegan.G_style", {"is_validation": True, "truncation_psi_val": 0.6}, (1.0, None)),
        ("networks_stylegan.G_style", {"is_training": True}, (1.0, None)),
    ],
)
def test_truncation_of_both_families(func, run_kwargs, expected):
    assert truncation(func, run_kwargs) == expected
