"""Writes docs/evidence/fuzz.jsonl, the long runs of `tests/fuzz/run.py`, as a table into docs/security.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]
DOCS = HERE.parents[1] / "docs"
PAGE, RECORD = DOCS / "security.md", DOCS / "evidence" / "fuzz.jsonl"
BEGIN, END = "<!-- the rows of evidence/fuzz.jsonl, by tests/fuzz/table.py -->", "<!-- end of the rows -->"
HEAD = ["target", "executions", "CPU minutes", "minutes", "slowest input, s", "growth, MB", "commit", "date"]


def main() -> None:
    PAGE.write_text(with_table(PAGE.read_text()))


def with_table(page: str) -> str:
    """The page with the table of the record between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{PAGE} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def table() -> str:
    """The last run of each target that ended without a finding, and the targets that have none."""
    from fuzz.targets import TARGETS

    rows = {row["target"]: row for row in map(json.loads, RECORD.read_text().splitlines()) if row["status"] == 0}
    lines = [HEAD, ["---", *["---:"] * 5, "---", "---"], *(_cells(rows[name]) for name in TARGETS if name in rows)]
    missing = [f"`{name}`" for name in TARGETS if name not in rows]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return text + (f"\n\nWithout a long run so far: {', '.join(missing)}." if missing else "")


def _cells(row: dict[str, Any]) -> list[str]:
    minutes = [f"{row[key] / 60:.1f}" for key in ("cpu_seconds", "seconds")]
    return [
        f"`{row['target']}`", f"{row['executions']:,}", *minutes, str(row.get("slowest_sec", "")),
        str(row["grown_mb"]), row["commit"][:10], row["date"],
    ]  # fmt: skip


if __name__ == "__main__":
    main()
