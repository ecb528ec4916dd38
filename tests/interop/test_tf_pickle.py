"""Pickles in the TensorFlow format, as our own reader and another one find them."""

import io
import pickle

import pytest
import torch

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import read_networks
from stylegan_ray.interop.native import Networks
from stylegan_ray.interop.tf_pickle import write


@pytest.mark.parametrize(
    ("labels", "overrides"),
    [
        (2, {}),
        (0, {"model.resample_kernel": None, "model.mapping_lrmul": 0.1, "model.mbstd_group_size": 2}),
        (2, {"model.G_architecture": "resnet", "model.D_architecture": "skip", "model.use_noise": False}),
        (0, {"model.label_mode": "separate"}),
        (2, {"model.family": "revised"}),
        (2, {"model.family": "stylegan1", "model.fused_scale": "on", "model.const_input_layer": False}),
        (0, {"model.family": "stylegan1", "model.blur_filter": None}),
    ],
)
def test_out_and_in_again(made, same, tmp_path, labels, overrides):
    cfg, *parts = made(16, 3, labels, **overrides)
    lod = 0.5 if cfg.model.family != "stylegan2" else 0.0
    (tmp_path / "network.pkl").write_bytes(write(Networks(*parts, config=cfg, lod=lod)).content)
    again = read_networks(tmp_path / "network.pkl")
    z, label = torch.randn(2, 6), torch.eye(2)[:, :labels]
    for name, ours in zip(("G", "D", "G_ema"), parts, strict=True):
        theirs = again.parts()[name]
        for key, value in ours.state_dict().items():  # style biases are stored less one
            torch.testing.assert_close(theirs.state_dict()[key], value, atol=1e-6, rtol=0)
        if name != "D":
            torch.testing.assert_close(theirs(z, label, psi=0.7, lod=lod), ours(z, label, psi=0.7, lod=lod))
    images = torch.randn(4, 3, 16, 16)
    label = label.repeat(2, 1)
    torch.testing.assert_close(again.D(images, label, lod=lod), parts[1](images, label, lod=lod))
    assert again.lod == lod


def test_a_plain_unpickler_finds_what_the_format_promises(made):
    """The class by name, version 4, arguments, components, and arrays in the original's names and order of axes."""

    class Network:
        pass

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return (
                Network if (module, name) == ("dnnlib.tflib.network", "Network") else super().find_class(module, name)
            )

    cfg, *parts = made(16, 3, 0)
    content = write(Networks(*parts, config=cfg)).content
    assert b"numpy._core" not in content
    G, D, Gs = Unpickler(io.BytesIO(content)).load()
    assert [n.build_func_name for n in (G, D, Gs)] == ["G_main", "D_stylegan2", "G_main"]
    assert Gs.version == 4 and Gs.name == "Gs" and Gs.build_module_src == ""
    assert Gs.static_kwargs["resolution"] == 16 and Gs.static_kwargs["latent_size"] == 6
    assert Gs.components["mapping"].static_kwargs["dlatent_broadcast"] == 6
    synthesis = dict(Gs.components["synthesis"].variables)
    assert synthesis["16x16/Conv0_up/weight"].shape == (3, 3, 6, 4)
    assert {"4x4/Const/const", "noise0", "16x16/ToRGB/mod_weight", "lod"} <= synthesis.keys()
    assert dict(Gs.variables)["dlatent_avg"].shape == (5,)
    assert dict(D.variables)["16x16/Skip/weight"].shape == (1, 1, 4, 6)


def test_networks_that_the_format_cannot_hold(made):
    cfg, *parts = made(16, 3, 2, **{"model.label_mode": "separate"})
    with pytest.raises(ConfigError, match=r"model\.label_mode=separate with labels"):
        write(Networks(*parts, config=cfg))
    cfg, *parts = made(16, 3, 0, **{"model.label_mode": "separate", "model.fmap_base": 8})
    with pytest.raises(ConfigError, match=r"label_mode=separate: b4\.dense0\.weight of D is \(4, 64\)"):
        write(Networks(*parts, config=cfg))
    cfg, G, _, G_ema = made(16, 3, 0)
    with pytest.raises(ConfigError, match="the source has no D"):
        write(Networks(G, None, G_ema, config=cfg))
    cfg, *parts = made((16, 12), 3, 0)
    with pytest.raises(ConfigError, match="16 x 12"):
        write(Networks(*parts, config=cfg))


def test_clamping_is_noted(made):
    cfg, *parts = made(16, 3, 0, **{"model.conv_clamp": 256})
    assert any("conv_clamp=256" in note for note in write(Networks(*parts, config=cfg)).notes)
