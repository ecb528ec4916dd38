"""Rows of text as aligned columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?")


def format_table(rows: Sequence[Sequence[str]], head: bool = True) -> str:
    """Rows of equal length as aligned columns, two spaces apart.

    With `head` the first row is a heading with a line under it, and columns of numbers are aligned to the right.
    """
    columns = []
    for cells in zip(*rows, strict=True):
        width = max(map(len, cells))
        if not head:
            columns.append([cell.ljust(width) for cell in cells])
            continue
        is_number = all(NUMBER.fullmatch(cell) for cell in cells[1:] if cell)
        aligned = [cell.rjust(width) if is_number else cell.ljust(width) for cell in cells]
        columns.append([aligned[0], "-" * width, *aligned[1:]])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))
