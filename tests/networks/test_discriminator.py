"""The discriminator: shapes, labels, clamps, second derivatives."""

import pytest
import torch

from stylegan_ray.networks import build_discriminator


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
@pytest.mark.parametrize("resolution", [16, (24, 16)])
def test_one_logit_per_image(small, architecture, resolution):
    D = build_discriminator(small(D_architecture=architecture), resolution, 3, 0)
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    assert D(torch.randn(4, 3, *size)).shape == (4, 1)
    with pytest.raises(ValueError, match="must be"):
        D(torch.randn(4, 1, *size))


def test_joint_labels_choose_an_output(small):
    D = build_discriminator(small(mbstd_group_size=1), 8, 1, 3).double()
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    outs = torch.cat([D(images, torch.eye(3, dtype=torch.float64)[[i] * 3]) for i in range(3)], dim=1)
    soft = torch.rand(3, 3, dtype=torch.float64)
    torch.testing.assert_close(D(images, soft), (outs * soft).sum(dim=1, keepdim=True))


def test_separate_labels_project(small):
    D = build_discriminator(small(label_mode="separate", cmap_dim=4, D_mapping_layers=3), 8, 1, 3)
    assert D.b4.out.weight.shape[0] == 4 and D.mapping.num_layers == 3
    images, labels = torch.randn(3, 1, 8, 8), torch.eye(3)
    assert not torch.allclose(D(images, labels), D(images, labels.flip(0)))
    with pytest.raises(ValueError, match="no labels were given"):
        D(images)


def test_clamp_bounds_the_outputs_of_convolutions(small):
    D = build_discriminator(small(conv_clamp=0.1), 16, 3, 0)
    torch.manual_seed(0)
    seen = []
    for layer in (D.b16.fromrgb, D.b16.conv0, D.b16.conv1):
        torch.nn.init.constant_(layer.bias, 1.0)
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.abs().max().item()))
    D(torch.randn(4, 3, 16, 16))
    assert seen == pytest.approx([0.1, 0.1, 0.1 * 0.5**0.5])


def test_first_and_second_derivatives_agree_with_finite_differences(small):
    D = build_discriminator(small(fmap_max=3), 8, 1, 0).double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64).requires_grad_()

    def r1():
        (grad,) = torch.autograd.grad(D(images).sum(), images, create_graph=True)
        return grad.square().sum()

    for parameter in (D.b8.fromrgb.weight, D.b8.conv1.weight, D.b8.skip.weight, D.b4.dense0.weight):
        (grad,) = torch.autograd.grad(r1(), parameter)
        direction, step = torch.randn_like(parameter), 1e-6
        parameter.data += step * direction
        above = r1().item()
        parameter.data -= 2 * step * direction
        below = r1().item()
        parameter.data += step * direction
        assert (grad * direction).sum().item() == pytest.approx((above - below) / (2 * step), rel=1e-4)


def test_minibatch_stddev_depends_on_the_batch(small):
    """With the layer the logit of an image depends on its batch, without it it does not."""
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for group, alone in ((4, False), (0, True)):
        D = build_discriminator(small(mbstd_group_size=group), 8, 3, 0).double()
        assert torch.allclose(D(images)[:1], D(images[:1])) is alone


def test_features_that_do_not_divide_are_refused(small):
    with pytest.raises(ValueError, match="mbstd_num_features=4"):
        build_discriminator(small(mbstd_num_features=4), 8, 3, 0)
