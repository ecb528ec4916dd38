"""A run that is killed twice and continued is one run with one curve in a real MLflow server."""

import json

import pytest
from support.grown import memory_of
from support.jobs import Job, small_model
from support.mlflow_server import mlflow_server, needs_server

pytestmark = pytest.mark.cluster


@needs_server
def test_a_run_that_is_killed_twice_is_one_run_with_one_curve(tmp_path, pictures):
    run = tmp_path / "run"
    with mlflow_server(tmp_path) as server:
        words = ["train", "config-f", str(pictures), *small_model(), "--run.name", "run"]
        words += ["--train.total_kimg", "1.28", "--report.mlflow", server.address, "--report.artifacts"]
        for attempt in range(2):
            job = Job(*words, storage=tmp_path, log=tmp_path / f"{attempt}.log")
            job.wait_for(lambda attempt=attempt: num_sent(run) >= 2 + 3 * attempt, 500)
            job.kill()
        last = Job(*words, storage=tmp_path, log=tmp_path / "last.log")
        assert last.wait(600) == 0, last.text()
        assert f"MLflow: {server.address}/#/experiments/" in last.text() and "View run" not in last.text()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=server.address)
        (found,) = client.search_runs([client.get_experiment_by_name("stylegan_ray").experiment_id])
        rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
        for key in ("Loss/D/loss", "Progress/kimg"):
            sent = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, key)]
            assert sent == [(round(1000 * row["Progress/kimg"]), pytest.approx(row[key], rel=1e-6)) for row in rows]
        assert found.info.status == "FINISHED"
        grids = sorted(path.name for path in run.glob("fakes*.png"))
        images = [
            file.path for file in client.list_artifacts(found.info.run_id, "images") if file.path.endswith(".png")
        ]
        assert len(images) == len(grids)
        assert client.list_artifacts(found.info.run_id, "network")


def num_sent(run):
    """Ticks of 0.064 kimg that the run remembers to have sent."""
    try:
        return memory_of(run, "mlflow")["sent"].get("ticks", 0) // 64
    except FileNotFoundError:
        return 0
