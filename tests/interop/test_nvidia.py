"""Keyword arguments and states of the PyTorch port."""

import pytest
import torch

from stylegan_ray.interop.nvidia import model_config, network_from_ada
from stylegan_ray.networks import build_generator

G = {"z_dim": 6, "c_dim": 0, "w_dim": 5, "img_resolution": 16, "img_channels": 3}


def test_defaults_of_the_port():
    cfg = model_config("G", G)
    assert (cfg.label_mode, cfg.fmap_base, cfg.fmap_max, cfg.mapping_fmaps) == ("separate", 16384, 512, 5)
    cfg = model_config("D", {"c_dim": 0, "img_resolution": 16, "img_channels": 3})
    assert (cfg.D_architecture, cfg.mbstd_group_size, cfg.D_mapping_layers) == ("resnet", 4, 8)


def test_nested_arguments():
    cfg = model_config("G", G | {"mapping_kwargs": {"num_layers": 2, "layer_features": 9, "embed_features": 4},
                                 "synthesis_kwargs": {"channel_base": 64, "resample_filter": [1, 2, 1]}})  # fmt: skip
    assert (cfg.mapping_layers, cfg.mapping_fmaps, cfg.mapping_embed, cfg.fmap_base) == (2, 9, 4, 32)
    assert cfg.resample_kernel == (1, 2, 1)
    assert model_config("D", {"epilogue_kwargs": {"mbstd_group_size": None}}).mbstd_group_size is None
    assert model_config("D", {"epilogue_kwargs": {"mbstd_num_channels": 0}}).mbstd_group_size == 0


def test_what_is_not_known_is_named():
    with pytest.raises(ValueError, match=r"synthesis_kwargs\.kernal_size"):
        model_config("G", G | {"synthesis_kwargs": {"kernal_size": 5}})
    with pytest.raises(ValueError, match="'E' must be"):
        model_config("E", G)


def test_states_must_fit():
    kwargs = G | {"synthesis_kwargs": {"channel_base": 64, "channel_max": 6}}
    ours = build_generator(model_config("G", kwargs), 16, 3, 0).state_dict()
    state = {name.replace("dense", "fc").replace(".constant", ".const"): value for name, value in ours.items()}
    state["mapping.w_avg"] = state.pop("w_avg")
    assert torch.equal(network_from_ada("G", kwargs, state).synthesis.b4.constant, ours["synthesis.b4.constant"])
    with pytest.raises(ValueError, match=r"missing .*b8\.conv0\.bias"):
        network_from_ada("G", kwargs, {name: v for name, v in state.items() if name != "synthesis.b8.conv0.bias"})
    with pytest.raises(ValueError, match=r"b8\.conv0\.bias is \(2,\) in the file"):
        network_from_ada("G", kwargs, state | {"synthesis.b8.conv0.bias": torch.zeros(2)})
