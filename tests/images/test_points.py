"""Points of the latent space, and the network that draws them."""

import io
import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from stylegan_ray.config import ConfigError, ModelConfig, load_config
from stylegan_ray.images.directions import find_directions
from stylegan_ray.images.generate import Sampler, mixed_styles, place_on_walk, walk
from stylegan_ray.images.grid import pil_uint8, png
from stylegan_ray.images.points import Point, Shape, Walk, find_mistake, styles_of
from stylegan_ray.images.saved_w import save_w
from stylegan_ray.images.view import NOT_FINITE, Drawn, ImageRequest, NetworkVersion, Refusal, View, find_network
from stylegan_ray.interop import Networks, save_network
from stylegan_ray.networks import build_discriminator, build_generator
from stylegan_ray.run_folder import best_name, snapshot_name

MODEL = ModelConfig(z_dim=6, w_dim=5, mapping_fmaps=7, mapping_layers=2, fmap_max=4, mbstd_group_size=1)
NUM_WS = 6


def conditional(label_size=4):
    torch.manual_seed(5)
    G = build_generator(MODEL, 16, 3, label_size)
    with torch.no_grad():
        G.w_avg.normal_()
    return G


@pytest.fixture(scope="module")
def G():
    return conditional()


@pytest.fixture(scope="module")
def view(G):
    return View(Networks(G=None, D=None, G_ema=G, config=load_config("tiny"), cur_nimg=2500), "n.safetensors")


def test_a_point_is_the_image_of_its_seed(G):
    """The same styles as the generate command has, each with its own truncation and class."""
    points = [Point(seed=3, psi=0.5), Point(seed=9, class_index=2), Point(seed=3, psi=0.7, cutoff=2)]
    expected = [Sampler(G, 0.5).styles([3]), Sampler(G).styles([9], 2), Sampler(G, 0.7, 2).styles([3])]
    torch.testing.assert_close(styles_of(G, points), torch.cat(expected))


@pytest.mark.parametrize(("text", "layers"), [(None, [0, 1, 2]), ("1,3-5", [1, 3, 4, 5]), ("0" * 25 + "2", [2])])
def test_a_second_seed_gives_its_style_to_some_layers(G, text, layers):
    point = Point(seed=1, psi=0.6, mix_seed=8, mix_layers=text)
    sampler = Sampler(G, 0.6)
    torch.testing.assert_close(styles_of(G, [point]), mixed_styles(sampler.styles([1]), sampler.styles([8]), layers))
    torch.testing.assert_close(styles_of(G, [Point(seed=2), point])[1:], styles_of(G, [point]))


def test_a_point_is_moved_along_directions(view, G):
    """By what `generate --directions sefa` adds; each of several by its own strength."""
    found = find_directions(G, "sefa")
    (drawn,) = view.draw([ImageRequest.of(Point(seed=4, psi=0.6, directions="0:1.5,2:-2"), has_image=False)])
    step = 1.5 * found.vectors[0] * found.scales[0] - 2 * found.vectors[2] * found.scales[2]
    expected = Sampler(G, 0.6).styles([4])[0] + step.float()
    np.testing.assert_allclose(drawn.ws, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_same_images_with_and_without_others(view):
    points = [Point(seed=1), Point(seed=2, mix_seed=1), Point(seed=4, psi=0.3)]
    together = view.draw([ImageRequest.of(point) for point in points])
    for point, drawn in zip(points, together, strict=True):
        (alone,) = view.draw([ImageRequest.of(point)])
        np.testing.assert_allclose(alone.ws, drawn.ws, rtol=1e-5, atol=1e-6)
        found, expected = (np.array(Image.open(io.BytesIO(one.png))).astype(int) for one in (drawn, alone))
        assert np.abs(found - expected).max() <= 1


def test_the_image_is_a_png_of_the_network(view, G):
    (drawn,) = view.draw([ImageRequest.of(Point(seed=7, psi=0.5))])
    (image,) = Sampler(G, 0.5).images(Sampler(G, 0.5).styles([7]))
    assert drawn.png == png(pil_uint8(image))


def test_one_mistake_does_not_spoil_the_others(view):
    answers = view.draw(
        [
            ImageRequest.of(Point(class_index=9)),
            ImageRequest.of(Point(seed=1), has_image=False),
            ImageRequest.of(Point()),
        ]
    )
    assert answers[0] == Refusal("class=9: this network has classes 0 to 3.")
    assert isinstance(answers[1], Drawn) and answers[1].png is None and answers[1].ws.shape == (NUM_WS, 5)
    assert isinstance(answers[2], Drawn) and answers[2].png
    assert view.draw([]) == []


@pytest.mark.parametrize(
    ("point", "says"),
    [
        (Point(mix_layers="0-2"), "add mix_seed"),
        (Point(mix_seed=1, mix_layers="5-2"), "ranges rise"),
        (Point(mix_seed=1, mix_layers="0-6"), "layers 0 to 5"),
        (Point(mix_seed=1, mix_layers="0-99999999999999999999"), "layers 0 to 5"),
        (Point(mix_seed=1, mix_layers="9" * 25), "layers 0 to 5"),
        (Point(mix_seed=1, mix_layers="999-1"), "ranges rise"),
        (Point(class_index=0), "has no classes"),
        (Point(directions="0:1"), "no directions"),
    ],
)
def test_mistakes(point, says):
    assert says in find_mistake(point, Shape(NUM_WS, 0))


@pytest.mark.parametrize(
    "values",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"psi": float("nan")},
        {"psi": 3},
        {"sead": 1},
        {"mix_layers": "a"},
        {"class": -1},
        {"directions": "0:x"},
    ],
)
def test_values_that_no_network_has(values):
    with pytest.raises(ValidationError):
        Point.model_validate(values)


