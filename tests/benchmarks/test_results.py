import math

from benchmarks.results import at_least, at_most, circumstances, table
from stylegan_ray.cores import num_cores


def test_bars_hold_on_their_side_only_and_never_for_nan():
    assert at_least("speed", 0.92, 0.92)["holds"] and not at_least("speed", 0.9, 0.92)["holds"]
    assert at_most("wait", 0.03, 0.03)["holds"] and not at_most("wait", 0.04, 0.03)["holds"]
    assert not at_least("speed", math.nan, 0.92)["holds"] and not at_most("wait", math.nan, 0.03)["holds"]


def test_circumstances_name_machine_versions_and_command():
    head = circumstances("step", "jobs/benchmark.py step")
    assert list(head) == ["name", "machine", "versions", "commit", "command"]
    assert head["machine"]["cores"] == num_cores() >= 1 and head["machine"]["memory_gb"] > 0
    assert head["versions"]["torch"] and head["versions"]["python"].startswith("3.")
    assert head["commit"] is None or len(head["commit"].rstrip("+")) == 40


def test_table_shows_medians_ranges_and_missed_bars():
    figures = {"phases": {"G": {"sec": [3.0, 1.0, 2.0]}}, "threads": 2, "shape": [3, 8, 8], "ticks": [[{"kimg": 1}]]}
    text = table({"figures": figures, "bars": [at_most("sec", 2.0, 1.0), at_most("ok", 0.5, 1.0)]})
    lines = dict(line.split("  ", 1) for line in text.splitlines())
    assert lines["phases.G.sec"].strip() == "2  (1 to 3)"
    assert text.count("MISSED") == 1 and "holds with 0.5" in text and "[3, 8, 8]" in text
    assert lines["ticks"].strip() == "1 in the JSON"
