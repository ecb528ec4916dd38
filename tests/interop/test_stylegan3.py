"""Pickles of the StyleGAN3 programs, and of older torch: built here as those programs write them."""

import io
import pickle
import sys
import types

import pytest
import torch

from stylegan_ray.interop import load_network, read_networks
from stylegan_ray.interop.nvidia import model_config
from stylegan_ray.networks import build_discriminator, build_generator

LAYER = {"activation": "lrelu", "conv_clamp": 256, "use_noise": True}
G_KWARGS = {
    "z_dim": 6, "c_dim": 0, "w_dim": 5, "img_resolution": 16, "img_channels": 3, "mapping_kwargs": {"num_layers": 2},
    "channel_base": 64, "channel_max": 6, "fused_modconv_default": "inference_only", "num_fp16_res": 4,
}  # fmt: skip
D_KWARGS = {
    "c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 6, "block_kwargs": {},
    "mapping_kwargs": {}, "epilogue_kwargs": {"mbstd_group_size": 8},
}  # fmt: skip


class Persistent:
    """Pickles as an object of the port's persistence layer."""

    def __init__(self, class_name, state):
        self.meta = {"type": "class", "version": 6, "module_src": "", "class_name": class_name, "state": state}

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


class Legacy:
    """Pickles as a tensor of a torch before 1.6, whose storage was on a GPU."""

    def __init__(self, tensor, device="cuda:0"):
        self.tensor, self.device = tensor, device

    def __reduce__(self):
        file = io.BytesIO()
        storage = torch.TypedStorage(
            wrap_storage=self.tensor.contiguous().untyped_storage(), dtype=self.tensor.dtype, _internal=True
        )
        torch.save(storage, file, _use_new_zipfile_serialization=False)
        content = file.getvalue().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00" + self.device.encode())
        return torch._utils._rebuild_tensor_v2, (
            Storage(content), 0, tuple(self.tensor.shape), self.tensor.contiguous().stride(), False, None,
        )  # fmt: skip


class Storage:
    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


@pytest.fixture
def persistence(monkeypatch):
    """The module that pickles name; it is not there when they are read."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("executed")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)


def stored(network, class_name, kwargs, tensor=lambda value: value, **own):
    """A network of ours as the pickled modules of the port: nested, with its names."""
    tree = {}
    for name, value in network.state_dict().items():
        name = {"w_avg": "mapping.w_avg"}.get(name, name.replace("dense0", "fc0").replace("constant", "const"))
        name = name.replace("dense1", "fc1") if name.startswith("mapping") else name
        name = name.replace("fc0", "fc") if name.startswith("b4.") else name
        value = value.reshape(value.shape[1:] if name.endswith(".const") else value.shape)
        value = value[0, 0] if name.endswith("noise_const") else value
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return _module(tree, class_name, tensor, {"_init_args": (), "_init_kwargs": kwargs, **own})


def _module(node, class_name, tensor, own):
    children = {name: part for name, part in node.items() if isinstance(part, dict)}
    extra = {"mapping": {"w_avg_beta": 0.998}, "conv0": LAYER, "conv1": LAYER}
    state = {
        "training": False, **own,
        "_parameters": {name: tensor(part) for name, part in node.items() if not isinstance(part, dict)},
        "_buffers": {}, "_non_persistent_buffers_set": set(),
        "_modules": {name: _module(part, "Layer", tensor, extra.get(name, {})) for name, part in children.items()},
    }  # fmt: skip
    return Persistent(class_name, state)


@pytest.fixture
def networks():
    shape = {key: G_KWARGS[key] for key in ("z_dim", "w_dim", "mapping_kwargs")}
    cfg = model_config("G", shape | {"synthesis_kwargs": {"channel_base": 64, "channel_max": 6}})
    torch.manual_seed(0)
    G, D = build_generator(cfg, 16, 3, 0), build_discriminator(cfg, 16, 3, 0)
    G.w_avg.normal_()
    return G, D


def write(path, G, D, tensor=lambda value: value, G_kwargs=G_KWARGS):
    parts = {
        "G": stored(G, "Generator", G_kwargs, tensor), "D": stored(D, "Discriminator", D_KWARGS, tensor),
        "G_ema": stored(G, "Generator", G_kwargs, tensor), "augment_pipe": None, "training_set_kwargs": {"path": "x"},
    }  # fmt: skip
    path.write_bytes(pickle.dumps(parts, protocol=4))


def test_stylegan2_networks_of_the_stylegan3_programs(networks, persistence, monkeypatch, tmp_path):
    """Flat arguments, and defaults that only the layers state."""
    write(tmp_path / "stylegan2-ffhq.pkl", *networks)
    monkeypatch.undo()
    found = read_networks(tmp_path / "stylegan2-ffhq.pkl")
    model, z = found.config.model, torch.randn(3, 6)
    assert (model.conv_clamp, model.dlatent_avg_beta, model.mbstd_group_size) == (256, 0.998, 8)
    assert (model.fmap_base, model.label_mode) == (32, "separate")
    assert torch.equal(found.G_ema(z, psi=0.7), networks[0](z, psi=0.7))
    images = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(found.D(images), networks[1](images)), "groups of 8, not 4"
        networks[1].b4.mbstd_group_size = 8
        assert torch.equal(found.D(images), networks[1](images))


@pytest.mark.parametrize("device", ["cuda:0", "cuda:7"])
def test_storages_of_older_torch(networks, persistence, monkeypatch, tmp_path, device):
    write(tmp_path / "ada.pkl", *networks, tensor=lambda value: Legacy(value, device))
    assert device.encode() in (tmp_path / "ada.pkl").read_bytes()
    monkeypatch.undo()
    found, z = load_network(tmp_path / "ada.pkl"), torch.randn(3, 6)
    assert torch.equal(found["G"](z), networks[0](z))


def test_numbers_too_large_for_float32_are_refused(networks, persistence, monkeypatch, tmp_path):
    networks[1].double().b4.out.bias.data.fill_(1e300)
    write(tmp_path / "ada.pkl", *networks)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"ada\.pkl: tensor b4\.out\.bias of D holds NaN or infinite values"):
        load_network(tmp_path / "ada.pkl")


def test_a_stylegan3_network_is_named(networks, persistence, monkeypatch, tmp_path):
    G, D = networks
    G.synthesis.add_module("input", torch.nn.Linear(2, 2))
    write(tmp_path / "stylegan3-t-ffhq.pkl", G, D)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"stylegan3-t-ffhq\.pkl: expected .*found a network of StyleGAN3.*stylegan2-"):
        load_network(tmp_path / "stylegan3-t-ffhq.pkl")


@pytest.mark.parametrize("name", ["network.pkl", "network.pt", "network.safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 381673535\n", "381,673,535 bytes.*git lfs"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html><head><title>Sign\nin</title>", "HTML page titled 'Sign.*browser"),
        (b"<html>" + b"x" * 9000, "HTML page: the download"),
        (b"GIF89a" + bytes(100), r"found neither.*GIF89a"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){name}: expected a network file: .*{words}"):
        load_network(tmp_path / name)


def test_truncated_files_say_what_to_do(networks, persistence, monkeypatch, tmp_path):
    write(tmp_path / "ada.pkl", *networks)
    monkeypatch.undo()
    content = (tmp_path / "ada.pkl").read_bytes()
    for size in (len(content) // 3, len(content) - 1):
        (tmp_path / "ada.pkl").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"ada\.pkl: the pickle cannot be read.*download it again"):
            load_network(tmp_path / "ada.pkl")