@pytest.mark.parametrize("values", [{"points": []}, {"points": [{}] * 33}, {"points": [{}], "position": -0.1}])
def test_walks_that_do_not_exist(values):
    with pytest.raises(ValidationError):
        Walk.model_validate(values)


def test_a_walk_passes_its_points_and_is_that_of_videos(view, G):
    points = (Point(seed=1), Point(seed=2, psi=0.5), Point(seed=3))
    keys = styles_of(G, points)
    for position in (0, 1, 2):
        (drawn,) = view.draw([ImageRequest.of(Walk(points=points, position=position), has_image=False)])
        np.testing.assert_allclose(drawn.ws, keys[position].numpy(), rtol=1e-5, atol=1e-6)
    path = walk(keys, 4)
    torch.testing.assert_close(torch.stack([place_on_walk(keys, frame / 4) for frame in range(12)]), path)
    torch.testing.assert_close(place_on_walk(keys, 3.25), path[1])  # closed
    torch.testing.assert_close(place_on_walk(keys[:1], 0.4), keys[0])


def test_w_as_a_file(view):
    (drawn,) = view.draw([ImageRequest.of(Point(seed=5), has_image=False)])
    with np.load(io.BytesIO(save_w(torch.tensor(drawn.ws[None])))) as found:
        assert (found["w"].dtype, found["w"].shape) == (np.float32, (1, NUM_WS, 5))
        np.testing.assert_array_equal(found["w"][0], drawn.ws)


def write_network(path, cfg, nimg, seed):
    torch.manual_seed(seed)
    G, D = build_generator(MODEL, 16, 3, 0), build_discriminator(MODEL, 16, 3, 0)
    path.write_bytes(save_network(G, D, deepcopy(G), cfg, nimg))


@pytest.fixture
def run(tmp_path):
    cfg = load_config("tiny", {"metrics.names": ["fid5k_tiny"], **{f"model.{k}": getattr(MODEL, k) for k in (
        "z_dim", "w_dim", "mapping_fmaps", "mapping_layers", "fmap_max", "mbstd_group_size")}})  # fmt: skip
    (tmp_path / "config.yaml").write_text(cfg.to_yaml())
    write_network(tmp_path / snapshot_name(1000), cfg, 1000, 1)
    return tmp_path, cfg


def spoil(G):
    """Makes the images of a network infinite by weights that are finite."""
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("torgb.bias"):
                parameter.fill_(3e38)
    return G


def test_images_that_are_not_finite_are_refused(run):
    folder, cfg = run
    path = folder / "diverged.safetensors"
    path.write_bytes(save_network(None, None, spoil(conditional()), cfg, 0))
    with pytest.raises(ConfigError, match=r"diverged\.safetensors makes images of NaN.*an earlier network"):
        View.load(NetworkVersion(str(path), ""))
    view = View(Networks(G=None, D=None, G_ema=spoil(conditional()), config=cfg))
    first, second = view.draw([ImageRequest.of(Point()), ImageRequest.of(Point(seed=1), has_image=False)])
    assert first == Refusal(NOT_FINITE) and isinstance(second, Drawn)


def test_the_names_of_classes_are_those_of_the_run(run):
    folder, cfg = run
    (folder / "run.json").write_text(json.dumps({"data": {"class_names": ["cat", "dog"]}}))
    assert View.load(find_network(str(folder))).describe()["class_names"] == [], "it is not conditional"
    (folder / "conditional.safetensors").write_bytes(save_network(None, None, conditional(2), cfg, 0))
    assert View.load(NetworkVersion(str(folder / "conditional.safetensors"), "")).describe()["class_names"] == [
        "cat",
        "dog",
    ]


def test_the_newest_network_is_found_as_it_appears(run):
    folder, cfg = run
    before = find_network(str(folder))
    assert before.address.endswith(snapshot_name(1000)) and find_network(str(folder)) == before
    write_network(folder / snapshot_name(2000), cfg, 2000, 2)
    after = find_network(str(folder))
    assert after.address.endswith(snapshot_name(2000))
    assert View.load(after).describe()["kimg"] == 2


def test_the_best_network_is_found_as_it_is_replaced(run):
    folder, cfg = run
    assert find_network(str(folder), "best") == find_network(str(folder)), "none has been measured"
    write_network(folder / best_name("fid5k_tiny"), cfg, 500, 1)
    before = find_network(str(folder), "best")
    assert before.address.endswith(best_name("fid5k_tiny"))
    write_network(folder / best_name("fid5k_tiny"), cfg, 700, 2)
    after = find_network(str(folder), "best")
    assert after.address == before.address and after != before


def test_the_best_network_is_that_of_the_names_in_rows(run):
    folder, cfg = run
    cfg = cfg.with_overrides({"metrics.names": ["pr50k3_tiny"], "metrics.num_images": 5000})
    (folder / "config.yaml").write_text(cfg.to_yaml())
    write_network(folder / best_name("pr5k3_tiny_precision"), cfg, 500, 1)
    assert find_network(str(folder), "best").address.endswith(best_name("pr5k3_tiny_precision"))


def test_a_network_that_vanishes_is_an_error_that_names_it(run):
    folder, _ = run
    with pytest.raises(ConfigError, match=r"gone\.safetensors"):
        View.load(NetworkVersion(str(folder / "gone.safetensors"), ""))
