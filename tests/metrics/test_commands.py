"""The evaluate command and its sub-commands, in this process."""

import json
import os

import pytest
from support.data_sets import write_folder
from support.measured import Pictures
from support.toy import toy_config

from stylegan_ray import cli
from stylegan_ray.interop import save_network
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint
from stylegan_ray.train.state import TrainState

PICTURE_SIZE = 8


@pytest.fixture
def run(tmp_path):
    """A run folder with two networks, and images beside it; returns the folder."""
    from PIL import Image

    source, folder = Pictures(), tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    files = {f"{i}.png": Image.fromarray(source.read(i).transpose(1, 2, 0)) for i in range(12)}
    data = write_folder(tmp_path / "pictures", files)
    cfg = toy_config(**{"data.path": str(data), "run.name": "run"})

    state = TrainState.create(cfg, PICTURE_SIZE, 3, 0)
    (folder / "config.yaml").write_text(cfg.to_yaml())
    for kimg, name in ((2, "network-snapshot-000002"), (4, "network-final")):
        state.G_ema.synthesis.get_parameter("b8.torgb.bias").data.add_(0.1)
        (folder / f"{name}.safetensors").write_bytes(save_network(state.G, state.D, state.G_ema, cfg, kimg * 1000))
    return folder


def evaluated(capsys, *words):
    """Exit status of the evaluate command, and what it printed."""
    status = cli.run(cli.evaluate, [str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out + err


def test_a_job_refuses_relative_outputs(run, capsys, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "--out='curves' is relative" in evaluated(capsys, "plot", run, "--out", "curves")[1]
    assert "CHECKPOINT='runs/run' is relative" in evaluated(capsys, "runs/run")[1]


def rows_in(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_of_a_run_and_of_its_networks_are_in_one_file(run, capsys):
    first = run / "network-snapshot-000002.safetensors"
    names = ["--metrics", "fid100_tiny", "is64_tiny", "--num-tasks", "0"]
    for what, blocks in ((first, "fake 3 / 3"), (run, "fake 2 / 2")):  # features of reals are computed once
        status, text = evaluated(capsys, what, *names)
        assert status == 0 and "100 generated, 12 real, tiny-openmoji" in text and blocks in text
    rows = rows_in(run / "evaluations.jsonl")
    assert [(row["metric"], row["kimg"]) for row in rows] == [
        ("fid100_tiny", 2), ("is64_tiny", 2), ("fid100_tiny", 4), ("is64_tiny", 4),
    ]  # fmt: skip
    assert rows[0]["checkpoint"] == str(first) and rows[2]["checkpoint"].endswith("network-final.safetensors")
    status, text = evaluated(capsys, "compare", first, run)
    assert status == 0 and f"{rows[2]['value'] - rows[0]['value']:+.4g}" in text
    status, text = evaluated(capsys, "plot", run)
    assert status == 0 and (run / "metrics.png").exists() and (run / "metrics.html").exists()


def test_runs_are_plotted_by_a_key_of_their_configuration(run, capsys, tmp_path):
    for number, (mode, seed) in enumerate((("ada", 0), ("ada", 1), ("noaug", 0))):
        other = tmp_path / f"run-{number}"
        other.mkdir()
        cfg = toy_config(**{"augment.mode": mode, "run.seed": seed})
        (other / "config.yaml").write_text(cfg.to_yaml())
        rows = [{"metric": "fid5k_tiny", "value": 9.0 + number, "kimg": kimg} for kimg in (0, 2)]
        (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["plot", *(tmp_path / f"run-{number}" for number in range(3)), "--by", "augment.mode", "--out", tmp_path]
    status, text = evaluated(capsys, *words)
    assert status == 0 and str(tmp_path / "metrics.png") in text
    page = (tmp_path / "metrics.html").read_text()
    assert "<td>ada (2 runs)</td><td>9.5</td>" in page and "<td>noaug (1 run)</td><td>11</td>" in page


def test_unlike_rows_are_refused_with_the_reason(run, capsys, tmp_path):
    other = tmp_path / "other.jsonl"
    assert evaluated(capsys, run, "--metrics", "fid100_tiny", "--num-tasks", "0")[0] == 0
    words = ["--metrics", "fid100_tiny", "--num-tasks", "0", "--trunc", "0.5", "--out", other]
    assert evaluated(capsys, run, *words)[0] == 0
    status, text = evaluated(capsys, "compare", run, other)
    assert status == 2 and "fid100_tiny: psi is 1.0 in A and 0.5 in B" in text


def test_repeats_are_printed_as_mean_and_spread(run, capsys):
    status, text = evaluated(capsys, run, "--metrics", "fid64_tiny", "--num-tasks", "0", "--repeat", "3")
    rows = rows_in(run / "evaluations.jsonl")
    assert status == 0 and len(rows) == 4 and f"{rows[3]['value']:.6g} +- {rows[3]['spread']:.2g}" in text
    assert text.count("fid64_tiny ") == 1 and "3 x 64 generated" in text


def test_without_weights_the_other_metrics_are_computed_and_the_status_is_1(run, capsys):
    status, text = evaluated(capsys, run, "--metrics", "fid50k", "fid64_tiny", "--num-tasks", "0")
    assert status == 1 and "fid50k                   unavailable" in text and "prefetch inception" in text
    assert [row["value"] is None for row in rows_in(run / "evaluations.jsonl")] == [False, True]
    status, text = evaluated(capsys, run, "--metrics", "fid50k", "--num-tasks", "0")
    assert status == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "--metrics", "fid64_tiny"], "no run 'nowhere'"),
        (["RUN/.."], "it is a folder of runs; give one of them: run"),
        (
            ["RUN/other"],
            "RUN/other exists and is no run; that of a run holds config.yaml, stats.jsonl and",
        ),
        (["RUN/checkpoints"], "it is the folder of checkpoints of a run; give the run, RUN, or one of"),
        (["RUN", "--metrics", "fid64_tiny", "--out", "RUN/pipe"], "--out RUN/pipe cannot be written"),
        (["RUN"], "--metrics"),
        (["RUN", "--metrics", "fid5k_tyni"], "did you mean 'fid5k_tiny'"),
        (["RUN", "MISSING", "--metrics", "fid64_tiny", "--num-tasks", "0"], "missing"),
        (["compare", "RUN", "RUN"], "no metric in common"),
        (["compare", "RUN", "RUN/network-final.safetensors"], "there are no rows of metrics in"),
        (["plot"], "at least one RUN"),
        (["plot", "RUN"], "nothing to plot"),
        (["plot", "RUN", "--by", "augment.mod"], "--by augment.mod: no such key; did you mean 'augment.mode'?"),
        (["prefetch", "inceptoin"], "did you mean 'inception'"),
        (["prefetch", "inception", "--detector", "foo://x/y"], "cannot be opened"),
        (["RUN", "--metrics", f"fid{'9' * 400}k"], "unknown metric"),
        (["RUN", "--metrics", f"pr1k_{'9' * 5000}"], "unknown metric"),
    ],
)
def test_wrong_usage_has_status_2(run, capsys, words, expected):
    for name in ("other", "checkpoints"):
        (run / name).mkdir()
    os.mkfifo(run / "pipe")
    words = [word.replace("RUN", str(run)).replace("MISSING", str(run / "missing")) for word in words]
    status, text = evaluated(capsys, *words)
    assert status == 2 and expected.replace("RUN/", f"{run}/").replace("RUN,", f"{run},") in text


def test_rows_of_a_checkpoint_are_compared_with_those_of_its_run(run, capsys):
    cfg = toy_config()
    state = TrainState.create(cfg, PICTURE_SIZE, 3, 0)
    checkpoint = run / "checkpoints" / write_checkpoint(Snapshot.of(state, cfg), Storage.at(run / "checkpoints"))
    row = {"metric": "fid5k_tiny", "kimg": 0}
    (run / "evaluations.jsonl").write_text(json.dumps({**row, "value": 1.5, "checkpoint": str(checkpoint)}))
    (run / "other.jsonl").write_text(json.dumps({**row, "value": 2.5}))
    status, text = evaluated(capsys, "compare", checkpoint, run / "other.jsonl")
    assert status == 0 and "1.5" in text and "2.5" in text


OK = {"metric": "fid5k_tiny", "value": 1.5, "kimg": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"value": 1}, {"unavailable": "x"}, {**OK, "metric": ["a"]}, {**OK, "value": "x"}, {**OK, "value": [1]},
        {**OK, "kimg": "x"}, {**OK, "kimg": {}}, {**OK, "total_sec": "x"}, {**OK, "spread": "x", "repeats": 2},
        {**OK, "value": float("nan")}, {**OK, "class": [1]}, {**OK, "detector": 3},
    ],
)  # fmt: skip
def test_damaged_rows_are_left_out_and_counted(run, capsys, caplog, row):
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, [row, OK])))
    status, text = evaluated(capsys, "compare", run, run)
    assert status == 0 and "1.5" in text and "1 of 2 rows are damaged" in caplog.text
    assert evaluated(capsys, "plot", run)[0] == 0


