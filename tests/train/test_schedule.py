"""The schedule beyond the golden tables: odd resolutions, checks, ramps."""

import math

import pytest

from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.train.schedule import check_growing, training_schedule


@pytest.mark.parametrize("start", range(3, 21))
def test_lods_are_whole_whatever_the_resolution(start):
    """Logarithms are rounded, and floor(lod) does not lose a level to that."""
    for levels in range(1, 7):
        cfg = load_config("config-b", {"schedule.lod_initial_resolution": start})
        first, last = (
            training_schedule(cfg, nimg, math.log2(start << levels)) for nimg in (0, 600_000 + levels * 1_200_000)
        )
        assert (first.lod, first.level, first.resolution) == (levels, levels, start)
        assert (last.lod, last.resolution) == (0, start << levels)


def test_tables_are_by_the_larger_side():
    cfg = load_config("config-b", {"schedule.lod_initial_resolution": 6, "schedule.G_lrate_dict": {12: 0.5}})
    assert training_schedule(cfg, 599_999, math.log2(24)).G_lrate == 0.001
    assert training_schedule(cfg, 600_001, math.log2(24)).G_lrate == 0.5
    assert training_schedule(cfg, 1_800_001, math.log2(24)).G_lrate == 0.001


@pytest.mark.parametrize("resolution", [8, 32, (512, 384)])
def test_resolutions_that_growing_goes_through(resolution):
    check_growing(load_config("config-a"), resolution)
    check_growing(load_config("config-f"), resolution)


@pytest.mark.parametrize(
    ("preset", "initial", "resolution", "says"),
    [
        ("config-a", 7, 32, "lod_initial_resolution=7.*use 4 or 8 or 16 or 32"),
        ("config-a", 8, (24, 16), "use 6 or 12 or 24, or null"),
        ("config-d", 64, 32, "lod_initial_resolution=64.*32 pixels"),
        ("config-f", 8, 32, "lod_initial_resolution=8.*model.family=stylegan2.*config-a to config-d"),
    ],
)
def test_growing_that_is_refused(preset, initial, resolution, says):
    cfg = load_config(preset, {"schedule.lod_initial_resolution": initial})
    with pytest.raises(ConfigError, match=says):
        check_growing(cfg, resolution)


def test_learning_rates_rise_over_the_ramp():
    cfg = load_config("config-f", {"schedule.lrate_rampup_kimg": 10})
    rates = [training_schedule(cfg, nimg, 8).G_lrate for nimg in (0, 5_000, 10_000, 50_000)]
    assert rates == [0, 0.001, 0.002, 0.002]


def test_G_ema_is_G_without_smoothing_and_follows_faster_early_on():
    def beta(nimg, **keys):
        return training_schedule(
            load_config("config-f", {f"schedule.{k}": v for k, v in keys.items()}), nimg, 8
        ).G_smoothing_beta

    assert beta(1000, G_smoothing_kimg=0) == 0
    assert beta(1000, G_smoothing_kimg=10) == 0.5 ** (32 / 10_000)
    assert beta(1000, G_smoothing_kimg=10, G_smoothing_rampup=0.05) == 0.5 ** (32 / 50)
    assert beta(10**6, G_smoothing_kimg=10, G_smoothing_rampup=0.05) == 0.5 ** (32 / 10_000)
