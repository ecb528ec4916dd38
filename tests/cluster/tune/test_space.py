"""Search spaces: how one is parsed, refused, sampled and perturbed."""

from __future__ import annotations

import numpy as np
import pytest

from stylegan_ray.cluster.tune.options import sweep_options
from stylegan_ray.cluster.tune.space import DEFAULT_SPACE, Parameter, Space
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.train.schedule import lazy_ratio

BASE = load_config("tiny")


def space_of(text: str) -> Space:
    return Space.parse(text, "space.yaml", BASE)


@pytest.mark.parametrize(("keys", "idle"), [
    ({"loss.G": "logistic_ns_pathreg", "loss.D": "logistic_r1"}, set()),
    ({"loss.G": "logistic_ns", "loss.D": "logistic_r1"}, {"train.G_reg_interval"}),
    ({"loss.G": "logistic_ns_pathreg", "loss.D": "wgan_gp"}, {"loss.r1_gamma"}),
    ({"loss.G": "wgan", "loss.D": "wgan"}, {"train.G_reg_interval", "train.D_reg_interval", "loss.r1_gamma"}),
    ({"loss.G": "rpgan", "loss.D": "rpgan", "train.lazy_regularization": False},
     {"train.G_reg_interval", "train.D_reg_interval"}),
])  # fmt: skip
def test_the_default_space_holds_what_has_an_effect(keys, idle):
    space = Space.read(None, BASE.with_overrides(keys))
    assert set(space_of(DEFAULT_SPACE).keys) - set(space.keys) == idle


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss.gama: {uniform: [1, 2]}", "unknown key 'loss.gama'; did you mean 'loss.r1_gamma'?"),
        ("loss.r1_gamma: {unifrm: [1, 2]}", "did you mean 'uniform'?"),
        ("loss.r1_gamma: {uniform: [1, 2], choice: [1]}", "must be one of"),
        ("loss.r1_gamma: {uniform: [2, 1]}", "LOW < HIGH"),
        ("loss.r1_gamma: {loguniform: [0, 1]}", "use uniform"),
        ("loss.r1_gamma: {loguniform: [low, 1]}", "LOW < HIGH"),
        ("loss.r1_gamma: {choice: 3}", "choice takes a list, not 3"),
        ("train.G_reg_interval: {uniform: [1, 2.5]}", "whole number"),
        ("train.total_kimg: {choice: [1, 2]}", "the scheduler counts time in it"),
        ("run.name: {choice: [a, b]}", "cannot be searched"),
        ("data.split: {choice: [train, test]}", "trials share one prepared data set"),
        ("cluster.num_workers: {choice: [1, 2]}", "cannot be searched"),
        ("data.resolution: {choice: [16, 32]}", "trials share one prepared data set"),
        ("loss.r1_gamma: 3", "nothing to search"),
        ("- loss.r1_gamma", "a mapping of dotted keys"),
        ("loss.r1_gamma: [", "line 1, column 17"),
        ("loss.r1_gamma: {choice: [1], if: {loss.pl_weigt: 1}}\nloss.pl_weight: 1", "did you mean 'loss.pl_weight'?"),
        (
            "loss.r1_gamma: {choice: [1], if: {loss.pl_weight: 1}}\n"
            "loss.pl_weight: {choice: [1], if: {loss.r1_gamma: 1}}",
            "depend on each other",
        ),
    ],
)
def test_a_malformed_space_is_refused_with_the_key_and_a_way_out(text, said):
    with pytest.raises(ConfigError, match=r"space\.yaml[:,] ") as caught:
        space_of(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss.r1_gamma: {uniform: [-1, 2]}", "loss.r1_gamma=-1"),
        ("train.G_reg_interval: {grid: [4, 0]}", "train.G_reg_interval=0"),
        ("schedule.minibatch_gpu: {choice: [8, 12]}", "must be a multiple"),
        ("loss.G: {choice: [logistic_ns, logistik]}", "logistic_ns_pathreg"),
    ],
)
def test_a_value_out_of_bounds_is_refused_before_any_trial(text, said):
    with pytest.raises(ConfigError) as caught:
        space_of(text).check(BASE, 0, 4)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss.r1_gamma: {uniform: [1, 2], if: {1: 2}}", "if names keys"),
        ("train.G_reg_interval: {uniform: [1, .inf]}", "two finite numbers"),
        ("train.G_reg_interval: {uniform: [.nan, 2]}", "two finite numbers"),
        ('loss.r1_gamma: {uniform: [1, 2], if: {"\\e[2J\\nforged": 1}}', "names .*forged, which is not"),
    ],
)
def test_values_as_no_one_means_them(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        space_of(text)
    assert all(line.isprintable() for line in str(caught.value).splitlines())


def test_samples_stay_in_bounds_and_cover_them():
    space = space_of(DEFAULT_SPACE + "loss.pl_weight: {uniform: [0, 4]}\nschedule.minibatch_repeats: {uniform: [1, 4]}")
    samples = [space.sample(0, number) for number in range(300)]
    rates = np.array([sample["schedule.G_lrate"] for sample in samples])
    assert rates.min() >= 0.0005 and rates.max() <= 0.02
    assert 0.4 < (rates < np.sqrt(0.0005 * 0.02)).mean() < 0.6, "half of a log-uniform is below the geometric mean"
    assert {sample["train.G_reg_interval"] for sample in samples} == {1, 2, 4, 8, 16}
    assert {sample["schedule.minibatch_repeats"] for sample in samples} == {1, 2, 3, 4}
    assert abs(np.mean([sample["loss.pl_weight"] for sample in samples]) - 2) < 0.3
    assert len({sample["schedule.G_lrate"] for sample in samples}) > 290
    assert not np.corrcoef(rates, [sample["schedule.D_lrate"] for sample in samples])[0, 1] > 0.2


def test_numbers_may_be_written_with_an_exponent():
    space = space_of("schedule.G_lrate: {loguniform: [1e-3, 1E-2]}\nloss.r1_gamma: {choice: [1e-1, 2]}")
    assert [parameter.values for parameter in space.parameters] == [(0.001, 0.01), (0.1, 2)]


def test_a_trial_is_a_function_of_seed_and_number():
    space = space_of(DEFAULT_SPACE)
    assert space.sample(0, 7) == space_of(DEFAULT_SPACE).sample(0, 7) != space.sample(1, 7)


def test_a_grid_takes_all_its_combinations():
    space = space_of("loss.r1_gamma: {grid: [1, 2, 3]}\ntrain.G_reg_interval: {grid: [4, 8]}\nloss.pl_weight: 1.5")
    assert space.grid_size == 6 and space.is_grid
    samples = [space.sample(0, number) for number in range(7)]
    pairs = [(sample["loss.r1_gamma"], sample["train.G_reg_interval"]) for sample in samples]
    assert len(set(pairs[:6])) == 6 and pairs[6] == pairs[0]
    assert all(sample["loss.pl_weight"] == 1.5 for sample in samples)


def test_conditions_decide_what_is_searched():
    space = space_of(
        "loss.pl_weight: {choice: [1, 2], if: {loss.G: logistic_ns_pathreg}}\n"
        "loss.G: {choice: [logistic_ns, logistic_ns_pathreg]}"
    )
    samples = [space.sample(0, number) for number in range(20)]
    assert {sample["loss.G"] for sample in samples} == {"logistic_ns", "logistic_ns_pathreg"}
    assert all(("loss.pl_weight" in sample) == (sample["loss.G"] == "logistic_ns_pathreg") for sample in samples)
    assert space.keys == ["loss.G", "loss.pl_weight"], "what a condition names comes first"


def test_perturbed_values_stay_near_and_inside():
    gamma = Parameter("loss.r1_gamma", "loguniform", (1.0, 12.0))
    interval = Parameter("train.G_reg_interval", "choice", (1, 4, 16), is_whole=True)
    rng = np.random.default_rng(0)
    near = [gamma.perturb(10.0, rng) for _ in range(200)]
    assert {8.0, 12.0} <= set(near) and all(1 <= value <= 12 for value in near)
    assert 20 < sum(value not in (8.0, 12.0) for value in near) < 80, "a quarter is sampled again"
    assert {interval.perturb(4, rng) for _ in range(200)} == {1, 4, 16}
    assert {Parameter("k", "uniform", (1, 9), True).perturb(2, rng) for _ in range(99)} >= {1, 3}


def test_only_what_fits_a_copied_state_is_perturbed():
    space_of(DEFAULT_SPACE).check_movable()
    for space in (
        "model.fmap_max: {choice: [32, 64]}",
        "augment.p: {uniform: [0.1, 0.9]}",
        "augment.mode: {choice: [noaug, ada]}",
    ):
        key = space.partition(":")[0].replace(".", r"\.")
        with pytest.raises(ConfigError, match=rf"{key} cannot change"):  # augment_p is of the state
            space_of(space).check_movable()


def test_every_trial_has_the_lazy_corrections_of_its_own_intervals():
    space = space_of("train.G_reg_interval: {grid: [1, 4]}")
    ratios = [lazy_ratio(BASE.with_overrides(space.sample(0, number)), "G") for number in (0, 1)]
    assert ratios == [1 / 2, 4 / 5]


@pytest.mark.parametrize("name", ["space.yaml", "SPACE.YML"])
def test_the_command_parses_space_preset_and_options(tmp_path, name):
    path = tmp_path / name
    path.write_text("loss.r1_gamma: {grid: [1, 2, 3]}")
    plan = sweep_options([str(path), "tiny", "--scheduler", "fifo", "--train.total_kimg", "4", "--every", "2"])
    assert plan.num_samples == 3 and plan.cfg.train.total_kimg == 4
    assert plan.objective == "Metrics/fid500_tiny" and not plan.higher_is_better
    assert plan.cfg.metrics.names == ("fid500_tiny",) and plan.cfg.metrics.ticks == 2
    assert plan.given.metrics.names == ()


@pytest.mark.parametrize(("seeds", "num"), [([0, 1], 16), (list(range(20)), 20)])
def test_a_grid_is_whole_by_default_beside_random_values(tmp_path, seeds, num):
    path = tmp_path / "space.yaml"
    path.write_text(f"run.seed: {{grid: {seeds}}}\nloss.r1_gamma: {{uniform: [1, 2]}}\n")
    assert sweep_options([str(path), "tiny"]).num_samples == num
    path.write_text(f"run.seed: {{grid: {seeds}}}\nloss.r1_gamma: {{choice: [3], if: {{run.seed: 0}}}}\n")
    assert sweep_options([str(path), "tiny"]).num_samples == len(seeds), "a choice of one value is not random"
    plan = sweep_options(["--objective", "pr500_3_tiny_recall"])
    assert plan.higher_is_better and plan.cfg.metrics.names == ("pr500_3_tiny",)
    assert plan.objective == "Metrics/pr500_3_tiny_recall"
    assert sweep_options(["tiny", "--metrics.num_images", "1000"]).objective == "Metrics/fid1k_tiny"
    assert sweep_options(["--objective", "Loss/scores/real", "--mode", "max"]).higher_is_better
    assert sweep_options(["--objective", "Loss/D/loss"]).cfg.metrics.names == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.yaml"], "cannot be read"),
        (["--objective", "fid5h"], "fid5h"),
        (["--objective", "pr500_3_tiny"], "use one"),
        (["--objective", "fid500_tiny_recall"], "fid500_tiny"),
        (["--samples", "0"], "--samples 0"),
        (["--dry-run"], "--dry-run"),
        (["--train.total_kmg", "3"], "did you mean"),
    ],
)
def test_the_command_refuses_unknown_and_invalid_options(words, said):
    with pytest.raises(ConfigError) as caught:
        sweep_options(words)
    assert said in str(caught.value)
