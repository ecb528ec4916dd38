import pytest
from support.toy import toy_config

from benchmarks import overlap


@pytest.mark.slow
def test_sets_the_time_of_sums_against_that_of_two_workers():
    cfg = toy_config(**{"data.resolution": 8})
    figures, (bar,) = overlap.measure(overlap.Options(repeats=1, gbit=0.001), cfg)
    phases = figures["phases"]
    assert {part: phase["interval"] for part, phase in phases.items()} == {"G": 1, "G_reg": 2, "D": 1, "D_reg": 3}
    for phase in phases.values():
        assert min(phase["sec"]) > 0 and phase["sum_sec"] == pytest.approx(phase["bytes"] * 8 / 1e6)
    assert figures["sums_sec"] == pytest.approx(sum(p["sum_sec"] / p["interval"] for p in phases.values()))
    assert bar["value"] == figures["share"] == pytest.approx(figures["sums_sec"] / figures["iteration_sec"])
