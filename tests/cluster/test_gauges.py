"""The gauges of a run are at the Prometheus endpoint of its Ray node, and the dashboard draws each of them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from support.grown import GrowingRun
from support.reports import row

from stylegan_ray.cluster import gauges
from stylegan_ray.cluster.gauges import Gauges, num_restarts
from stylegan_ray.run_folder import newest_saved_at
from stylegan_ray.storage import Storage

DASHBOARD = Path(__file__).parents[2] / "grafana" / "stylegan_ray.json"
ALL = {*gauges.OF_TICKS, gauges.METRIC, gauges.AGE, gauges.RESTARTS}


class Recording:
    def __init__(self):
        self.seen = []

    def __getattr__(self, call):
        return lambda *words: self.seen.append((call, *words))


def test_the_dashboard_draws_each_gauge_and_no_other():
    stored = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in stored["panels"] for target in panel["targets"]]
    assert set(re.findall(r"ray_(stylegan_\w+)", " ".join(queries))) == ALL
    assert all('{run_name=~"$run"}' in query for query in queries)
    places = [panel["gridPos"] for panel in stored["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "panels overlap"


def test_the_first_start_of_a_command_is_no_restart(tmp_path):
    run = Storage.at(tmp_path)
    assert num_restarts(run) == 0
    rows = [{"command": "a"}, {"start": 0}, {"fault": "x"}, {"start": 0}, {"start": 4}, {"command": "a"}, {"start": 4}]
    run.write("faults.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert num_restarts(run) == 2


def test_the_age_of_a_checkpoint_is_that_of_its_last_file(tmp_path):
    run = GrowingRun(tmp_path)
    assert newest_saved_at(run.folder) is None
    run.add_ticks(1)
    assert abs(newest_saved_at(run.folder) - time.time()) < 60


@pytest.mark.cluster
def test_a_run_is_at_the_endpoint_of_its_node(tmp_path, ray_local):
    run, view = GrowingRun(tmp_path), Recording()
    run.add_ticks(1)
    rows = [{"command": "a"}, {"start": 0}, {"fault": "x"}, {"start": 0}]
    run.folder.write("faults.jsonl", "\n".join(map(json.dumps, rows)).encode())
    shown = Gauges(view, run.folder, "growing")
    tick, values = row(3, **{"Progress/augment_p": 0.25}), {"Progress/tick": 3, "Metrics/fid5k_tiny": 41.5}
    shown.tick(tick)
    shown.metric(values)
    shown.message("hello")
    shown.refresh()
    assert view.seen == [("tick", tick), ("metric", values), ("message", "hello"), ("refresh",)]
    address = f"http://127.0.0.1:{ray_local.nodes()[0]['MetricsExportPort']}/metrics"
    for seconds in (0, 30):  # Ray drops what nobody sets for 20 s
        deadline, seen_until, found = time.monotonic() + seconds + 60, time.monotonic() + seconds, {}
        while time.monotonic() < seen_until or not {f"ray_{name}" for name in ALL} <= found.keys():
            assert time.monotonic() < deadline, f"{address} has {sorted(found)}"
            time.sleep(1)
            shown.refresh()
            found = scraped(address)
    assert found["ray_stylegan_kimg"] == ("growing", None, 12.128)
    assert found["ray_stylegan_augment_p"] == ("growing", None, 0.25)
    assert found["ray_stylegan_data_wait_share"] == ("growing", None, tick["Timing/share/data"])
    assert found["ray_stylegan_metric"] == ("growing", "fid5k_tiny", 41.5)
    assert found["ray_stylegan_restarts"] == ("growing", None, 1)
    assert 0 <= found["ray_stylegan_checkpoint_age_sec"][2] < 600


def scraped(address):
    """Run, metric and value of each gauge of ours."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"^(ray_stylegan_\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[name] = (tags["run_name"], tags.get("metric"), float(value))
    return found
