"""Purpose strings are a file format: they enter every seed, so a renamed one would make a run draw other numbers.

One draw of each purpose is compared with the value that version 0.1 (commit 018a58d) drew.
"""

import numpy as np
import pytest
import torch
from support.data_sets import label_json, numbered, opened, write_folder
from support.toy import ToySet, toy_config, toy_minibatches, toy_state

from stylegan_ray.cluster.tune.space import Space
from stylegan_ray.config import load_config
from stylegan_ray.data.order import image_index
from stylegan_ray.data.reals import RealsSource
from stylegan_ray.images.generate import Sampler
from stylegan_ray.images.grid import choose_latents, choose_reals
from stylegan_ray.metrics import kernel_distance
from stylegan_ray.metrics.blocks import BlockWorker, Plan, Task, read_reals
from stylegan_ray.metrics.names import parse_metric
from stylegan_ray.rng import Place, SeededDraws
from stylegan_ray.train.step import train_iteration

CPU, FLOAT = torch.device("cpu"), torch.float32
PLACE = Place(nimg=24, micro_batch=1, position=26)


class NotedDraws(SeededDraws):
    """The draws of a production run; notes the first value of each, by kind and purpose."""

    def __init__(self, *args):
        super().__init__(*args)
        self.noted = {}

    def note(self, name, value):
        first = value[0] if isinstance(value, list) else value
        number = float(torch.as_tensor(first).flatten()[-1])
        self.noted.setdefault(name, number)
        return value

    def latents(self, purpose, *args):
        return self.note(f"latents {purpose}", super().latents(purpose, *args))

    def fake_labels(self, purpose, *args):
        labels = super().fake_labels(purpose, *args)
        self.note(f"labels {purpose}", labels.argmax(dim=1).float() @ 10.0 ** torch.arange(len(labels)))
        return labels

    def uniforms(self, purpose, *args):
        return self.note(f"uniforms {purpose}", super().uniforms(purpose, *args))

    def mixing(self, purpose, *args):
        return self.note(f"mixing {purpose}", super().mixing(purpose, *args))

    def noise(self, purpose, *args):
        return self.note(f"noise {purpose}", super().noise(purpose, *args))

    def pl_noise(self, *args):
        return self.note("pl_noise", super().pl_noise(*args))


def draws_of_an_iteration(**keys):
    cfg = toy_config(**{"model.style_mixing_prob": 1.0, "run.seed": 5} | keys)
    draws = NotedDraws(5, 2, ToySet())
    train_iteration(toy_state(cfg), cfg, next(toy_minibatches(cfg)), draws)
    return draws.noted


OF_G = {
    "latents G_main": 1.3436030149459839, "latents G_main/mixed": -1.6130489110946655, "mixing G_main": 2,
    "noise G_main": -0.7198845148086548, "labels G_main": 21,
}  # fmt: skip
OF_G_REG = {
    "latents G_reg": -0.22690442204475403, "latents G_reg/mixed": -0.5493310689926147, "mixing G_reg": 3,
    "noise G_reg": 0.7440263032913208, "labels G_reg": 1, "pl_noise": 0.6939012408256531,
}  # fmt: skip
OF_D = {
    "latents D_main": 0.751369297504425, "latents D_main/mixed": 0.37869036197662354, "mixing D_main": 2,
    "noise D_main": 1.6510343551635742,
}  # fmt: skip
OF_D_REG = {
    "latents D_reg": -0.8011741042137146, "latents D_reg/mixed": -1.2536402940750122, "mixing D_reg": 3,
    "noise D_reg": -0.10548926144838333, "uniforms wgan_mix": 0.5985562927921958,
}  # fmt: skip
SEPARATE_LABELS = {"labels D_main": 1, "labels D_reg": 21}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, OF_G | OF_G_REG | OF_D),
        ({"loss.G": "wgan", "loss.D": "wgan_gp"}, OF_G | OF_D | OF_D_REG),
        (
            {"loss.G": "wgan", "loss.D": "wgan_gp", "model.label_mode": "separate"},
            OF_G | OF_D | OF_D_REG | SEPARATE_LABELS,
        ),
    ],
    ids=["default", "wgan_gp", "separate labels"],
)
def test_a_training_iteration(keys, expected):
    assert draws_of_an_iteration(**keys) == pytest.approx(expected, rel=1e-6)


def test_streams_by_position_and_by_micro_batch():
    draws = SeededDraws(7, 3, ToySet())
    assert draws.latents("G_main", PLACE, 2, 3)[1].tolist() == pytest.approx(
        [0.7825964689254761, 0.8624887466430664, 0.042814988642930984], rel=1e-6
    )
    assert draws.mixing("D_main", PLACE, 0.9, 14) == 6
    assert draws.noise("G_reg", PLACE, [(1, 1, 2, 2)], CPU, FLOAT)[0].flatten().tolist() == pytest.approx(
        [-1.2728650569915771, 0.9599415063858032, 0.5609927177429199, 0.1984427273273468], rel=1e-6
    )
    assert draws.pl_noise(PLACE, (1, 1, 1, 2), CPU, FLOAT).flatten().tolist() == pytest.approx(
        [-0.8804848194122314, -2.8914473056793213], rel=1e-6
    )
    assert draws.uniforms("wgan_mix", PLACE, 2).tolist() == pytest.approx(
        [0.7492064128710834, 0.9169863484811499], rel=1e-12
    )


