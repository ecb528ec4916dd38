import json
import os
import sys
import time

import pytest
from support.jobs import small_model, write_pictures

from benchmarks.cluster.overhead import Process, bars_of, data_wait_share, images_per_sec
from stylegan_ray import cli
from stylegan_ray.config import ConfigError


def row(kimg: float, total_sec: float, sec: float, wait: float) -> dict:
    return {
        "Progress/kimg": kimg,
        "Timing/total_sec": total_sec,
        "Timing/sec_per_tick": sec,
        "Timing/share/data": wait,
    }


def test_rates_are_measured_between_ends_of_ticks_after_the_first_two():
    rows = [row(0.1, 9.0, 9.0, 0.9), row(1.1, 29.0, 20.0, 0.5), row(2.1, 39.0, 10.0, 0.1), row(4.1, 69.0, 30.0, 0.02)]
    assert images_per_sec(rows) == pytest.approx(3000 / 40)
    assert data_wait_share(rows) == pytest.approx((1.0 + 0.6) / 40)
    assert images_per_sec(rows[:2]) == pytest.approx(1000 / 20)
    with pytest.raises(ConfigError, match="kimg"):
        images_per_sec(rows[:1])


def test_bars():
    figures = {"img_s_job": 89.0, "img_s_bare": 100.0, "data_wait_share": 0.03, "data_wait_share_small_set": 0.031}
    assert [bar["holds"] for bar in bars_of({**figures, "first_step_sec": 12.0})] == [False, True, False, True]


def test_a_run_that_fails_shows_its_last_lines(tmp_path):
    run = Process([sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"], {}, tmp_path / "log.txt")
    with pytest.raises(RuntimeError, match=r"(?s)status 3.*the reason"):
        run.sec_until(lambda: False)


def test_nothing_is_left_behind_when_a_wait_is_broken_off(tmp_path):
    run = Process([sys.executable, "-c", "import time; time.sleep(600)"], {}, tmp_path / "log.txt")

    def broken_off() -> bool:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.sec_until(broken_off)
    assert run.process.poll() is not None and time.monotonic() - begun < 60
    with pytest.raises(ProcessLookupError):
        os.kill(run.process.pid, 0)


@pytest.mark.cluster
def test_job_against_loop(tmp_path):
    words = ["overhead", "--json", str(tmp_path / "overhead.json"), "--repeats", "1", "--first-steps", "1"]
    words += ["--kimg", "0.256", "--threads", "1", "--subset", "10", "--data.resolution", "8"]
    words += ["--data.path", str(write_pictures(tmp_path / "in"))]
    assert cli.run(cli.benchmark, [*words, *small_model()]) == 0
    figures = json.loads((tmp_path / "overhead.json").read_text())["figures"]
    for name in ("img_s_bare", "img_s_job", "img_s_bare_default_threads", "first_step_sec"):
        assert figures[name] > 0
    assert figures["threads"] == 1 and 0 <= figures["data_wait_share"] < 1
    assert figures["img_s_job"] == figures["img_s_job_by_repeat"][0]
    assert len(figures["ticks"]["bare"][0]) == len(figures["ticks"]["job"][0]) >= 3
