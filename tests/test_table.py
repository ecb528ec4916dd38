"""Rows as aligned columns."""

from stylegan_ray.table import format_table


def test_columns_of_numbers_are_aligned_to_the_right():
    lines = format_table([("name", "a", "b"), ("x", "1,000", "+0.5"), ("longer", "2", "")]).splitlines()
    assert lines == [
        "name        a     b",
        "------  -----  ----",
        "x       1,000  +0.5",
        "longer      2",
    ]


def test_without_a_head_all_rows_are_alike():
    assert format_table([("key", "1"), ("k", "22")], head=False).splitlines() == ["key  1", "k    22"]


def test_no_rows_are_no_text():
    assert format_table([]) == "" and format_table([("only", "head")]).splitlines()[1] == "----  ----"
