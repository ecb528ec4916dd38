"""Image grids."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_ray.images.grid import (
    choose_latents,
    choose_reals,
    grid_shape,
    image_grid,
    pil_uint8,
    png,
    snapshot_fakes,
    to_uint8,
)


class Labels:
    """A data set whose image i is of class classes[i]."""

    def __init__(self, classes, label_size):
        self.classes, self.num_images, self.label_size = np.array(classes), len(classes), label_size

    def labels(self, indices):
        return np.eye(max(self.label_size, 1), dtype=np.float32)[self.classes[indices]]


@pytest.mark.parametrize(
    ("size", "resolution", "shape"),
    [
        ((12, 8), (32, 32), (12, 8)),
        ("8k", (256, 256), (30, 16)),
        ("8k", (1024, 1024), (7, 4)),
        ("8k", (32, 32), (32, 32)),
        ("4k", (512, 256), (15, 4)),
        ("1080p", (64, 64), (30, 16)),
        ("1080p", (1024, 1024), (3, 2)),
    ],
)
def test_grid_shape(size, resolution, shape):
    assert grid_shape(size, resolution) == shape


def test_random_reals_differ_and_follow_the_seed():
    data = Labels([0] * 500, 0)
    chosen = choose_reals(data, "random", 1, (10, 6))
    assert len(set(chosen.tolist())) == 60
    np.testing.assert_array_equal(chosen, choose_reals(data, "random", 1, (10, 6)))
    assert (chosen != choose_reals(data, "random", 2, (10, 6))).mean() > 0.9


def test_a_small_data_set_repeats():
    chosen = choose_reals(Labels([0] * 5, 0), "random", 0, (4, 3))
    np.testing.assert_array_equal(chosen[:5], chosen[5:10])
    assert sorted(chosen[:5]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("layout", ["row_per_class", "col_per_class"])
def test_layouts_by_class(layout):
    """Class 2 has no images, class 1 has two, and the grid has more lines than there are classes."""
    data = Labels([0] * 30 + [1] * 2 + [3] * 30, 4)
    cols, rows = (6, 4) if layout == "row_per_class" else (4, 6)
    grid = choose_reals(data, layout, 7, (cols, rows)).reshape(rows, cols)
    lines = grid if layout == "row_per_class" else grid.T
    assert [set(data.classes[line]) for line in lines] == [{0}, {1}, {3}, {0}]
    assert len(set(lines[0]) | set(lines[3])) == 12, "a repeated class shows other images"
    assert set(lines[1]) == {30, 31}


def test_layouts_by_class_need_labels():
    with pytest.raises(ValueError, match=r"train.grid_layout=row_per_class.*data.cond"):
        choose_reals(Labels([0, 0], 0), "row_per_class", 0, (2, 2))


def test_a_larger_grid_starts_with_the_latents_of_a_smaller_one():
    assert torch.equal(choose_latents(3, 8, 16)[:5], choose_latents(3, 5, 16))
    assert not torch.equal(choose_latents(3, 5, 16), choose_latents(4, 5, 16))
    assert choose_latents(0, 400, 64).std() == pytest.approx(1, abs=0.02)


def test_image_grid_goes_row_by_row():
    images = torch.arange(5).reshape(5, 1, 1, 1).expand(5, 1, 2, 3) + 1
    grid = image_grid(images, cols=3)
    assert grid.shape == (1, 4, 9)
    assert grid[0, ::2, ::3].tolist() == [[1, 2, 3], [4, 5, 0]]


def test_roundings_differ_on_halves_only():
    x = torch.linspace(-1.2, 1.2, 100_001, dtype=torch.float64)
    apart = (to_uint8(x) != pil_uint8(x)).sum()
    assert apart <= 2 and to_uint8(x).unique().numel() == 256
    assert to_uint8(torch.tensor([0.5 / 127.5 - 1])).item() == 1  # 0.5 rounds up
    assert pil_uint8(torch.tensor([0.5 / 127.5 - 1])).item() == 0  # 0.5 rounds to even


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_lossless(channels):
    image = torch.randint(0, 256, (channels, 6, 9), dtype=torch.uint8)
    read = np.array(Image.open(io.BytesIO(png(image))))
    np.testing.assert_array_equal(read.reshape(6, 9, channels).transpose(2, 0, 1), image.numpy())


class Echo(torch.nn.Module):
    """A generator that records its calls."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)), []
        self.resolution = (1024, 341)  # three images at once

    def forward(self, z, labels=None, psi=1.0, cutoff=None, noise="random", lod=0.0):
        assert z.dtype == torch.float64 and not torch.is_grad_enabled()
        self.calls.append((len(z), psi, cutoff, noise, lod))
        return z.mean(dim=1).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 4) + labels.sum(dim=1).reshape(-1, 1, 1, 1)


def test_snapshot_fakes_run_a_few_at_a_time():
    G, z = Echo(), torch.linspace(-1, 0.5, 7).reshape(7, 1).expand(7, 2)
    labels = torch.zeros(7, 2)
    labels[3] = 0.1
    images = snapshot_fakes(G, z, labels, lod=1.5)
    assert [call[0] for call in G.calls] == [3, 3, 1]
    assert {call[1:] for call in G.calls} == {(1.0, None, "const", 1.5)}
    assert images.dtype == torch.uint8
    expected = pil_uint8(z[:, 0].double() + torch.tensor([0, 0, 0, 0.2, 0, 0, 0]))
    assert (images[:, 2, 3, 3].int() - expected.int()).abs().max() <= 1 and len(images.unique()) == 7
