import pytest
from support.toy import toy_config

from benchmarks import overlap
from benchmarks.overlap import Timed


@pytest.mark.slow
def test_measures_waits_of_two_workers():
    keys = {"data.resolution": 8, "model.fmap_max": 32, "model.fmap_base": 256, "train.D_reals_first": True}
    figures, (bar,) = overlap.measure(overlap.Options(repeats=1, share=1.0), toy_config(**keys))
    assert set(figures["phases"]) == {"G", "G_reg", "D", "D_reg"}
    kinds = {kind["parts"]: kind for kind in figures["iterations"]}
    assert [(parts, kind["frequency"]) for parts, kind in kinds.items()] == [
        (("G", "G_reg", "D", "D_reg"), 1 / 6), (("G", "D"), 1 / 3),
        (("G", "G_reg", "D"), 1 / 3), (("G", "D", "D_reg"), 1 / 6),
    ]  # fmt: skip
    for parts, kind in kinds.items():
        (late,), (early,) = kind["late"], kind["early"]
        assert len(late) == len(early) == len(parts) and sum(late) > sum(early) > 0
    waited = sum(sum(kind["late"][0]) * kind["frequency"] for kind in kinds.values())
    without = sum(kind["sec"] * kind["frequency"] for kind in kinds.values())
    assert waited == pytest.approx(without, rel=0.7), "the link takes the share that was asked for"
    assert bar["value"] == figures["hidden"] < 1


def test_hidden_is_weighted_by_how_often_a_turn_comes():
    often = Timed(("G",), 0.75, 9.0, late=[[1.0]], early=[[0.0]])
    seldom = Timed(("G", "G_reg"), 0.25, 9.0, late=[[1.0, 4.0]], early=[[1.0, 4.0]])
    assert overlap.hidden([often, seldom]) == pytest.approx(1 - (0.25 + 1.0) / (1.0 + 1.0))
    assert overlap.hidden([often, seldom], "G") == pytest.approx(0.75) and overlap.hidden([often, seldom], "G_reg") == 0


def test_waits_are_the_median_of_the_repeats():
    kind = Timed(("G", "D"), 1.0, 9.0, late=[[1.0, 2.0], [5.0, 1.0], [2.0, 9.0]], early=[[0.0, 0.0]] * 3)
    assert overlap.waiting(kind, "late", None) == 2.0 + 2.0


def test_a_worker_that_comes_early_waits_for_the_other_and_not_for_the_sum():
    first, last = (
        Timed(("G", "D"), 1.0, 9.0, late=[[a, 1.0], [2.0, a]], early=[[b, 0.1], [0.3, b]])
        for a, b in ((3.0, 2.0), (1.0, 0.2))
    )
    assert overlap.together([first, last])[3:] == ([[1.0, 1.0], [2.0, 1.0]], [[0.2, 0.1], [0.3, 0.2]])
