"""Images that look the same are found without comparing each with each."""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from support.data_sets import encoded, noise_picture

from stylegan_ray.data.decode import open_image
from stylegan_ray.data.doctor.near import MOST_BITS, looks_same, similar_groups, similar_hashes
from stylegan_ray.data.doctor.traits import TRAITS, look_of


def traits_of(*images):
    traits = np.zeros(len(images), dtype=TRAITS)
    for row, image in zip(traits, images, strict=True):
        row["look"], row["luma"], row["chroma"] = look_of(image.convert("RGB"))
    return traits


def soft_picture(seed, side=64):
    """Coarse random pixels, scaled up, which have low frequencies only."""
    return noise_picture(seed, (6, 6)).resize((side, side), Image.Resampling.BICUBIC)


def test_every_pair_within_five_bits_is_found():
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**63, 3000, dtype=np.uint64))
    flips = np.zeros(len(hashes), dtype=np.uint64)
    for bit in range(MOST_BITS + 1):
        flips[: 500 * (bit + 1)] ^= np.uint64(1) << rng.integers(0, 64, 500 * (bit + 1), dtype=np.uint64)
    both = np.unique(np.concatenate([hashes, hashes ^ flips]))
    expected = {
        (i, j)
        for i in range(len(both))
        for j in (i + 1 + np.flatnonzero(np.bitwise_count(both[i + 1 :] ^ both[i]) <= MOST_BITS)).tolist()
    }
    found = {tuple(sorted(pair)) for pairs in similar_hashes(both) for pair in pairs.tolist()}
    assert found == expected and len(expected) > 1000


def test_copies_look_the_same_and_others_do_not():
    original = soft_picture(1).point(lambda value: 20 + value * 7 // 10)
    copies = [
        original.resize((40, 40), Image.Resampling.LANCZOS),
        original.resize((150, 150), Image.Resampling.BICUBIC),
        *(ImageEnhance.Brightness(original).enhance(factor) for factor in (0.7, 0.8, 0.9, 1.2, 1.25)),
        *(ImageEnhance.Contrast(original).enhance(factor) for factor in (0.6, 0.7, 0.8, 1.2)),
        original.point(lambda value: min(value + 20, 255)),
        original.filter(ImageFilter.GaussianBlur(1)),
        open_image(encoded(original, "JPEG", quality=70)),
    ]
    red, green, blue = original.split()
    others = [soft_picture(2), original.rotate(180), Image.merge("RGB", (blue, green, red))]
    traits = traits_of(original, *copies, *others)
    assert similar_groups(traits, np.arange(len(traits))) == [list(range(1 + len(copies)))]
    assert not looks_same(traits[:1].repeat(3), traits[-3:]).any()


def test_groups_are_entries_and_chains_are_joined():
    traits = traits_of(*(soft_picture(seed) for seed in (1, 2, 3, 1, 2, 1)))
    assert similar_groups(traits, np.array([0, 1, 3, 4, 5])) == [[0, 3, 5], [1, 4]]
    assert similar_groups(traits, np.array([2])) == similar_groups(traits, np.array([], dtype=np.int64)) == []
