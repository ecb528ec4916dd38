"""What the benchmark of sweeps reads from a finished sweep."""

import json
import os

from benchmarks.cluster.sweep import figures_of, images_per_sec_side_by_side


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


def test_runs_side_by_side_are_measured_while_both_train():
    """One makes a kimg in 10 s while it has a neighbor, from 20 to 80 s, and in 1 s when it is alone."""
    fast = [{"kimg": kimg, "time": 10.0 * kimg} for kimg in range(9)]
    slow = [{"kimg": kimg, "time": 20.0 * kimg} for kimg in range(5)]
    alone = [{"kimg": 8 + second, "time": 80.0 + second} for second in range(1, 20)]
    assert images_per_sec_side_by_side([fast + alone, slow]) == [100, 50]
