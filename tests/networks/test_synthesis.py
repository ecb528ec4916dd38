"""The synthesis network: shapes, noise inputs, second derivatives."""

import pytest
import torch

from stylegan_ray.networks import build_synthesis, mix_styles


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("resolution", [16, (24, 16), (12, 20)])
def test_images_have_the_resolution(small, architecture, resolution):
    synthesis = build_synthesis(small(G_architecture=architecture), resolution, 3)
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    assert synthesis(torch.randn(2, synthesis.num_ws, 5)).shape == (2, 3, height, width)


def test_noise_shapes_are_those_that_forward_expects(small):
    synthesis = build_synthesis(small(), (16, 8), 3)
    shapes = synthesis.noise_shapes(2)
    assert shapes == [(2, 1, 4, 2), (2, 1, 8, 4), (2, 1, 8, 4), (2, 1, 16, 8), (2, 1, 16, 8)]
    assert synthesis(torch.randn(2, 6, 5), noise=[torch.randn(shape) for shape in shapes]).shape == (2, 3, 16, 8)


def test_noise_inputs(small):
    synthesis = build_synthesis(small(), 8, 3).double()
    with torch.no_grad():
        for name, parameter in synthesis.named_parameters():
            if "noise_strength" in name:
                parameter.fill_(0.5)
    ws = torch.randn(2, 4, 5, dtype=torch.float64)
    stored = [buffer.expand(2, -1, -1, -1) for name, buffer in synthesis.named_buffers() if "noise_const" in name]
    torch.testing.assert_close(synthesis(ws, noise="const"), synthesis(ws, noise=stored))
    zeros = [torch.zeros_like(noise) for noise in stored]
    torch.testing.assert_close(synthesis(ws, noise="none"), synthesis(ws, noise=zeros))
    assert not torch.allclose(synthesis(ws, noise="none"), synthesis(ws, noise="const"))
    assert not torch.allclose(synthesis(ws, noise="random"), synthesis(ws, noise="random"))


def test_every_noise_input_reaches_the_image(small):
    synthesis = build_synthesis(small(), 16, 3).double()
    for name, parameter in synthesis.named_parameters():
        if "noise_strength" in name:
            parameter.data.fill_(1.0)
    noise = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in synthesis.noise_shapes(1)]
    images = synthesis(torch.randn(1, 6, 5, dtype=torch.float64), noise=noise)
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(images.square().sum(), noise))


def test_wrong_inputs_are_refused(small):
    synthesis = build_synthesis(small(), 8, 3)
    ws = torch.randn(2, 4, 5)
    with pytest.raises(ValueError, match=r"must be \[N, 4, 5\]"):
        synthesis(ws[:, :3])
    with pytest.raises(ValueError, match="noise='loud'"):
        synthesis(ws, noise="loud")
    with pytest.raises(ValueError, match="noise_shapes"):
        synthesis(ws, noise=[torch.zeros(2, 1, 4, 4)])
    with pytest.raises(ValueError, match="do not grow"):
        synthesis(ws, lod=1.0)


def test_without_noise_there_are_no_noise_tensors(small):
    synthesis = build_synthesis(small(use_noise=False), 8, 3)
    assert synthesis.noise_shapes(2) == [] and not [name for name in synthesis.state_dict() if "noise" in name]
    assert synthesis(torch.randn(2, 4, 5), noise="random").shape == (2, 3, 8, 8)


def test_each_w_drives_its_layers(small):
    """w of layer l does not change coarser features: with fixed noise, the 4x4 image does not depend on the last w."""
    synthesis = build_synthesis(small(), 8, 3).double()
    ws = mix_styles(torch.randn(1, 5, dtype=torch.float64), None, 0, 4).clone().requires_grad_()
    coarse = []
    synthesis.b4.register_forward_hook(lambda module, inputs, output: coarse.append(output))
    synthesis(ws)
    features, image = coarse[0]
    (grad,) = torch.autograd.grad(features.square().sum(), ws, retain_graph=True)
    assert [bool(layer.any()) for layer in grad[0]] == [True, False, False, False]
    (grad,) = torch.autograd.grad(image.square().sum(), ws)
    assert [bool(layer.any()) for layer in grad[0]] == [True, True, False, False]


@pytest.mark.parametrize("grouped", ["scaled", "grouped"])
def test_path_length_gradients_agree_with_finite_differences(small, grouped):
    """The penalty differentiates a gradient: by central differences of the first derivative."""
    synthesis = build_synthesis(small(fused_modconv=grouped, G_architecture="resnet"), 8, 1).double()
    ws = torch.randn(1, 4, 5, dtype=torch.float64).requires_grad_()
    y = torch.randn(1, 1, 8, 8, dtype=torch.float64)

    def length():
        (jacobian,) = torch.autograd.grad((synthesis(ws) * y).sum(), ws, create_graph=True)
        return jacobian.square().sum()

    for parameter in (synthesis.b8.conv0.weight, synthesis.b4.conv1.affine.weight, synthesis.b8.skip.weight):
        (grad,) = torch.autograd.grad(length(), parameter)
        direction, step = torch.randn_like(parameter), 1e-5
        parameter.data += step * direction
        above = length().item()
        parameter.data -= 2 * step * direction
        below = length().item()
        parameter.data += step * direction
        assert (grad * direction).sum().item() == pytest.approx((above - below) / (2 * step), rel=1e-5)
