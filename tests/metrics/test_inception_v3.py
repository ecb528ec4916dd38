"""Networks of the known detectors, against values that torch-fidelity 0.4.0's networks gave for the same weights."""

import pytest
import torch

from stylegan_ray.metrics.inception_v3 import InceptionV3, resized_like_tensorflow
from stylegan_ray.metrics.vgg16 import VGG16, WIDTHS, perceptual_from


def pseudo_random(state):
    """Weights by formula, the same everywhere."""
    filled = {}
    for number, (name, tensor) in enumerate(sorted(state.items())):
        k = torch.arange(tensor.numel())
        wave = (((k * k * 31 + k * number + 977 * number) % 10007).double() / 5003 - 1).reshape(tensor.shape)
        if not tensor.is_floating_point():
            filled[name] = tensor
        elif tensor.ndim > 1:
            filled[name] = (wave * (3.0 / tensor[0].numel()) ** 0.5 * 1.2).float()
        else:
            filled[name] = (1 + 0.5 * wave if name.endswith(("running_var", "bn.weight")) else 0.1 * wave).float()
    return filled


def pixels(num, height, width):
    count = num * 3 * height * width
    return (torch.arange(count) ** 2 * 31 % 10007 % 256).reshape(num, 3, height, width).to(torch.uint8)


def test_inception_is_torch_fidelitys():
    network = InceptionV3().eval().requires_grad_(False)
    state = network.state_dict()
    assert len(state) == 566  # tensors in weights-inception-2015-12-05-6726825d.pth
    network.load_state_dict(pseudo_random(state))
    features, logits = network(pixels(2, 40, 40))
    expected = [
        [0.0, 0.506886899471283, 0.02526712790131569, 0.04627585411071777, 0.0254066064953804, 0.017981063574552536],
        [0.0, 0.5069085359573364, 0.025290634483098984, 0.04638352617621422, 0.02551262453198433, 0.018261825665831566],
    ]
    torch.testing.assert_close(features[:, ::400], torch.tensor(expected), rtol=1e-4, atol=1e-6)
    expected = [[0.13951662182807922, 0.09344835579395294, -0.04986128956079483]]
    torch.testing.assert_close(logits[:1, ::400], torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_lpips_is_torch_fidelitys():
    with torch.device("meta"):
        shapes = VGG16().state_dict()
    backbone = pseudo_random({k: torch.empty(v.shape) for k, v in shapes.items() if k.startswith("features.")})
    waves = [(torch.cos(torch.arange(block[-1]) * 0.3 + i) + 1).reshape(1, -1, 1, 1) for i, block in enumerate(WIDTHS)]
    heads = {f"lin{i}.model.1.weight": wave for i, wave in enumerate(waves)}
    with torch.no_grad():
        features, _ = perceptual_from(backbone, heads)(pixels(4, 32, 48))
    distances = (features[:2] - features[2:]).square().sum(dim=1)
    torch.testing.assert_close(distances, torch.tensor([1.6305361986160278, 1.6508928537368774]), rtol=1e-4, atol=0)


def test_vgg16_is_named_as_torchvision_names_it():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in VGG16().state_dict().items()}
    assert len(shapes) == 30
    assert shapes["features.28.weight"] == (512, 512, 3, 3)
    assert shapes["classifier.0.weight"] == (4096, 25088) and shapes["classifier.3.weight"] == (4096, 4096)


@pytest.mark.parametrize(("size", "row"), [(4, [0, 1, 2, 3]), (8, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]), (2, [0, 2])])
def test_tensorflow_resizes_without_half_pixel_shift(size, row):
    image = torch.arange(4.0).expand(1, 1, 4, 4)
    resized = resized_like_tensorflow(image, size)
    assert resized.shape == (1, 1, size, size)
    torch.testing.assert_close(resized[0, 0, 0], torch.tensor(row, dtype=torch.float32))
    torch.testing.assert_close(resized, resized_like_tensorflow(image.transpose(2, 3), size).transpose(2, 3))
