import pytest

from benchmarks.cost import Link, PhaseCost, iteration_sec, predicted, reduce_sec

LINK = Link(gb_s=1.0, latency_sec=0.0)
PHASES = {"G": PhaseCost(1, 0.3, 0.1, 10**8), "G_reg": PhaseCost(4, 0.6, 0.2, 10**8)}


def test_a_sum_over_a_ring():
    assert reduce_sec(1e9, 1, LINK) == 0
    assert reduce_sec(1e9, 2, LINK) == pytest.approx(1.0)
    assert reduce_sec(1e9, 4, Link(1.0, 0.01)) == pytest.approx(1.5 + 0.06)


def test_an_iteration_adds_up_phases_by_their_intervals():
    assert iteration_sec(PHASES, 4, 1, LINK) == pytest.approx(4 * 0.3 + 0.1 + (4 * 0.6 + 0.2) / 4)
    sums = iteration_sec(PHASES, 4, 2, LINK) - 2 * 0.3 - 0.1 - (2 * 0.6 + 0.2) / 4
    assert sums == pytest.approx(0.1 + 0.1 / 4)
    assert iteration_sec(PHASES, 4, 3, Link(1e9, 0.0)) == pytest.approx(iteration_sec(PHASES, 4, 2, Link(1e9, 0.0))), (
        "one worker has two micro-batches"
    )


def test_predictions_are_relative_to_one_worker():
    found = predicted(PHASES, 4, 2, (1, 8), LINK)
    assert found["1"]["efficiency"] == 1 and 0.5 < found["8"]["efficiency"] < 1
    assert found["8"]["img_s"] == pytest.approx(found["1"]["img_s"] * 8 * found["8"]["efficiency"])
