"""The highest resolutions in low precision: which ones, what stays precise, and how large the errors are."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stylegan_ray.config import ConfigError, ModelConfig, load_config
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.ops import conv2d_resample, fir_filter, forced, modulated_conv2d

SIZE = 32


def networks(**values):
    keys = {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "mapping_fmaps": 16, "fmap_base": 512, "fmap_max": 32}
    model = ModelConfig(**keys, **values)
    torch.manual_seed(0)
    return build_generator(model, SIZE, 3, 0), build_discriminator(model, SIZE, 3, 0)


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 16, generator=generator), torch.randn(4, 3, SIZE, SIZE, generator=generator).clamp(-1, 1)


def types(network, *args):
    """The data types that the convolutions of each block return, by the block's name."""
    found = {}
    for name, module in network.named_modules():
        if name.endswith(("conv0", "conv1", "skip", "torgb", "fromrgb", "conv")):
            block = name.split(".")[-2]
            module.register_forward_hook(lambda _m, _i, y, block=block: found.setdefault(block, set()).add(y.dtype))
    network(*args)
    return found


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize(("num", "low"), [(0, set()), (2, {"b16", "b32"}), (9, {"b8", "b16", "b32"})])
def test_the_highest_resolutions_are_low_and_never_the_first(architecture, num, low):
    G, D = networks(num_lowp_res=num, G_architecture=architecture, D_architecture=architecture)
    z, images = inputs()
    for network, given in ((G, z), (D, images)):
        found = types(network, given)
        for block in ("b4", "b8", "b16", "b32"):
            assert found[block] == {torch.bfloat16 if block in low else torch.float32}, block
        assert network(given).dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in [*G.parameters(), *D.parameters()])


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.04), ("float16", 0.025)])
@pytest.mark.parametrize("fused_modconv", ["scaled", "grouped"])
def test_images_scores_and_gradients_are_near_those_in_float32(dtype, most, fused_modconv):
    z, images = inputs()
    results = []
    for num in (0, 3):
        options = {"num_lowp_res": num, "lowp_dtype": dtype, "conv_clamp": 256.0, "fused_modconv": fused_modconv}
        G, D = networks(**options)
        fakes, scores = G(z), D(images)
        of_G = torch.autograd.grad(D(fakes).sum(), list(G.parameters()), retain_graph=True, allow_unused=True)
        of_D = torch.autograd.grad(scores.square().sum(), list(D.parameters()))
        results.append((fakes, scores, *(torch.cat([g.flatten() for g in of if g is not None]) for of in (of_G, of_D))))
    for precise, low in zip(*results, strict=True):
        assert 0 < (precise - low).norm() < most * precise.norm()


def test_full_precision_is_the_network_without_low_precision():
    (_, low), (_, precise) = networks(num_lowp_res=3), networks()
    _, images = inputs()
    assert torch.equal(low(images, full_precision=True), precise(images))
    assert not torch.equal(low(images), precise(images))


def test_float16_styles_of_any_size_do_not_overflow():
    """Weights and styles are scaled before they are multiplied; demodulation cancels the scales."""
    G, precise = networks(num_lowp_res=3, lowp_dtype="float16", conv_clamp=256.0)[0], networks(conv_clamp=256.0)[0]
    for network in (G, precise):
        for name, parameter in network.named_parameters():
            if name.endswith(("conv0.affine.bias", "conv1.affine.bias")):
                parameter.data.fill_(3000.0)
    z, _ = inputs()
    assert (G(z) - precise(z)).norm() < 0.01 * precise(z).norm()


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"model.num_lowp_res": 4, "model.lowp_dtype": "float16"}, "conv_clamp"),
        ({"model.num_lowp_res": 4, "model.family": "revised"}, "use 0"),
    ],
)
def test_combinations_that_cannot_work_are_refused(keys, hint):
    with pytest.raises(ConfigError, match=hint):
        load_config("config-f", keys)


class Operations(TorchDispatchMode):
    """Counts of the operations on low precision, by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(isinstance(arg, torch.Tensor) and arg.dtype == torch.bfloat16 for arg in args):
            self.counts[func.overloadpacket.__name__] = self.counts.get(func.overloadpacket.__name__, 0) + 1
        return func(*args, **(kwargs or {}))


def test_without_instructions_nothing_is_multiplied_in_low_precision_or_rounded_in_between():
    x = torch.randn(2, 16, 8, 8).bfloat16().requires_grad_()
    with forced("widened"), Operations() as point:
        y = modulated_conv2d(x, torch.randn(3, 16, 1, 1), torch.randn(2, 16), demodulate=False)
        y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert not {"bmm", "mm", "matmul"} & set(point.counts), point.counts
    for up, down in ((2, 1), (1, 2)):
        with forced("widened"), Operations() as resampling:
            y = conv2d_resample(x, torch.randn(4, 16, 3, 3), fir_filter([1, 3, 3, 1]), up, down, 1)
        assert y.dtype == torch.bfloat16
        assert resampling.counts == {"_to_copy": 1}, resampling.counts  # x, and nothing else