def test_a_rollback_draws_from_other_streams():
    first, second = (SeededDraws(7, salt).latents("G_main", PLACE, 1, 1).item() for salt in (0, 1))
    assert (first, second) == pytest.approx((1.1800851821899414, 1.7633322477340698), rel=1e-6)


def test_initial_weights():
    state = toy_state(toy_config())
    weights = state.G.state_dict()
    drawn = [float(weights[name].flatten()[0]) for name in ("mapping.label_weight", "synthesis.b4.constant")]
    assert drawn == pytest.approx([-0.3098725974559784, 0.3943367004394531], rel=1e-6)


def test_the_order_of_images():
    positions = np.arange(95, 105)
    assert image_index(5, 0, positions, 100).tolist() == [99, 89, 84, 43, 24, 80, 1, 24, 34, 0]
    assert image_index(5, 1, positions, 100, "blocks", 8, 3).tolist() == [8, 9, 11, 12, 15, 33, 97, 96, 46, 99]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    labels = label_json([[f"{i:03d}.png", i % 3] for i in range(12)])
    folder = write_folder(tmp_path_factory.mktemp("set"), {**numbered(12, size=(8, 8)), "dataset.json": labels})
    return opened(folder, cond=True)


def test_mirrored_images(dataset):
    reals = RealsSource(dataset, seed=5, stream_salt=1, mirror_augment=True)
    mirrored = reals.mirrored(np.arange(24))
    assert "".join("01"[int(flipped)] for flipped in mirrored) == "011111000001001101100010"


def test_image_grids(dataset):
    assert choose_reals(dataset, "random", 5, (3, 2)).tolist() == [4, 3, 10, 2, 1, 6]
    assert choose_reals(dataset, "row_per_class", 5, (3, 2)).tolist() == [6, 0, 3, 1, 10, 7]
    assert choose_latents(5, 2, 3)[1].tolist() == pytest.approx(
        [2.163362741470337, 0.07415275275707245, 1.2266156673431396], rel=1e-6
    )


def test_noise_of_generated_images():
    state = toy_state(toy_config())
    for name, value in state.G_ema.state_dict().items():
        if name.endswith("noise_strength"):
            value.fill_(1)
    of_seed = [
        next(iter(Sampler(state.G_ema, noise=noise).images(torch.zeros(1, state.G.synthesis.num_ws, 6), [11])))
        for noise in ("random", "none")
    ]
    assert float((of_seed[0] - of_seed[1]).flatten()[0]) == pytest.approx(0.13654178380966187, rel=1e-4)


class FirstPixels(torch.nn.Module):
    """A detector whose features are the first pixels of an image."""

    def forward(self, images):
        return images.float().flatten(1)[:, :8], None


def test_metrics(dataset):
    state = toy_state(toy_config())
    specs = tuple(map(parse_metric, ("fid64_tiny", "ppl_wend_tiny", "ls64")))
    detectors = dict.fromkeys(("tiny", "celeba"), FirstPixels())
    worker = BlockWorker(Plan(specs, seed=5), state.G_ema, dataset, detectors)
    assert worker.run(Task("fake", "", 1))["features/tiny"][3, :3].tolist() == pytest.approx([127, 174, 166], abs=2)
    assert worker.run(Task("path", "ppl_wend_tiny", 1))["distances"][:2].tolist() == pytest.approx(
        [9164.9, 5844.0], rel=0.1
    )
    assert worker.run(Task("attributes", "ls64", 1))["z"][0, :2].tolist() == pytest.approx(
        [-0.17129383981227875, -0.19577766954898834], rel=1e-6
    )
    assert read_reals(dataset, 0, mirror=True)[:3, 0, 0, 0].tolist() == [193, 152, 246]


def test_subsets_of_the_kernel_distance():
    features = np.random.default_rng(0).normal(size=(40, 4))
    assert kernel_distance(features[:20], features[20:], 3, 5, seed=5) == pytest.approx(-0.8726234329586927, rel=1e-9)


def test_trials_of_a_sweep():
    text = """\
schedule.G_lrate: {loguniform: [0.0005, 0.01]}
schedule.D_lrate: {loguniform: [0.0005, 0.01]}
train.G_reg_interval: {choice: [1, 2, 4, 8, 16]}
train.D_reg_interval: {choice: [4, 8, 16, 32]}
loss.r1_gamma: {loguniform: [0.1, 100]}
"""
    space = Space.parse(text, "a space", load_config("tiny"))
    assert space.sample(5, 2) == {
        "schedule.G_lrate": 0.001501,
        "schedule.D_lrate": 0.0008242,
        "train.G_reg_interval": 2,
        "train.D_reg_interval": 32,
        "loss.r1_gamma": 23.31,
    }
