"""Each augmentation by itself: what it does to an image, and its derivatives."""

import math

import pytest
import torch

from stylegan_ray.augment import PIPES, DiffAugment, Pipeline, Strengths

KINDS = sorted({kind for kinds in PIPES.values() for kind in kinds})


def numbers_of(augmentation, num, seed=0, **given):
    """Random numbers, or given ones for all images."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda sampler, names: sampler(num, len(names), generator=generator, dtype=torch.float64)  # noqa: E731
    numbers = augmentation.numbers(draw(torch.rand, augmentation.uniforms), draw(torch.randn, augmentation.normals))
    for name, value in given.items():
        where = numbers.uniforms if name in numbers.uniforms else numbers.normals
        assert name in where
        where[name] = torch.full((num,), float(value), dtype=torch.float64)
    return numbers


def augmented(augmentation, images, numbers, p=1.0):
    parameters = augmentation.parameters(numbers, p, tuple(images.shape[1:]), False)
    if augmentation.needs_noise:
        parameters["noise"] = torch.ones_like(images)
    return augmentation.apply(images, parameters)


def some_images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind, channels):
    pipeline, size = Pipeline(Strengths(**{kind: 1})), 22 if kind == "imgfilter" else 5
    images, numbers = some_images(1, channels, size, size).requires_grad_(), numbers_of(pipeline, 1)
    change = lambda x: augmented(pipeline, x, numbers)  # noqa: E731
    assert torch.autograd.gradcheck(change, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: change(x).square(), images, fast_mode=True)


@pytest.mark.parametrize("policy", ["color", "translation", "cutout"])
def test_second_derivatives_of_diffaugment(policy):
    augmentation = DiffAugment((policy,))
    images, numbers = some_images(2, 3, 5, 6).requires_grad_(), numbers_of(augmentation, 2)
    change = lambda x: augmented(augmentation, x, numbers)  # noqa: E731
    assert torch.autograd.gradcheck(change, images)
    assert torch.autograd.gradgradcheck(lambda x: change(x).square(), images)


@pytest.mark.parametrize("pipe", sorted(PIPES))
def test_nothing_happens_at_p_0(pipe):
    pipeline = Pipeline(Strengths.of(pipe))
    images = some_images(2, 3, 24, 32)
    torch.testing.assert_close(augmented(pipeline, images, numbers_of(pipeline, 2), p=0.0), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pipe", sorted(PIPES))
def test_an_image_does_not_depend_on_the_others(pipe):
    pipeline = Pipeline(Strengths.of(pipe))
    images, numbers = some_images(4, 3, 24, 32), numbers_of(pipeline, 4)
    together = augmented(pipeline, images, numbers, p=0.7)
    alone = type(numbers)(*({name: v[2:3] for name, v in of.items()} for of in (numbers.uniforms, numbers.normals)))
    torch.testing.assert_close(augmented(pipeline, images[2:3], alone, p=0.7), together[2:3], rtol=0, atol=1e-9)


def smooth_images(*shape):
    """Without high frequencies, which the warp moves a little, since its filter is not symmetric."""
    return torch.nn.functional.interpolate(some_images(*shape[:2], 4, 4), shape[2:], mode="bicubic")


def test_a_flip_mirrors():
    pipeline, images = Pipeline(Strengths(xflip=1)), smooth_images(1, 3, 32, 32)
    flipped = augmented(pipeline, images, numbers_of(pipeline, 1, xflip=0.9))
    torch.testing.assert_close(flipped, images.flip(3), rtol=0, atol=0.05)


@pytest.mark.parametrize("quarters", range(4))
def test_a_quarter_turn_turns_by_quarters(quarters):
    pipeline, images = Pipeline(Strengths(rotate90=1)), smooth_images(1, 3, 32, 32)
    turned = augmented(pipeline, images, numbers_of(pipeline, 1, rotate90=quarters / 4))
    torch.testing.assert_close(turned, images.rot90(quarters, (2, 3)), rtol=0, atol=0.05)


def test_a_translation_is_by_whole_pixels_of_each_side():
    pipeline, images = Pipeline(Strengths(xint=1)), some_images(1, 3, 16, 32)
    moved = augmented(pipeline, images, numbers_of(pipeline, 1, **{"xint.x": 0.99999, "xint.y": 0.0}))
    torch.testing.assert_close(moved[:, :, :-2, 4:], images[:, :, 2:, :-4], rtol=0, atol=1e-6)  # 32/8, -16/8


def test_rotations_happen_as_often_as_asked():
    pipeline, num = Pipeline(Strengths(rotate=1)), 20000
    parameters = pipeline.parameters(numbers_of(pipeline, num), 0.3, (3, 16, 16), True)
    turned = (parameters["inverse"] - torch.eye(3, dtype=torch.float64)).abs().amax(dim=(1, 2)) > 1e-12
    assert abs(turned.double().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / num)


def test_a_hue_turn_leaves_grays_and_luma_alone():
    pipeline = Pipeline(Strengths(hue=1))
    images, gray = some_images(1, 3, 4, 4), some_images(1, 1, 4, 4).repeat(1, 3, 1, 1)
    numbers = numbers_of(pipeline, 1, hue=0.3)
    turned = augmented(pipeline, images, numbers)
    assert (turned - images).abs().max() > 0.1
    torch.testing.assert_close(turned.mean(dim=1), images.mean(dim=1))
    torch.testing.assert_close(augmented(pipeline, gray, numbers), gray)


def test_bands_without_gain_add_up_to_the_image():
    from stylegan_ray.augment.bands import filter_bands

    images = some_images(2, 3, 24, 30)
    torch.testing.assert_close(filter_bands(images, torch.ones(2, 4, dtype=torch.float64)), images)


def test_filters_need_more_pixels_than_their_reach():
    with pytest.raises(ValueError, match=r"augment\.pipe.*21.*21x64"):
        Pipeline(Strengths(imgfilter=1)).check_size((64, 21))
    Pipeline(Strengths(imgfilter=1)).check_size((22, 22))


def test_cutout_removes_a_square_of_half_the_side():
    pipeline = Pipeline(Strengths(cutout=1))
    cut = augmented(pipeline, torch.ones(1, 3, 16, 16), numbers_of(pipeline, 1, **{"cutout.x": 0.5, "cutout.y": 0.5}))
    assert cut[0, 0].sum() == 16 * 16 - 8 * 8


def test_diffaugment_moves_by_an_eighth_and_fills_with_zeros():
    augmentation = DiffAugment(("translation",))
    given = {"translation.x": 0.9999, "translation.y": 0.0}
    moved = augmented(augmentation, torch.ones(1, 1, 16, 32, dtype=torch.float64), numbers_of(augmentation, 1, **given))
    assert moved[0, 0].sum() == 14 * 28
    assert moved[0, 0, 0, 4:].all() and not moved[0, 0, :, :4].any() and not moved[0, 0, -2:].any()


def test_diffaugment_changes_colors_within_the_papers_ranges():
    augmentation = DiffAugment(("color",))
    images = some_images(2, 3, 8, 8)
    given = {"brightness": 0.75, "saturation": 0.5, "contrast": 0.5}
    changed = augmented(augmentation, images, numbers_of(augmentation, 2, **given))
    torch.testing.assert_close(changed, images + 0.25)


def test_diffaugment_cuts_at_most_a_square_of_half_the_side():
    augmentation = DiffAugment(("cutout",))
    cut = augmented(augmentation, torch.ones(500, 1, 16, 16), numbers_of(augmentation, 500)) == 0
    assert cut.sum(dim=(1, 2, 3)).max() == 64
    assert cut.any(dim=0).all()
