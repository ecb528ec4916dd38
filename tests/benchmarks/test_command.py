"""The benchmark command: what people type, and what it writes."""

import json
import os
import signal
import time

import pytest
from support.jobs import small_model

from benchmarks import step
from benchmarks.command import read_options, terminated_as_interrupted
from stylegan_ray import cli


def test_own_options_and_keys_of_the_configuration_mix():
    words = "--data.resolution 64 32 --repeats 7 --train.no-deterministic --preset config-e --loss.r1_gamma 3".split()
    options, cfg = read_options(step.Options, words, "step")
    assert options.repeats == 7 and cfg.run.preset == "config-e" and cfg.model.fmap_base == 8192
    assert cfg.data.resolution == (64, 32) and not cfg.train.deterministic and cfg.loss.r1_gamma == 3


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["step", "--schedule.minibatch_gpus", "4"], "schedule.minibatch_gpu"),
        (["step", "--preset", "tini"], "tiny"),
        (["step", "--dry-run"], "--dry-run"),
        (["stepp"], "did you mean 'step'"),
        (["step", "--device", "cuda:99x"], "--device"),
    ],
)
def test_mistakes_are_explained(words, hint, capsys):
    if "--device" in words and step.torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert cli.run(cli.benchmark, words) == 2
    assert hint in capsys.readouterr().err


def test_a_pipe_is_refused_before_anything_is_measured(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert cli.run(cli.benchmark, ["step", "--json", str(tmp_path / "pipe")]) == 2
    assert f"--json {tmp_path}/pipe cannot be written" in capsys.readouterr().err and (tmp_path / "pipe").is_fifo()


def test_writes_a_result_that_says_where_it_was_taken(tmp_path, capsys):
    path = tmp_path / "new" / "step.json"
    words = ["step", "--json", str(path), "--repeats", "1", "--no-memory", "--device", "cpu", "--data.resolution", "8"]
    words += ["--variants", "plain", "fast", "--threads", "1", *small_model()]
    assert cli.run(cli.benchmark, words) == 0
    result = json.loads(path.read_text())
    assert list(result) == ["name", "machine", "versions", "commit", "command", "figures", "bars"]
    assert result["name"] == "step" and "--no-memory" in result["command"]
    assert "fast_over_plain" in capsys.readouterr().out


def test_a_terminated_benchmark_cleans_up():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_a_name_it_lists_the_benchmarks(capsys):
    assert cli.run(cli.benchmark, []) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in cli.BENCHMARKS)


def test_step_and_checkpoint_need_no_ray():
    assert all("cluster" not in cli.BENCHMARKS[name] for name in ("step", "checkpoint"))
