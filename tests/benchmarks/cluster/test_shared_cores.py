import pytest

pytest.importorskip("ray")

from benchmarks.cluster.shared_cores import bars_of, environment


def test_bars():
    figures = {
        "sec_per_kimg_alone": {"ours": [9.0, 7.0, 8.0], "libgomp": [8.0]},
        "sec_per_kimg_at_once": {"ours": [16.0, 40.0, 18.0], "libgomp": [90.0]},
    }
    slow_alone = {**figures, "sec_per_kimg_alone": {"ours": [8.0], "libgomp": [7.0]}}
    assert [bar["value"] for bar in bars_of(figures)] == [2.25, 1.0]
    assert [bar["holds"] for bar in bars_of(figures)] == [True, True]
    assert [bar["holds"] for bar in bars_of(slow_alone)] == [True, False]


def test_each_way_gets_its_variables_only(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "OMP_WAIT_POLICY" not in environment({})
    assert environment({"GOMP_SPINCOUNT": "1"})["GOMP_SPINCOUNT"] == "1"
