"""Files in rosinality's layout: names and shapes, what the tensors compute, and round trips."""

import argparse
import io
import os
import zipfile

import pytest
import torch
import torch.nn.functional as F

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import load_network, read_networks
from stylegan_ray.interop.native import Networks
from stylegan_ray.interop.rosinality import read, write

G_NAMES = {
    "style.1.weight": (7, 6), "style.1.bias": (7,), "style.2.weight": (5, 7), "style.2.bias": (5,),
    "input.input": (1, 6, 4, 4),
    "conv1.conv.weight": (1, 6, 6, 3, 3), "conv1.conv.modulation.weight": (6, 5), "conv1.conv.modulation.bias": (6,),
    "conv1.noise.weight": (1,), "conv1.activate.bias": (6,),
    "to_rgb1.bias": (1, 3, 1, 1), "to_rgb1.conv.weight": (1, 3, 6, 1, 1),
    "to_rgb1.conv.modulation.weight": (6, 5), "to_rgb1.conv.modulation.bias": (6,),
    "convs.0.conv.weight": (1, 6, 6, 3, 3), "convs.0.conv.blur.kernel": (4, 4),
    "convs.0.conv.modulation.weight": (6, 5), "convs.0.conv.modulation.bias": (6,), "convs.0.noise.weight": (1,),
    "convs.0.activate.bias": (6,),
    "convs.1.conv.weight": (1, 6, 6, 3, 3), "convs.1.conv.modulation.weight": (6, 5),
    "convs.1.conv.modulation.bias": (6,), "convs.1.noise.weight": (1,), "convs.1.activate.bias": (6,),
    "convs.2.conv.weight": (1, 4, 6, 3, 3), "convs.2.conv.blur.kernel": (4, 4),
    "convs.2.conv.modulation.weight": (6, 5), "convs.2.conv.modulation.bias": (6,), "convs.2.noise.weight": (1,),
    "convs.2.activate.bias": (4,),
    "convs.3.conv.weight": (1, 4, 4, 3, 3), "convs.3.conv.modulation.weight": (4, 5),
    "convs.3.conv.modulation.bias": (4,), "convs.3.noise.weight": (1,), "convs.3.activate.bias": (4,),
    "to_rgbs.0.bias": (1, 3, 1, 1), "to_rgbs.0.upsample.kernel": (4, 4), "to_rgbs.0.conv.weight": (1, 3, 6, 1, 1),
    "to_rgbs.0.conv.modulation.weight": (6, 5), "to_rgbs.0.conv.modulation.bias": (6,),
    "to_rgbs.1.bias": (1, 3, 1, 1), "to_rgbs.1.upsample.kernel": (4, 4), "to_rgbs.1.conv.weight": (1, 3, 4, 1, 1),
    "to_rgbs.1.conv.modulation.weight": (4, 5), "to_rgbs.1.conv.modulation.bias": (4,),
    "noises.noise_0": (1, 1, 4, 4), "noises.noise_1": (1, 1, 8, 8), "noises.noise_2": (1, 1, 8, 8),
    "noises.noise_3": (1, 1, 16, 16), "noises.noise_4": (1, 1, 16, 16),
}  # fmt: skip
D_NAMES = {
    "convs.0.0.weight": (4, 3, 1, 1), "convs.0.1.bias": (4,),
    "convs.1.conv1.0.weight": (4, 4, 3, 3), "convs.1.conv1.1.bias": (4,), "convs.1.conv2.0.kernel": (4, 4),
    "convs.1.conv2.1.weight": (6, 4, 3, 3), "convs.1.conv2.2.bias": (6,),
    "convs.1.skip.0.kernel": (4, 4), "convs.1.skip.1.weight": (6, 4, 1, 1),
    "convs.2.conv1.0.weight": (6, 6, 3, 3), "convs.2.conv1.1.bias": (6,), "convs.2.conv2.0.kernel": (4, 4),
    "convs.2.conv2.1.weight": (6, 6, 3, 3), "convs.2.conv2.2.bias": (6,),
    "convs.2.skip.0.kernel": (4, 4), "convs.2.skip.1.weight": (6, 6, 1, 1),
    "final_conv.0.weight": (6, 7, 3, 3), "final_conv.1.bias": (6,),
    "final_linear.0.weight": (6, 96), "final_linear.0.bias": (6,),
    "final_linear.1.weight": (1, 6), "final_linear.1.bias": (1,),
}  # fmt: skip