def test_lines_without_rows(run, capsys, caplog):
    line = json.dumps(OK).encode() + b"\n"
    (run / "metrics.jsonl").write_bytes(line + b"\n" * 2_000_000 + b"{not\n" + line)
    status, text = evaluated(capsys, "plot", run)
    assert status == 0 and "lines that are no JSON objects are left out: 1" in caplog.text
    (run / "metrics.jsonl").write_bytes(b"[\n" * 1001)
    status, text = evaluated(capsys, "plot", run)
    assert status == 2 and "metrics.jsonl has more than 1000 damaged lines" in text


def test_names_of_metrics_are_text(run, capsys):
    rows = [{**OK, "metric": name} for name in ("\x1b[2J\nerror: forged", "$\\frac{$", "\ud800")]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for words in (("compare", run, run), ("plot", run)):
        status, text = evaluated(capsys, *words)
        assert status == 0 and all(line.isprintable() for line in text.splitlines()), text
    (run / "evaluations.jsonl").write_text(json.dumps(OK))
    (run / "metrics.jsonl").write_text(json.dumps({**OK, "metric": "\x1b[2J"}))
    status, text = evaluated(capsys, "plot", run, "--out", "/dev/null/x")
    assert status == 2 and "--out /dev/null/x cannot be written" in text


def test_what_cannot_be_fetched_has_status_1(run, capsys, monkeypatch, tmp_path):
    from stylegan_ray.metrics import detectors
    from stylegan_ray.metrics.detectors import Recipe, WeightFile

    file = WeightFile("toy.pth", (tmp_path / "toy.pth").as_uri())
    monkeypatch.setitem(detectors.RECIPES, "vgg16", Recipe("vgg16", (file,), "none", lambda files: None))
    status, text = evaluated(capsys, "prefetch", "vgg16", "--metrics.detector", tmp_path / "shared")
    assert status == 1 and "cannot be fetched" in text
    (tmp_path / "toy.pth").write_bytes(b"weights")
    status, text = evaluated(capsys, "prefetch", "vgg16", "--metrics.detector", tmp_path / "shared")
    assert status == 0 and (tmp_path / "shared" / "toy.pth").read_bytes() == b"weights"
