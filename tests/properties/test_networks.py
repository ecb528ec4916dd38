"""Network files and files of w are read back bit for bit, whatever the networks."""

import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.properties import examples

from stylegan_ray.config import ConfigError, RunConfig, load_config
from stylegan_ray.images.saved_w import load_w, save_w
from stylegan_ray.interop.native import networks_from_bytes, save_network
from stylegan_ray.networks import build_discriminator, build_generator

SMALL = {
    "model.z_dim": 4, "model.w_dim": 4, "model.mapping_fmaps": 4, "model.mapping_layers": 1, "model.fmap_base": 16,
    "model.fmap_max": 4,
}  # fmt: skip
LABEL_SIZES = st.sampled_from([0, 3])


@st.composite
def network_configs(draw: st.DrawFn) -> RunConfig:
    """Small networks of all families and architectures."""
    keys = {
        "model.family": st.sampled_from(["stylegan2", "revised", "stylegan1"]),
        "model.G_architecture": st.sampled_from(["skip", "resnet", "orig"]),
        "model.D_architecture": st.sampled_from(["skip", "resnet", "orig"]),
        "model.label_mode": st.sampled_from(["joint", "separate"]),
        "model.z_dim": st.integers(1, 6), "model.w_dim": st.integers(1, 6), "model.mapping_layers": st.integers(1, 3),
        "model.fmap_decay": st.floats(0.25, 2), "model.mapping_lrmul": st.floats(1e-3, 1),
        "model.mbstd_group_size": st.none() | st.integers(0, 4), "model.use_noise": st.booleans(),
        "model.resample_kernel": st.none() | st.just((1.0, 2.0, 1.0)),
    }  # fmt: skip
    chosen = {key: draw(values) for key, values in keys.items() if draw(st.booleans())}
    try:
        return load_config("config-f", SMALL | chosen)
    except ConfigError:
        return load_config("config-f", SMALL)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks have equal tensors of equal types, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and ours[name].numpy().tobytes() == theirs[name].numpy().tobytes()
        for name in ours
    )


@examples(12)
@given(
    network_configs(), LABEL_SIZES, st.sampled_from([1, 3]), st.integers(0, 2**40), st.floats(0, 1),
    st.none() | st.floats(0, 1), st.sets(st.sampled_from(["G", "D", "G_ema"]), min_size=1), st.integers(0, 99),
)  # fmt: skip
def test_a_network_file_is_its_networks(cfg, label_size, channels, nimg, lod, augment_p, parts, seed):
    torch.manual_seed(seed)
    lod = 0.0 if cfg.model.family == "stylegan2" else lod  # they do not grow
    shape = (8, channels, label_size)
    networks = {
        part: (build_discriminator if part == "D" else build_generator)(cfg.model, *shape) if part in parts else None
        for part in ("G", "D", "G_ema")
    }
    content = save_network(*networks.values(), cfg, nimg, lod=lod, augment_p=augment_p)
    found = networks_from_bytes(content)
    assert found.config == cfg and (found.cur_nimg, found.lod, found.augment_p) == (nimg, lod, augment_p)
    assert set(found.parts()) == parts
    for part in parts:
        assert same(networks[part], getattr(found, part)), part
    again = save_network(found.G, found.D, found.G_ema, found.config, found.cur_nimg, None, found.lod, found.augment_p)
    assert json.loads(header(again)) == json.loads(header(content)) and tensors(again) == tensors(content)


def header(content: bytes) -> bytes:
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def tensors(content: bytes) -> bytes:
    return content[8 + int.from_bytes(content[:8], "little") :]


@pytest.fixture(scope="module")
def G():
    return build_generator(load_config("config-f", SMALL).model, 8, 3, 0)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@examples(30)
@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=3), st.integers(0, 99), FLOATS)
def test_files_of_w_are_the_images(G, files, seed, value):
    """Several files, with and without noise maps, are one batch."""
    rng = torch.Generator().manual_seed(seed)
    shapes = G.synthesis.noise_shapes(1)
    with TemporaryDirectory() as root:
        paths, ws, maps = [], [], []
        for number, (num, has_noise) in enumerate(files):
            w = torch.randn(num, G.synthesis.num_ws, G.w_dim, generator=rng)
            w[0, 0, 0] = value
            noise = [torch.randn(num, *shape[1:], generator=rng) for shape in shapes] if has_noise else []
            path = Path(root, f"{number}.npz")
            path.write_bytes(save_w(w, noise))
            paths.append(str(path))
            ws.append(w)
            maps.append(noise)
        found = load_w(paths, G)
        assert torch.equal(found.ws, torch.cat(ws)) and len(set(found.names)) == len(found.ws)
        assert (found.noise is None) == (not any(maps))
        start = 0
        for w, noise in zip(ws, maps, strict=True):
            for layer, of_layer in enumerate(noise):
                assert torch.equal(found.noise[layer][start : start + len(w)], of_layer)
            start += len(w)
        with np.load(io.BytesIO(Path(paths[0]).read_bytes()), allow_pickle=False) as file:
            assert np.array_equal(file["w"], ws[0].numpy())