@pytest.fixture
def networks(made):
    """Networks of 16x16 pixels, without labels, with random biases and noise strengths."""

    def make(resolution=16, num_channels=3, **overrides):
        cfg, *parts = made(resolution, num_channels, 0, **overrides)
        for part in parts:
            for name, parameter in part.named_parameters():
                if "bias" in name or "strength" in name:
                    parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
        return Networks(*parts, config=cfg)

    return make


@pytest.fixture
def latents():
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def load(content):
    return torch.load(io.BytesIO(content), weights_only=True)


def save(found, **options):
    file = io.BytesIO()
    torch.save(found, file, **options)
    return file.getvalue()


def test_names_and_shapes(networks):
    found = load(write(networks()).content)
    assert found.keys() == {"g", "d", "g_ema", "latent_avg"}
    for key, names in (("g", G_NAMES), ("g_ema", G_NAMES), ("d", D_NAMES)):
        assert {name: tuple(value.shape) for name, value in found[key].items()} == names
    assert found["latent_avg"].shape == (5,)


def test_the_tensors_compute_what_the_layout_means(networks, latents):
    """A plain forward pass of the layout, one sample after the other, from the papers' formulas."""
    ours = networks()
    found = load(write(ours).content)
    images = torch.cat([plain_generator(found["g_ema"], z[None], found["latent_avg"], 0.7) for z in latents])
    torch.testing.assert_close(images, ours.G_ema(latents, psi=0.7), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(plain_discriminator(found["d"], images), ours.D(images), atol=2e-5, rtol=1e-4)


def plain_generator(state, z, latent_avg, psi):
    x = z * (z.square().mean() + 1e-8).rsqrt()
    for i in (1, 2):
        x = F.linear(x, state[f"style.{i}.weight"] * 0.01 / x.shape[1] ** 0.5, state[f"style.{i}.bias"] * 0.01)
        x = F.leaky_relu(x, 0.2) * 2**0.5
    w = latent_avg + psi * (x - latent_avg)
    x = plain_styled(state, "conv1", state["input.input"], w, state["noises.noise_0"])
    image = plain_rgb(state, "to_rgb1", x, w)
    for i in (0, 1):
        x = plain_styled(state, f"convs.{2 * i}", x, w, state[f"noises.noise_{2 * i + 1}"], up=True)
        x = plain_styled(state, f"convs.{2 * i + 1}", x, w, state[f"noises.noise_{2 * i + 2}"])
        image = plain_fir(F.pad(zeros_between(image), (2, 1, 2, 1)), state[f"to_rgbs.{i}.upsample.kernel"])
        image = image + plain_rgb(state, f"to_rgbs.{i}", x, w)
    return image


def plain_weight(state, name, w):
    """Modulated weight [O,I,k,k]: the style times the scaled weight."""
    style = F.linear(w, state[f"{name}.modulation.weight"] / w.shape[1] ** 0.5, state[f"{name}.modulation.bias"])
    weight = state[f"{name}.weight"][0]
    return weight / weight[0].numel() ** 0.5 * style[0, None, :, None, None]


def plain_styled(state, name, x, w, noise, up=False):
    weight = plain_weight(state, f"{name}.conv", w)
    weight = weight * (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).rsqrt()
    if up:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        x = plain_fir(F.pad(x, (1, 1, 1, 1)), state[f"{name}.conv.blur.kernel"])
    else:
        x = F.conv2d(x, weight, padding=1)
    x = x + state[f"{name}.noise.weight"] * noise + state[f"{name}.activate.bias"][:, None, None]
    return F.leaky_relu(x, 0.2) * 2**0.5


def plain_rgb(state, name, x, w):
    return F.conv2d(x, plain_weight(state, f"{name}.conv", w)) + state[f"{name}.bias"]


def zeros_between(x):
    y = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y[:, :, ::2, ::2] = x
    return y


def plain_fir(x, kernel, stride=1):
    channels = x.shape[1]
    return F.conv2d(x, kernel.flip((0, 1)).expand(channels, 1, -1, -1), stride=stride, groups=channels)


def plain_conv(state, name, x, bias=None, **options):
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight / weight[0].numel() ** 0.5, **options)
    return x if bias is None else F.leaky_relu(x + state[bias][:, None, None], 0.2) * 2**0.5


