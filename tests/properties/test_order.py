"""Which image is shown where, whatever the seed, the number of images, the slice, and the number of workers."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.properties import examples

from stylegan_ray.data.order import balanced_index, image_index
from stylegan_ray.rng import permuted, stream_key

SEEDS = st.integers(0, 2**32)
ORDERS = st.fixed_dictionaries(
    {
        "seed": SEEDS, "stream_salt": st.integers(0, 100), "num_images": st.integers(1, 500),
        "shuffle": st.sampled_from(["full", "blocks"]), "block_rows": st.integers(1, 64),
        "window_blocks": st.integers(1, 8),
    }
)  # fmt: skip


@examples(80)
@given(ORDERS, st.integers(0, 2**40))
def test_each_pass_shows_each_image_once(order, data_pass):
    num = order["num_images"]
    images = image_index(positions=np.arange(num) + data_pass * num, **order)
    assert np.array_equal(np.sort(images), np.arange(num))


@examples(80)
@given(ORDERS, st.lists(st.integers(0, 5000), max_size=30), st.integers(1, 9))
def test_slices_and_workers_see_the_same_images(order, positions, num_workers):
    positions = np.array(positions, dtype=np.int64)
    together = image_index(positions=positions, **order)
    apart = np.empty_like(together)
    for rank in range(num_workers):
        apart[rank::num_workers] = image_index(positions=positions[rank::num_workers], **order)
    assert np.array_equal(apart, together)
    alone = [image_index(positions=np.array([position]), **order)[0] for position in positions[:5]]
    assert np.array_equal(alone, together[:5])


@examples(60)
@given(SEEDS, st.integers(0, 50), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 40))
def test_balance_shows_each_class_once_a_round_and_each_of_its_images_once_a_pass(seed, salt, sizes, first_round):
    edges = np.cumsum([0, *sizes])
    classes = [np.arange(start, end) for start, end in itertools.pairwise(edges)]
    rounds = np.lcm.reduce(sizes) if np.lcm.reduce(sizes) < 100 else max(sizes)
    first_round -= first_round % max(rounds, 1)
    positions = np.arange(rounds * len(sizes)) + first_round * len(sizes)
    images = balanced_index(seed, salt, positions, classes)
    chosen = np.searchsorted(edges, images, side="right") - 1
    assert np.array_equal(np.sort(chosen.reshape(rounds, -1), axis=1), np.tile(np.arange(len(sizes)), (rounds, 1)))
    for number, size in enumerate(sizes):
        of_class = images[chosen == number]
        if first_round % size == 0:  # whole passes begin here
            for shown in (of_class[i : i + size] for i in range(0, len(of_class) - size + 1, size)):
                assert np.array_equal(np.sort(shown), classes[number])
    half = len(positions) // 2
    assert np.array_equal(balanced_index(seed, salt, positions[half:], classes), images[half:])


@examples(80)
@given(st.integers(1, 5000), SEEDS)
def test_permutations_of_any_size(num, seed):
    assert np.array_equal(np.sort(permuted(np.arange(num), num, stream_key(seed, 0, "order"))), np.arange(num))
