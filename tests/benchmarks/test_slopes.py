"""A planted leak is found to its size, and neither restarts, warm-up nor noise look like one."""

import numpy as np
import pytest

from benchmarks.slopes import growth, growth_across


def lifetimes(percent_per_hour, levels=(500, 420, 560), hours=0.5, noise=2.0, warm_up=150.0):
    """Samples every 5 s of processes that follow one another; their first 2 minutes are a steep rise."""
    rng, start = np.random.default_rng(0), 0.0
    for level in levels:
        times = start + np.arange(0, hours, 5 / 3600)
        age = times - start
        values = level * (1 + percent_per_hour / 100 * age) - warm_up * np.exp(-age / (30 / 3600))
        yield times, values + noise * rng.standard_normal(len(times))
        start += hours


def test_planted_leak_is_found():
    found = growth(lifetimes(percent_per_hour=3.0))
    assert found is not None and found.lifetimes == 3
    assert found.percent_per_hour == pytest.approx(3.0, abs=0.4)
    assert found.certain_percent_per_hour > 2
    assert found.hours == pytest.approx(3 * 0.5 * 0.9, rel=0.01)


def test_no_leak_is_no_growth_though_levels_differ():
    found = growth(lifetimes(percent_per_hour=0.0, levels=(400, 500, 600)))
    assert abs(found.percent_per_hour) < 0.4 and found.certain_percent_per_hour <= 0.1
    joined = growth([tuple(np.concatenate(parts) for parts in zip(*lifetimes(0.0, (400, 500, 600)), strict=True))])
    assert joined.percent_per_hour > 10  # one line through all lifetimes would call it a leak


def test_a_leak_shows_though_each_restart_takes_it_back():
    found = growth(lifetimes(percent_per_hour=5.0, levels=(500, 490, 480)))
    assert found.percent_per_hour == pytest.approx(5.0, abs=0.4)


def test_slope_is_that_of_the_line_without_noise():
    found = growth([(np.linspace(2, 3, 100), np.linspace(200, 210, 100))])
    assert found.per_hour == pytest.approx(10) and found.error == pytest.approx(0, abs=1e-9)
    assert found.level == pytest.approx(205.5, abs=0.1)


def test_steps_of_a_counter_are_growth():
    times = np.linspace(0, 1, 200)
    found = growth([(times, 40 + np.floor(times * 8))])
    assert found.per_hour == pytest.approx(8, abs=0.8) and found.certain_percent_per_hour > 10


def test_short_lifetimes_do_not_count():
    assert growth([(np.arange(5) / 720, [1, 2, 3, 4, 5])]) is None
    assert growth([]) is None
    assert growth([(np.arange(5) / 720, [1, 2, 3, 4, 5]), *lifetimes(0.0, levels=(500,))]).lifetimes == 1


def test_levels_that_grow_from_start_to_start():
    assert growth_across(lifetimes(0.0, levels=(500, 505, 510))) == pytest.approx(2.0, abs=0.3)
    assert growth_across(lifetimes(0.0, levels=(500, 600))) == 0.0
