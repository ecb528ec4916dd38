"""What the benchmark of sweeps reads from a finished sweep."""

import json
import os

from benchmarks.cluster.sweep import figures_of


def test_figures_count_the_time_in_which_all_trials_train(tmp_path):
    """Trial 0 makes a tick of 1 kimg in 10 s, trial 1 starts 5 s later and makes one in 20 s; trial 2 is the third."""
    reports = {
        0: [*({"kimg": i + 1, "time": 10.0 * (i + 1), "done": False} for i in range(8)), {"done": True, "time": 81.0}],
        1: [*({"kimg": i + 1, "time": 5 + 20.0 * (i + 1)} for i in range(8)), {"done": True, "time": 166.0}],
        2: [{"message": "fault: none", "time": 95.0}, {"kimg": 1, "time": 100.0}, {"done": True, "time": 110.0}],
    }
    for number, rows in reports.items():
        path = tmp_path / f"tune/trial-{number:03d}/result.json"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    first_image = tmp_path / "trials/trial-002/fakes_init.png"
    first_image.parent.mkdir(parents=True)
    first_image.touch()
    os.utime(first_image, (93.0, 93.0))
    figures = figures_of(tmp_path, 2)
    assert (figures.img_s, figures.start_sec, figures.first_tick_sec) == (1000 / 10 + 1000 / 20, 12.0, 19.0)
