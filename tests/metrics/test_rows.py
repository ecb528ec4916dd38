"""Comparison of rows."""

import pytest

from stylegan_ray.metrics.rows import MUST_AGREE, IncomparableRows, compare, summary_rows


def row(metric="fid5k_tiny", value=10.0, **changes):
    same = dict.fromkeys(MUST_AGREE, "same")
    return {**same, "metric": metric, "value": value, "spread": None, "seed": 0, "seconds": 1.0, "kimg": 5, **changes}


def test_like_rows_are_compared():
    (comparison,) = compare([row(value=10.0, kimg=5)], [row(value=7.5, kimg=9, seed=3)])
    assert comparison.metric == "fid5k_tiny" and comparison.difference == -2.5 and comparison.in_spreads is None


@pytest.mark.parametrize("key", [key for key in MUST_AGREE if key != "metric"])
def test_unlike_rows_are_refused_and_it_says_why(key):
    with pytest.raises(IncomparableRows, match=f"fid5k_tiny: {key} is same in A and other in B"):
        compare([row()], [row(**{key: "other"})])


def test_every_difference_is_named():
    with pytest.raises(IncomparableRows) as error:
        compare([row(), row("kid5k_tiny")], [row(data="other"), row("kid5k_tiny", num_gen=3)])
    assert "fid5k_tiny: data" in str(error.value) and "kid5k_tiny: num_gen" in str(error.value)


def test_nothing_in_common_is_refused():
    with pytest.raises(IncomparableRows, match="A has fid5k_tiny; B has kid5k_tiny"):
        compare([row()], [row("kid5k_tiny")])
    with pytest.raises(IncomparableRows, match="B has none"):
        compare([row()], [row(value=None, unavailable="fetch it")])


def test_the_last_row_of_each_metric_counts():
    rows = [row(value=10.0), row("is5k_tiny", value=3.0), row(value=8.0), row(value=None)]
    comparisons = {c.metric: c for c in compare(rows, [row(value=9.0)])}
    assert comparisons["fid5k_tiny"].difference == 1.0


def test_a_difference_is_in_units_of_spreads():
    a = summary_rows([[row(value=v)] for v in (9.0, 10.0, 11.0)])
    b = summary_rows([[row(value=v)] for v in (13.0, 14.0, 15.0)])
    (comparison,) = compare(a, b)
    assert comparison.difference == 4.0 and comparison.in_spreads == pytest.approx(4 / 2**0.5)


def test_what_differs_is_printable():
    with pytest.raises(IncomparableRows) as error:
        compare([row()], [row(data="x\x1b[2J\nerror: none" + "y" * 10_000)])
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and lines[1].isprintable() and len(lines[1]) < 1000


def test_splits_of_one_inception_score_are_no_repeats():
    (comparison,) = compare([row("is5k", spread=0.1)], [row("is5k", spread=0.1)])
    assert comparison.in_spreads is None
    (comparison,) = compare([row(spread=3.0, repeats=3)], [row(value=15.0, spread=4.0, repeats=3)])
    assert comparison.in_spreads == 1
