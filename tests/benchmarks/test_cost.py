import pytest

from benchmarks.cost import Link, PhaseCost, iteration_sec, predicted, reduce_sec

LINK = Link(gb_s=1.0, latency_sec=0.0)
PHASES = {"G": PhaseCost(1, 0.3, 0.1, 10**8), "G_reg": PhaseCost(4, 0.6, 0.2, 10**8)}


def test_a_sum_over_a_ring():
    assert reduce_sec(1e9, 1, LINK) == 0
    assert reduce_sec(1e9, 2, LINK) == pytest.approx(1.0)
    assert reduce_sec(1e9, 4, Link(1.0, 0.01)) == pytest.approx(1.5 + 0.06)


def test_an_iteration_adds_up_turns_by_their_intervals():
    assert iteration_sec(PHASES, 4, 1, LINK, 0.9) == pytest.approx(4 * 0.3 + 0.1 + (4 * 0.6 + 0.2) / 4)
    both = iteration_sec(PHASES, 4, 2, LINK, 0.0) - 2 * 0.3 - 0.1 - (2 * 0.6 + 0.2) / 4
    assert both == pytest.approx(0.1 + 0.1 / 4)
    hidden = iteration_sec(PHASES, 4, 2, LINK, 0.9) - 2 * 0.3 - 0.1 - (2 * 0.6 + 0.2) / 4
    assert hidden == pytest.approx(0.01 + 0.01 / 4)
    assert iteration_sec(PHASES, 4, 3, LINK, 1.0) == pytest.approx(iteration_sec(PHASES, 4, 2, LINK, 1.0)), (
        "one has two"
    )


def test_what_a_backward_pass_is_too_short_to_hide_is_waited_for():
    slow = Link(gb_s=0.1, latency_sec=0.0)
    alone = {"G": PHASES["G"]}
    assert iteration_sec(alone, 2, 2, slow, 0.9) == pytest.approx(0.3 + 0.1 + 1.0 - 0.2)


def test_predictions_are_relative_to_one_worker():
    found = predicted(PHASES, 4, 2, (1, 8), LINK, 0.9)
    assert found["1"]["efficiency"] == 1 and 0.5 < found["8"]["efficiency"] < 1
    assert found["8"]["img_s"] == pytest.approx(found["1"]["img_s"] * 8 * found["8"]["efficiency"])
