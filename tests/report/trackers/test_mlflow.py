"""One run in a real MLflow server with its database: one curve over crashes, images, metrics, parameters, data."""

from types import SimpleNamespace

import pytest
from support.grown import STARTED, GrowingRun, deliver, memory_of
from support.mlflow_server import mlflow_server, needs_server

from stylegan_ray.report.trackers import Deliveries
from stylegan_ray.report.trackers.memory import Memory
from stylegan_ray.report.trackers.mlflow import MLflow, in_pieces

CURVE = [(128, 0.0), (4128, 1.0), (8128, 2.0), (12128, 3.0), (16128, 4.0)]


def test_pieces_have_all_items_once():
    assert [list(piece) for piece in in_pieces([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that is busy with other tests is no dead server."""
    monkeypatch.setattr("stylegan_ray.report.trackers.delivery.SEC_TO_END", 300.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")


def growing(server, folder, **keys):
    return GrowingRun(folder, **{"report.mlflow": server.address, **keys})


def runs_of(server, run):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.address)
    experiment = client.get_experiment_by_name("stylegan_ray").experiment_id
    tag = memory_of(run.folder.root, "mlflow")["id"]
    return client, client.search_runs([experiment], f"tags.`stylegan_ray.id` = '{tag}'")


def history(client, run_id, key):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, key)]


@needs_server
@pytest.mark.cluster
def test_a_run_over_a_crash_is_one_run_with_one_curve(server, tmp_path):
    run = growing(server, tmp_path, **{"report.artifacts": True})
    run.add_ticks(2)
    run.add_ticks(2, checkpoint=False, loss=-1.0)
    (text,) = deliver(run, "stopped")
    assert text.startswith(f"MLflow: {server.address}/#/experiments/")
    run.lose(2)
    run.add_ticks(3)
    run.folder.write("network-final.safetensors", b"weights of G")
    deliver(run)
    client, (found,) = runs_of(server, run)
    run_id = found.info.run_id
    assert history(client, run_id, "Loss/D/loss") == CURVE
    assert history(client, run_id, "Metrics/fid5k_tiny") == [(128, 100.0), (8128, 98.0), (16128, 96.0)]
    stamps = [m.timestamp for m in client.get_metric_history(run_id, "Loss/D/loss")]
    assert stamps == [round(1000 * (STARTED + 10 * tick)) for tick in range(5)]
    images = [file.path for file in client.list_artifacts(run_id, "images")]
    assert len([path for path in images if path.endswith(".png")]) == 3
    assert [file.path for file in client.list_artifacts(run_id, "network")] == ["network/network-final.safetensors"]
    assert found.info.status == "FINISHED" and found.info.run_name == "growing"
    assert found.data.params["loss.r1_gamma"] == str(run.cfg.loss.r1_gamma) and len(found.data.params) > 100
    assert "Painted by nobody" in found.data.tags["mlflow.note.content"]
    assert found.data.tags["data.fingerprint"] == "ab12"


@needs_server
@pytest.mark.cluster
def test_a_row_that_was_sent_but_not_remembered_is_not_sent_again(server, tmp_path):
    """Killed after the server had the rows: the run's folder knows only its id."""
    run = growing(server, tmp_path)
    run.add_ticks(3)
    memory = Memory(run.folder, "mlflow", server.address)
    memory.write()
    deliver(run)
    (run.folder.write("tracker-mlflow.json", b""), memory.write())
    run.add_ticks(2)
    deliver(run)
    client, (found,) = runs_of(server, run)
    assert history(client, found.info.run_id, "Loss/D/loss") == CURVE
    assert history(client, found.info.run_id, "Metrics/fid5k_tiny") == [(128, 100.0), (8128, 98.0), (16128, 96.0)]
    assert len(client.list_artifacts(found.info.run_id, "images")) == 2 * 3, "a PNG and a preview of each"


@needs_server
@pytest.mark.cluster
def test_trials_of_a_sweep_share_a_tag(server, tmp_path):
    from dataclasses import replace

    for number in range(2):
        run = growing(server, tmp_path / str(number), **{"run.name": f"trial-{number}"})
        run.about = replace(run.about, group="my-sweep")
        run.add_ticks(1)
        deliver(run)
    client, (found,) = runs_of(server, run)
    trials = client.search_runs([found.info.experiment_id], "tags.`stylegan_ray.sweep` = 'my-sweep'")
    assert sorted(trial.info.run_name for trial in trials) == ["trial-0", "trial-1"]


@needs_server
@pytest.mark.cluster
def test_rows_follow_when_a_dead_server_is_back(tmp_path, monkeypatch):
    from support.mlflow_server import Server

    from stylegan_ray.report.trackers import delivery

    monkeypatch.setattr(delivery, "PAUSES_SEC", (1.0,))
    server, said = Server(tmp_path), []
    run = growing(server, tmp_path / "run")
    run.add_ticks(2)
    deliveries = Deliveries(run.cfg, run.folder, run.about, said.append)
    deliveries.start()
    try:
        wait_until(lambda: said, 120)
        server.start()
        wait_until(lambda: any("works again" in text for text in said), 120)
        run.add_ticks(3)
        deliveries.end("done")
        client, (found,) = runs_of(server, run)
        assert history(client, found.info.run_id, "Loss/D/loss") == CURVE
    finally:
        server.stop()
    warnings = [text for text in said if text.startswith("warning")]
    assert len(warnings) == 1 and server.address in warnings[0] and "rows follow" in warnings[0]


def test_a_run_that_was_deleted_on_the_server_gets_its_network_again(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    created = SimpleNamespace(info=SimpleNamespace(run_id="r", experiment_id="0"))
    answers = {"search_runs": [], "create_run": created, "list_artifacts": []}

    class Client:
        def __getattr__(self, name):
            return lambda *_, **__: answers.get(name, created.info)

    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: Client())
    run = GrowingRun(tmp_path)
    tracker, memory = MLflow("http://127.0.0.1:9"), Memory(run.folder, "mlflow", "http://127.0.0.1:9")
    memory.sent = {"ticks": 8128, "network": 8128}
    tracker.begin(memory, run.about)
    assert memory.sent == {}
    answers["search_runs"] = [SimpleNamespace(info=created.info, data=SimpleNamespace(metrics={}))]
    memory.sent = {"network": 8128}
    tracker.begin(memory, run.about)
    assert memory.sent == {"network": 8128}


def test_a_server_that_is_not_there_costs_one_warning(tmp_path):
    from support.browser import free_port

    run = GrowingRun(tmp_path, **{"report.mlflow": f"http://127.0.0.1:{free_port()}"})
    run.add_ticks(1)
    (warning,) = deliver(run)
    assert warning.startswith("warning: MLflow at http://127.0.0.1:") and "the same command sends the rest" in warning
    assert memory_of(run.folder.root, "mlflow")["sent"] == {}


def wait_until(condition, seconds):
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)
