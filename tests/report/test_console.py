"""What the driver prints: tick lines, the bar, the closing message."""

import io

import pytest
import safetensors.torch
import torch
from support.reports import row

from stylegan_ray.config import load_config
from stylegan_ray.report.console import ConsoleView, closing_message, format_time, tick_line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (192, "3m 12s"), (7207, "2h 00m 07s"), (102600, "1d 04h 30m")],
)
def test_format_time(seconds, words):
    assert format_time(seconds) == words


def test_tick_line():
    line = " ".join(tick_line(row(12, **{"Progress/kimg": 48.0})).split())
    assert line == (
        "tick 12 kimg 48.0 lod 0.00 minibatch 32 time 3m 12s sec/tick 13.1 sec/kimg 3.28 maintenance 0.4 gpumem 0.0 "
        "data 1% G 2% Greg 3% D 4% Dreg 5% reduce 6% checkpoint 7% loss G 0.812 D 1.234"
    )
    assert tick_line(row(12, nonfinite=3)).endswith("nonfinite 3")
    assert "augment 0.250" in tick_line(row(12, **{"Progress/augment_p": 0.25}))


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def screen(self):
        """The lines as a terminal would show them, without colors."""
        text = self.getvalue()
        for code in ("\x1b[32m", "\x1b[0m", "\x1b[0;2m"):
            text = text.replace(code, "")
        return [line.split("\x1b[2K")[-1].rstrip("\r") for line in text.split("\n")]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def test_a_job_log_shows_tick_lines():
    stream = io.StringIO()
    view = ConsoleView(60, stream)
    view.message("hello")
    view.tick(row(0))
    view.close()
    assert stream.getvalue() == f"hello\n{tick_line(row(0))}\n"


def test_a_terminal_shows_one_bar_below_the_messages(terminal):
    view = ConsoleView(60, terminal)
    view.tick(row(0))
    view.tick(row(7))
    view.message("hello")
    view.tick(row(8, **{"Progress/kimg": 30.0}))
    view.close()
    lines = terminal.screen()
    assert lines[0] == "hello" and len(lines) == 3 and lines[2] == ""
    assert lines[1].startswith(" 50%  ━━━") and "30.0 / 60 kimg  3m 12s  1m 38s left  3.28 sec/kimg" in lines[1]
    assert 0 <= lines[1].count("━") - lines[1].count("─") <= 1, "half of the bar is full"
    assert len(lines[1]) <= 99


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_bar_fits_any_terminal(terminal, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    view = ConsoleView(25000, terminal)
    view.tick(row(3000))
    assert 0 < len(terminal.screen()[-1]) < width
    assert "12000.1" in terminal.screen()[-1]


def test_closing_message(tmp_path):
    for name in ("fakes000012.png", "fakes000060.png", "fakes_init.png", "reals.png", "best-fid50k.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "network-snapshot-000060.safetensors").touch()
    cfg = load_config("tiny", {"train.total_kimg": 60})
    done = closing_message(str(tmp_path), cfg, "done", "python jobs/train.py tiny --train.total-kimg=60 --data.cond")
    assert f"{tmp_path}/fakes000060.png" in done and "network-snapshot-000060" in done
    assert f"stylegan-ray generate {tmp_path} --seeds" in done
    assert "python jobs/train.py tiny --data.cond --train.total_kimg 120" in done
    stopped = closing_message(str(tmp_path), cfg, "stopped", "python jobs/train.py tiny")
    unchanged = closing_message(str(tmp_path), cfg, "unchanged", "python jobs/train.py tiny")
    assert "saved" in stopped and "saved" not in unchanged and "python jobs/train.py tiny" in unchanged
    with_metrics = cfg.with_overrides({"metrics.names": ("fid5k_tiny",)})
    assert f"evaluate plot {tmp_path}" in closing_message(str(tmp_path), with_metrics, "done") and "plot" not in stopped
    assert stopped.splitlines()[-1].split() == ["Continue", "python", "jobs/train.py", "tiny"]


def test_a_run_that_train_stop_when_ended_continues_without_it(tmp_path):
    (tmp_path / "checkpoints" / "ckpt-000000048000").mkdir(parents=True)
    (tmp_path / "checkpoints" / "ckpt-000000048000" / "COMPLETE").touch()
    cfg = load_config("tiny", {"train.total_kimg": 60, "train.stop_when": "fid5k_tiny:5"})
    text = closing_message(str(tmp_path), cfg, "done", "stylegan-ray train tiny --train.stop-when fid5k_tiny:5 --x")
    assert text.splitlines()[-1].split() == "Continue stylegan-ray train tiny --x --train.stop_when null".split()


def test_the_closing_message_names_the_newest_network(tmp_path):
    """A former end of a continued run is not the newest."""
    final = safetensors.torch.save({"w": torch.zeros(1)}, {"cur_nimg": "60000"})
    (tmp_path / "network-final.safetensors").write_bytes(final)
    (tmp_path / "network-snapshot-000090.safetensors").touch()
    checkpoint = tmp_path / "checkpoints" / "ckpt-000000099000"
    checkpoint.mkdir(parents=True)
    cfg = load_config("tiny", {"train.total_kimg": 120})
    assert "network-snapshot-000090" in closing_message(str(tmp_path), cfg, "stopped")
    (checkpoint / "COMPLETE").touch()
    assert str(checkpoint) in closing_message(str(tmp_path), cfg, "stopped")
