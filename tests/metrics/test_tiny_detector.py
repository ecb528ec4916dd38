"""The packaged detector: differences that it detects, and invariances of its features."""

import numpy as np
import pytest
import torch

from stylegan_ray.data import openmoji
from stylegan_ray.data.openmoji_groups import GROUPS, group_numbers
from stylegan_ray.metrics import frechet_distance, kernel_distance, precision_recall
from stylegan_ray.metrics.degradations import KINDS, degrade, random_strengths
from stylegan_ray.metrics.detectors import load_detector
from stylegan_ray.metrics.tiny_detector import TinyDetector, shipped_weights, to_input
from stylegan_ray.metrics.train_tiny_detector import Student, folded, scaled


@pytest.fixture(scope="module")
def detector():
    return load_detector("tiny")


@pytest.fixture(scope="module")
def emoji():
    """Half of the built-in images uint8 [N,3,64,64] in a random order, with their groups [N]."""
    codes = openmoji.codes(openmoji._package())
    numbers = np.array(group_numbers(codes))
    plain = [i for i, code in enumerate(codes) if openmoji.SKIN_TONES.isdisjoint(code.split("-"))]
    chosen = np.random.default_rng(0).permutation(plain)[: len(plain) // 2]
    font = openmoji._font(192)
    images = np.stack([np.asarray(openmoji.draw(codes[i], font, 192, 64)) for i in chosen])
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), numbers[chosen]


@pytest.fixture(scope="module")
def halves(emoji):
    images, groups = emoji
    return images[::2], images[1::2], groups[1::2]


@pytest.fixture(scope="module")
def features(detector, halves):
    """The features of both halves; those of a part of their images are a part of them."""
    return detector(halves[0])[0], detector(halves[1])[0]


@pytest.fixture(scope="module")
def distance_of(features):
    """The Fréchet distance of features to one half of the emoji."""
    return lambda other: frechet_distance(features[0], other)


@pytest.fixture(scope="module")
def distance(detector, distance_of):
    """The Fréchet distance of images to one half of the emoji."""
    return lambda images: distance_of(detector(images)[0])


@pytest.fixture(scope="module")
def baseline(distance_of, features):
    """The distance of the other half, which only differs by chance."""
    return distance_of(features[1])


def degraded(images, kind, strength):
    x = KINDS[kind](images.float() / 255, torch.full((len(images),), strength), torch.Generator().manual_seed(0))
    return (x * 255).round().to(torch.uint8)


@pytest.mark.parametrize(("kind", "times"), [("blur", (1.5, 20)), ("noise", (3, 15)), ("warp", (2, 6))])
def test_degraded_images_are_far_from_real_ones(distance, baseline, halves, kind, times):
    weak, strong = (distance(degraded(halves[1], kind, strength)) for strength in (0.2, 0.6))
    assert weak > times[0] * baseline and strong > times[1] * baseline and strong > 2 * weak


def test_a_collapsed_set_is_far_from_the_real_one(distance_of, baseline, features):
    few, fewer = (distance_of(features[1][torch.arange(600) % num]) for num in (100, 10))
    assert few > 2 * baseline and fewer > 5 * few


@pytest.mark.parametrize("group", ["people-body", "flags", "smileys-emotion"])
def test_a_set_without_a_class_is_further_than_chance(distance_of, baseline, features, halves, group):
    _, _, groups = halves
    left = features[1][torch.from_numpy(groups != GROUPS.index(group))]
    # The smaller set alone must not explain it: as many images of all classes are at the chance distance.
    assert distance_of(left) > 1.25 * max(baseline, distance_of(features[1][: len(left)]))


def test_other_metrics_agree(detector, features, halves):
    real, other = features
    blurred, few = detector(degraded(halves[1], "blur", 0.4))[0], other[torch.arange(600) % 20]
    assert kernel_distance(real, other) < 0.1 * kernel_distance(real, blurred)
    chance, blurry, collapsed = (precision_recall(real, fake) for fake in (other, blurred, few))
    assert min(chance) > 0.6 and blurry[0] < 0.6 * chance[0] and collapsed[1] < 0.1 * chance[1]


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (64, 64), (100, 60), (128, 128), (256, 256)])
def test_features_do_not_depend_on_the_batch(detector, emoji, size):
    images = torch.nn.functional.interpolate(emoji[0][:40].float(), size, mode="bilinear").round().to(torch.uint8)
    whole = detector(images)[0]
    single = torch.cat([detector(images[i : i + 1])[0] for i in range(4)])
    torch.testing.assert_close(single, whole[:4], rtol=1e-4, atol=1e-4)
    assert (detector(images)[0] == whole).all()


def test_any_resolution_sees_much_the_same(detector, emoji, distance, baseline):
    """Images of other resolutions are as close as those of 64 pixels."""
    large = torch.nn.functional.interpolate(emoji[0][1::2].float(), (128, 128), mode="nearest").to(torch.uint8)
    assert distance(large) < 1.1 * baseline + 0.1


def test_bytes_and_floats_and_gray_images_are_accepted(detector, emoji):
    images = emoji[0][:8]
    torch.testing.assert_close(detector(images.float())[0], detector(images)[0])
    gray = images.float().mean(dim=1, keepdim=True)
    torch.testing.assert_close(detector(gray)[0], detector(gray.expand(-1, 3, -1, -1))[0])


def test_it_knows_the_groups(detector, emoji):
    images, groups = emoji
    share = (detector(images)[1].argmax(dim=1).numpy() == groups).mean()
    assert share > 0.5  # it ships with the order of GROUPS


def test_it_is_small():
    assert len(shipped_weights()) < 500_000


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_changes_nothing_and_more_changes_more(kind):
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    x[:, :, :8] = 1.0
    changes = []
    for strength in (0.0, 0.3, 1.0):
        y = KINDS[kind](x, torch.full((8,), strength), torch.Generator().manual_seed(2))
        assert y.shape == x.shape and y.isfinite().all() and y.min() > -0.1 and y.max() < 1.1
        changes.append((y - x).abs().mean().item())
    assert changes[0] < 1e-6 and changes[0] < changes[1] < changes[2]


def test_only_chosen_images_are_degraded():
    generator = torch.Generator().manual_seed(0)
    strengths = random_strengths(200, generator)
    x = torch.rand(200, 3, 16, 16, generator=generator)
    changed = (degrade(x, strengths, generator) != x).flatten(1).any(dim=1)
    untouched = (strengths == 0).all(dim=1)
    assert 30 < untouched.sum() < 80 and not changed[untouched].any()


def test_folding_and_scaling_keep_the_predictions():
    torch.manual_seed(0)
    student = Student()
    x = torch.rand(16, 3, 64, 64) * 2 - 1
    for _ in range(3):
        student(x)  # moves the statistics of the normalization
    learnt = student.detector.eval()
    images = ((x + 1) * 127.5).round().to(torch.uint8)
    with torch.no_grad():
        expected = learnt.classes(learnt.embed(to_input(images)))
    detector = scaled(folded(learnt), images)
    features, logits = detector(images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert features.var(dim=0).sum() == pytest.approx(100, rel=1e-4) and features.mean(dim=0).abs().max() < 1e-3
    assert not any("norms" in name for name in TinyDetector().state_dict())
