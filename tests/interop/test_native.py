"""Our own network files."""

import json

import pytest
import safetensors.torch
import torch

from stylegan_ray.config import ModelConfig
from stylegan_ray.interop import load_network, save_network
from stylegan_ray.interop.native import networks_from_bytes, stated_networks


def metadata_of(content):
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("family", ["stylegan2", "revised", "stylegan1"])
def test_a_file_brings_back_every_tensor(made, same, family):
    cfg, G, D, G_ema = made(**{"model.family": family})
    loaded = networks_from_bytes(save_network(G, D, G_ema, cfg, 1234))
    for part, network in zip(("G", "D", "G_ema"), (G, D, G_ema), strict=True):
        same(loaded.parts()[part], network)
    assert loaded.config == cfg and loaded.cur_nimg == 1234 and loaded.D_model is None
    z, labels = torch.randn(2, 6), torch.eye(2)
    assert torch.equal(loaded.G_ema(z, labels, psi=0.7), G_ema(z, labels, psi=0.7))


def test_the_header_of_a_file_is_checked_once(made, tmp_path):
    cfg, G, D, G_ema = made()
    (tmp_path / "a.safetensors").write_bytes(save_network(G, D, G_ema, cfg, 1234))
    stated_networks.cache_clear()
    load_network(tmp_path / "a.safetensors")
    assert stated_networks.cache_info().misses == 1


def test_float64_networks_stay_so(made, same):
    cfg, G, D, G_ema = made()
    parts = [network.double() for network in (G, D, G_ema)]
    loaded = networks_from_bytes(save_network(*parts, cfg, 0))
    same(loaded.G, parts[0])
    assert loaded.G(torch.randn(1, 6).double(), torch.eye(2)[:1].double()).dtype == torch.float64


def test_metadata_and_names(made):
    cfg, G, D, G_ema = made()
    content = save_network(G, D, G_ema, cfg, 5)
    metadata = metadata_of(content)
    assert metadata["cur_nimg"] == "5" and json.loads(metadata["resolution"]) == [16, 12]
    assert metadata["num_channels"] == "3" and metadata["label_size"] == "2"
    assert json.loads(metadata["config"])["model"]["z_dim"] == 6
    names = safetensors.torch.load(content)
    assert {"G.w_avg", "D.b16.fromrgb.weight", "G_ema.synthesis.b4.constant"} <= set(names)


def test_the_global_random_numbers_are_left_alone(made):
    content = save_network(*[(made())[i] for i in (1, 2, 3)], made()[0], 0)
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    networks_from_bytes(content)
    assert torch.equal(torch.randn(4), expected)


def test_a_discriminator_of_other_settings(made, same):
    cfg, G, _, G_ema = made()
    other = made(**{"model.fmap_max": 4})
    content = save_network(G, other[2], G_ema, cfg, 0, D_model=other[0].model)
    loaded = networks_from_bytes(content)
    same(loaded.D, other[2])
    assert loaded.D_model == ModelConfig.model_validate(other[0].model.model_dump())


def test_files_that_are_not_whole_say_so(made):
    cfg, G, D, G_ema = made()
    content = save_network(G, D, G_ema, cfg, 0)
    with pytest.raises(ValueError, match="safetensors file"):
        networks_from_bytes(content[:-100])
    with pytest.raises(ValueError, match="metadata lacks config, resolution, num_channels, label_size"):
        networks_from_bytes(safetensors.torch.save({"a": torch.ones(1)}))


def test_tensors_that_do_not_fit_are_named(made):
    cfg, G, D, G_ema = made()
    content = save_network(G, D, G_ema, cfg, 0)
    tensors, metadata = safetensors.torch.load(content), metadata_of(content)
    wide = tensors | {"D.b4.out.weight": torch.ones(2, 9)}
    with pytest.raises(ValueError, match=r"1 tensors of D do not fit.*b4\.out\.weight \(2, 9\) for \(2, 6\)"):
        networks_from_bytes(safetensors.torch.save(wide, metadata))
    del tensors["G_ema.w_avg"]
    with pytest.raises(ValueError, match="w_avg missing"):
        networks_from_bytes(safetensors.torch.save(tensors, metadata))


def test_a_file_cannot_ask_for_huge_networks(made):
    """Its configuration is compared with its tensors before any memory is taken."""
    cfg, G, D, G_ema = made()
    content = save_network(G, D, G_ema, cfg, 0)
    metadata = metadata_of(content)
    config = json.loads(metadata["config"])
    config["model"] |= {"fmap_base": 2**25, "fmap_max": 2**14, "w_dim": 2**14}
    metadata["config"] = json.dumps(config)
    with pytest.raises(ValueError, match="do not fit the configuration"):
        networks_from_bytes(safetensors.torch.save(safetensors.torch.load(content), metadata))


def test_files_of_later_formats_are_refused(made):
    cfg, G, D, G_ema = made()
    content = save_network(G, D, G_ema, cfg, 0)
    metadata = metadata_of(content) | {"format_version": "999"}
    with pytest.raises(ValueError, match="999 is newer"):
        networks_from_bytes(safetensors.torch.save(safetensors.torch.load(content), metadata))


def test_the_lod_of_a_growing_run_is_kept(made):
    cfg, G, D, G_ema = made(**{"model.family": "revised"})
    assert networks_from_bytes(save_network(G, D, G_ema, cfg, 5, lod=0.1 + 0.2)).lod == 0.1 + 0.2
    assert networks_from_bytes(save_network(G, D, G_ema, cfg, 5)).lod == 0
