"""Blocks: the work of one task."""

import numpy as np
import pytest
import torch

from stylegan_ray.metrics.blocks import BLOCK, BlockWorker, Plan, Task, as_bytes, read_reals
from stylegan_ray.metrics.names import parse_metrics
from stylegan_ray.networks import shapes
from stylegan_ray.networks.shapes import images_at_once


def plan_of(*names, **settings):
    return Plan(tuple(parse_metrics(names)), **settings)


@pytest.fixture
def worker(painted, data, color_detector):
    def make(*names, G=painted, **settings):
        detectors = dict.fromkeys(("tiny", "celeba"), color_detector)
        return BlockWorker(plan_of(*(names or ("fid500_tiny",)), **settings), G, data, detectors)

    return make


def test_every_real_is_read_once(data, pictures):
    read = torch.cat([read_reals(data, block, mirror=False) for block in range(2)])
    assert read.shape == (100, 3, 16, 16)
    assert {p.tobytes() for p in read.numpy()} == {p.transpose(2, 0, 1).tobytes() for p in pictures}


def test_the_order_of_reals_is_random_and_fixed(data, pictures):
    first = read_reals(data, 0, mirror=False)
    assert (first == read_reals(data, 0, mirror=False)).all()
    in_order = torch.from_numpy(pictures[:BLOCK].transpose(0, 3, 1, 2))
    assert (first == in_order).flatten(1).all(dim=1).sum() < 10


def test_mirrored_reals_come_beside_the_plain_ones(data):
    plain = torch.cat([read_reals(data, block, mirror=False) for block in range(2)]).numpy()
    both = torch.cat([read_reals(data, block, mirror=True) for block in range(4)]).numpy()
    assert {p.tobytes() for p in both} == {p.tobytes() for p in plain} | {p[:, :, ::-1].tobytes() for p in plain}
    assert len(both) == 200


def test_bad_images_are_left_out(data):
    data.bad[int(data.rows[7])] = "torn"
    assert sum(len(read_reals(data, block, mirror=False)) for block in range(2)) == 99


def test_a_block_depends_on_its_number_and_seed_only(worker):
    task = Task("fake", "", 3)
    block = worker().run(task)["features/tiny"]
    assert block.shape == (BLOCK, 6) and block.dtype == np.float32
    other = worker()
    for number in (5, 0):
        other.run(Task("fake", "", number))
    assert (other.run(task)["features/tiny"] == block).all()
    assert not np.allclose(other.run(Task("fake", "", 4))["features/tiny"], block)
    assert not np.allclose(worker(seed=1).run(task)["features/tiny"], block)


def test_features_do_not_depend_on_the_batch_size(worker, monkeypatch):
    whole = worker().run(Task("fake", "", 0))["features/tiny"]
    monkeypatch.setattr(shapes, "PIXELS_AT_ONCE", 10 * 16 * 16)
    np.testing.assert_allclose(worker().run(Task("fake", "", 0))["features/tiny"], whole, rtol=1e-5)


@pytest.mark.parametrize(("resolution", "num"), [((32, 32), 64), ((128, 128), 64), ((256, 256), 16), ((2048, 2048), 1)])
def test_batches_shrink_with_resolution(resolution, num):
    assert images_at_once(resolution) == num


def test_labels_are_those_of_the_data(worker, painted):
    conditional = type(painted)(label_size=2)
    worker(G=conditional).run(Task("fake", "", 0))
    (labels,) = conditional.labels_seen
    assert labels.shape == (BLOCK, 2) and (labels.sum(dim=1) == 1).all()
    assert 16 < labels[:, 0].sum() < 48


def test_a_conditional_generator_without_data_is_refused(painted, color_detector):
    with pytest.raises(ValueError, match=r"conditional.*give DATA"):
        BlockWorker(plan_of("is500_tiny"), type(painted)(label_size=2), None, {"tiny": color_detector})


def test_truncation_and_noise_follow_the_plan(worker):
    def spread(**settings):
        return worker(**settings).run(Task("fake", "", 0))["features/tiny"].std(axis=0)

    plain, truncated, both = spread(), spread(psi=0.2), spread(psi=0.2, cutoff=1)
    assert (truncated[:3] < 0.5 * plain[:3]).all()
    assert (truncated[:3] < both[:3]).all() and (both[:3] < plain[:3]).all()
    calm = worker(noise="const").run(Task("fake", "", 0))["features/tiny"]
    noisy = worker().run(Task("fake", "", 0))["features/tiny"]
    assert (calm[:, 3:].mean() < noisy[:, 3:].mean()) and np.allclose(calm[:, :3], noisy[:, :3], atol=0.02)


def test_bytes_are_rounded_half_up():
    images = torch.tensor([-2.0, -1.0, -1 + 1 / 255, 0.0, 1.0, 3.0])
    assert as_bytes(images).tolist() == [0, 0, 1, 128, 255, 255]
    assert as_bytes(torch.tensor([0.0, 0.5, 1.0]), (0.0, 1.0)).tolist() == [0, 128, 255]


@pytest.mark.parametrize("name", ["ppl_wfull_tiny", "ppl2_wend_tiny"])
def test_path_distances_of_a_linear_generator(worker, name):
    """The color is linear in w, so the mean color moves by 0.3 / 2 of |w1 - w0| per unit of the path."""
    distances = worker(name, noise="const").run(Task("path", name, 0))["distances"]
    draw = worker(name)
    z0, z1 = draw._latents("path/z", 0, 2 * BLOCK).chunk(2)
    expected = (0.15 * (z1 - z0)[:, :3]).square().sum(dim=1)
    np.testing.assert_allclose(distances, expected, rtol=0.2)  # float32 differences over a step of 1e-4


def test_noise_does_not_lengthen_paths(worker):
    name = "ppl_wfull_tiny"
    calm, noisy = (worker(name, noise=noise).run(Task("path", name, 0))["distances"] for noise in ("const", "random"))
    np.testing.assert_allclose(noisy.mean(), calm.mean(), rtol=0.2)


def test_attributes_come_with_their_latents(worker):
    result = worker("ls").run(Task("attributes", "ls", 0))
    assert result["z"].shape == result["w"].shape == (BLOCK, 4)
    assert np.corrcoef(result["w"][:, 0], result["logits"][:, 0])[0, 1] > 0.9
