import pytest
from support.toy import toy_config

from stylegan_ray.bench import overlap


@pytest.mark.slow
def test_measures_waits_of_two_workers():
    cfg = toy_config(**{"data.resolution": 8, "model.fmap_max": 32, "model.fmap_base": 256})
    figures, (bar,) = overlap.measure(overlap.Options(repeats=1, share=1.0), cfg)
    assert set(figures["phases"]) == {"G", "G_reg", "D", "D_reg"}
    for phase in figures["phases"].values():
        assert phase["wait_late"][0] > 0.5 * phase["sum_sec"] > 0
    assert bar["value"] == figures["hidden"] < 1
    assert 0 < figures["hidden_at_most"] <= 1


def test_hidden_is_weighted_by_turns():
    turns = [
        {"interval": 1, "wait_late": [1.0], "wait_early": [0.0]},
        {"interval": 4, "wait_late": [4.0], "wait_early": [4.0]},
    ]
    assert overlap.hidden(turns) == 0.5


def test_a_worker_that_comes_early_waits_for_the_other_and_not_for_the_sum():
    first, last = (
        {"interval": 1, "wait_late": [a, 1.0], "wait_early": [b, 0.1], "wait_least": [0.0]}
        for a, b in ((3.0, 2.0), (1.0, 0.2))
    )
    waits = {"wait_late": [1.0, 1.0], "wait_early": [0.2, 0.1], "wait_least": [0.0]}
    assert overlap.together([first, last]) == {"interval": 1, **waits}


def test_the_least_wait_is_what_is_left_of_a_link_that_is_never_idle():
    assert overlap.least_wait([(3.0, 1), (0.0, 1)], 2.0) == 1.0, "the first half is hidden"
    assert overlap.least_wait([(0.5, 1), (0.0, 1)], 2.0) == 1.5, "half of the first half is"
    assert overlap.least_wait([(9.0, 5), (2.0, 1), (1.0, 1), (0.0, 1)], 0.8) == pytest.approx(0.1)