def plain_discriminator(state, x):
    x = plain_conv(state, "convs.0.0", x, "convs.0.1.bias")
    for i in (1, 2):
        y = plain_conv(state, f"convs.{i}.conv1.0", x, f"convs.{i}.conv1.1.bias", padding=1)
        y = plain_fir(F.pad(y, (2, 2, 2, 2)), state[f"convs.{i}.conv2.0.kernel"])
        y = plain_conv(state, f"convs.{i}.conv2.1", y, f"convs.{i}.conv2.2.bias", stride=2)
        x = plain_fir(F.pad(x, (1, 1, 1, 1)), state[f"convs.{i}.skip.0.kernel"])
        x = (y + plain_conv(state, f"convs.{i}.skip.1", x, stride=2)) / 2**0.5
    spread = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()  # one group of all
    x = torch.cat([x, spread.expand(len(x), 1, 4, 4)], dim=1)
    x = plain_conv(state, "final_conv.0", x, "final_conv.1.bias", padding=1).flatten(1)
    weight = state["final_linear.0.weight"]
    x = F.linear(x, weight / weight.shape[1] ** 0.5, state["final_linear.0.bias"])
    weight = state["final_linear.1.weight"]
    return F.linear(F.leaky_relu(x, 0.2) * 2**0.5, weight / weight.shape[1] ** 0.5, state["final_linear.1.bias"])


@pytest.mark.parametrize(
    ("resolution", "num_channels", "overrides"),
    [
        (16, 3, {}),
        (32, 1, {"model.fmap_base": 100, "model.fmap_max": 512}),
        (8, 3, {"model.resample_kernel": (1, 2, 1), "model.mapping_layers": 1}),
        (16, 3, {"model.resample_kernel": None, "model.mbstd_num_features": 2}),
        (16, 3, {"model.mbstd_group_size": 0, "model.label_mode": "separate", "model.fmap_base": 8}),
    ],
)
def test_out_and_in_again_is_bit_equal(networks, same, latents, resolution, num_channels, overrides):
    ours = networks(resolution, num_channels, **overrides)
    again = read(write(ours).content)
    for part, network in ours.parts().items():
        same(again.parts()[part], network) if part != "G" else None
    assert torch.equal(again.G_ema(latents, psi=0.7), ours.G_ema(latents, psi=0.7))
    assert torch.equal(again.G(latents), ours.G(latents))
    images = ours.G(latents)
    assert torch.equal(again.D(images), ours.D(images))


