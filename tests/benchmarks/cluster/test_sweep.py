"""What the benchmark of sweeps reads out of a finished sweep."""

import json
import os

from benchmarks.cluster.sweep import figures_of


def test_figures_count_the_time_in_which_all_trials_train(tmp_path):
    """Trial 0 makes a tick of 1 kimg in 10 s, trial 1 begins 5 s later and makes one in 20 s; trial 2 comes third."""
    ticks = [(0, i + 1, 10.0 * (i + 1)) for i in range(8)] + [(1, i + 1, 5 + 20.0 * (i + 1)) for i in range(8)]
    events = [{"event": "result", "trial": trial, "kimg": kimg, "time": time} for trial, kimg, time in ticks]
    events += [{"event": "end", "trial": 0, "time": 81.0}, {"event": "end", "trial": 1, "time": 166.0}]
    events.append({"event": "result", "trial": 2, "kimg": 1, "time": 100.0})
    (tmp_path / "journal.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    first_picture = tmp_path / "trials/trial-002/fakes_init.png"
    first_picture.parent.mkdir(parents=True)
    first_picture.touch()
    os.utime(first_picture, (93.0, 93.0))
    figures = figures_of(tmp_path, 2)
    assert (figures.img_s, figures.start_sec, figures.first_tick_sec) == (1000 / 10 + 1000 / 20, 12.0, 19.0)
