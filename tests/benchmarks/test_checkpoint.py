import pytest
from support.toy import toy_config

from benchmarks import checkpoint


def test_measures_a_whole_state_and_judges_the_share_of_the_interval():
    cfg = toy_config(**{"data.resolution": 8})
    options = checkpoint.Options(repeats=3, threads=1, device="cpu", sec_per_kimg=100.0)
    figures, bars = checkpoint.measure(options, cfg)
    numbers = 4 * figures["parameters"]["G"] + 3 * figures["parameters"]["D"]  # weights, moments, G_ema
    assert 4 * numbers < figures["bytes"] < 8 * numbers + 50_000
    assert len(figures["blocked_sec_by_repeat"]) == len(figures["upload_sec_by_repeat"]) == 3
    share = sorted(figures["blocked_sec_by_repeat"])[1] / figures["interval_sec"]
    assert bars[0]["value"] == figures["blocked_share"] == share
    assert bars[0]["bar"] == 0.01 and bars[0]["holds"] == (share <= 0.01)


@pytest.mark.parametrize(
    ("overrides", "sec"),
    [
        ({}, 3.2),
        ({"train.checkpoint_ticks": 10}, 32.0),
        ({"train.checkpoint_ticks": None}, 600.0),
        ({"train.checkpoint_ticks": 1000, "train.checkpoint_minutes": 1}, 60.0),
    ],
)
def test_the_interval_is_the_sooner_of_ticks_and_minutes(overrides, sec):
    cfg = toy_config(**{"data.resolution": 8, "schedule.tick_kimg": 0.032, **overrides})
    assert checkpoint.interval_sec(cfg, sec_per_kimg=100.0) == pytest.approx(sec)