def test_networks_that_are_absent_are_left_out(networks, tmp_path):
    found = load(write(networks()).content)
    path = tmp_path / "g_ema.pt"
    torch.save({"g_ema": found["g_ema"], "latent_avg": found["latent_avg"]}, path)
    loaded = load_network(path)
    assert loaded.keys() == {"G_ema"}
    assert torch.equal(loaded["G_ema"].w_avg, found["latent_avg"])
    assert torch.equal(loaded["G_ema"].synthesis.b4.constant, found["g_ema"]["input.input"])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_checkpoints_of_its_training_are_read(networks, zipped):
    """They hold optimizers and options besides, and no latent_avg."""
    ours = networks()
    found = load(write(ours).content)
    del found["latent_avg"]
    found |= {"g_optim": {"state": {0: {"step": 3}}}, "args": argparse.Namespace(size=16, path="x"), "ada_aug_p": 0.2}
    again = read(save(found, _use_new_zipfile_serialization=zipped))
    assert torch.equal(again.D.b4.out.weight, ours.D.b4.out.weight)
    z = torch.randn(20_000, 6)
    torch.testing.assert_close(again.G_ema.w_avg, ours.G_ema.mapping(z).mean(dim=0), atol=0.02, rtol=0)
    assert torch.equal(again.G.w_avg, read(save(found)).G.w_avg), "computed from fixed latents"


def test_what_the_layout_cannot_hold_is_refused_by_key(networks, made):
    for overrides, key in (
        ({"model.G_architecture": "resnet"}, r"model\.G_architecture=resnet"),
        ({"model.D_architecture": "orig"}, r"model\.D_architecture=orig"),
        ({"model.family": "revised"}, r"model\.family=revised"),
        ({"model.nonlinearity": "relu"}, r"model\.nonlinearity=relu"),
        ({"model.mapping_lrmul": 0.1}, r"model\.mapping_lrmul=0\.1"),
        ({"model.use_noise": False}, r"model\.use_noise=False"),
    ):
        with pytest.raises(ConfigError, match=f"{key}.*safetensors"):
            write(networks(**overrides))
    with pytest.raises(ConfigError, match="resolution 16 x 12"):
        write(networks((16, 12)))
    cfg, *parts = made(16, 3, 2)
    with pytest.raises(ConfigError, match="labels of 2 numbers"):
        write(Networks(*parts, config=cfg))


def test_notes_say_what_the_class_needs(networks):
    notes = "\n".join(write(networks(num_channels=1, **{"model.conv_clamp": 256, "model.num_lowp_res": 1})).notes)
    for words in ("g_ema has 6, 6, 4 feature maps", "channels", "z_dim=6", "conv_clamp=256", "num_lowp_res"):
        assert words in notes
    full = {"model.fmap_base": 16384, "model.fmap_max": 512, "model.z_dim": 512, "model.w_dim": 512}
    assert write(networks(8, **full)).notes == ()


def test_hostile_and_damaged_files_are_refused(networks, tmp_path):
    content = write(networks()).content
    trace = tmp_path / "trace"

    class Call:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    squeezed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    found = load(content)
    wide, broken, other = (found | {"d": dict(found["d"])} for _ in range(3))
    wide["d"]["final_linear.1.weight"] = torch.ones(1, 9)
    broken["d"]["convs.0.1.bias"] = torch.full((4,), torch.nan)
    other["d"]["encoder.weight"] = torch.ones(1)
    stretched = found | {"latent_avg": None, "d": {"convs.0.0.weight": torch.ones(1).expand(40_000, 40_000)}}
    for damaged, words in (
        (content[: len(content) // 2], "incomplete or damaged"),
        (save(found, _use_new_zipfile_serialization=False)[:-500], "incomplete"),
        (save({"g_ema": Call()}), "nothing of it was executed"),
        (squeezed.getvalue(), "compressed"),
        (save([1, 2]), "found list"),
        (save({"state_dict": {}}), "expected the keys g, d and g_ema.*found state_dict"),
        (save(wide), r"1 tensors of d do not fit.*final_linear\.1\.weight \(1, 9\) for \(1, 6\)"),
        (save(broken), r"tensor convs\.0\.1\.bias of d holds NaN"),
        (save(other), r"d: tensors that .* encoder\.weight"),
        (save(stretched), "elements in a storage of 1"),
        (save(found | {"latent_avg": torch.zeros(3)}), "latent_avg must be a tensor of 5"),
    ):
        path = tmp_path / "network.pt"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"(?s)network.pt: .*{words}"):
            read_networks(path)
    assert not trace.exists()
