"""The report of a sweep: what it shows, and what it says about each parameter."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan_ray.cluster.tune.report import (
    DPI,
    SEED,
    WIDTH,
    Axis,
    Curve,
    Report,
    draw,
    importances,
    settings_of,
    summary,
    write_report,
)
from stylegan_ray.images.grid import png
from stylegan_ray.storage import Storage

AXES = (
    Axis("loss.r1_gamma", lambda value: math.log(value / 0.1) / math.log(1000), "0.1", "100", True),
    Axis("loss.pl_weight", lambda value: value / 4, "0", "4", True),
    Axis("loss.G", lambda value: ["a", "b", "c"].index(value) / 2, "a", "c", False),
)


def report(num: int = 24, **keys) -> Report:
    """Trials whose objective is best in the middle of gamma's range and depends on nothing else."""
    rng = np.random.default_rng(1)
    trials = []
    for number in range(num):
        gamma = float(0.1 * 1000 ** rng.random())
        values = {"loss.r1_gamma": gamma, "loss.pl_weight": 4 * float(rng.random()), "loss.G": "abc"[number % 3]}
        last = 6 if number % 2 else 2
        rows = [(kimg, 20 + 100 / kimg + 30 * abs(math.log(gamma / 3))) for kimg in range(1, last + 1)]
        trials.append(Curve(f"trial {number}", "finished" if last == 6 else "stopped", rows, values))
    order = sorted(range(num), key=lambda i: (trials[i].state, trials[i].rows[-1][1]))
    grids = [
        (name, png(torch.full((3, 16, 32), shade, dtype=torch.uint8))) for name, shade in (("best", 200), ("worst", 50))
    ]
    made = Report("fid500_tiny", "a test", False, AXES, tuple(trials), tuple(order), tuple(grids))
    return replace(made, **keys)


def test_importance_finds_the_parameter_that_counts_though_its_best_value_is_in_the_middle():
    found = importances(report())
    assert found[0][0] == "loss.r1_gamma" and found[0][1] > 0.8
    assert all(share < 0.25 for _, share in found[1:])


def test_importance_handles_members_without_order():
    base = report(30)
    trials = [
        replace(t, rows=[(1.0, {"a": 5, "b": 9, "c": 1}[t.values["loss.G"]] + i / 100)])
        for i, t in enumerate(base.trials)
    ]
    assert importances(replace(base, trials=trials))[0][0] == "loss.G"


def seeds_report() -> Report:
    """Two settings with three and two seeds, one trial of which is at 3 of 4 kimg, and a setting with one trial."""
    axes = (Axis("augment.mode", ["ada", "noaug"].index, "ada", "noaug", False),)
    axes += (Axis("data.subset", [200, None].index, "200", "None", False), Axis(SEED, float, "0", "2", True))
    trials = []
    for mode, subset, offsets in (("noaug", 200, (1, 2, 6)), ("ada", None, (0, 1)), ("noaug", None, (9,))):
        for seed, offset in enumerate(offsets):
            rows = [
                (float(kimg), 10.0 * offset + 40 / kimg) for kimg in range(1, 4 if (mode, seed) == ("ada", 1) else 5)
            ]
            values = {"augment.mode": mode, "data.subset": subset, SEED: seed}
            trials.append(Curve(f"trial {len(trials)}", "finished", rows, values))
    order = sorted(range(len(trials)), key=lambda i: trials[i].rows[-1][1])
    return Report("fid500_tiny", "a test", False, axes, tuple(trials), tuple(order))


def test_trials_that_differ_in_their_seed_are_one_setting():
    best, middle, worst = settings_of(seeds_report())
    assert [setting.label for setting in (best, middle, worst)] == ["ada, null", "noaug, 200", "noaug, null"]
    assert best.kimg == [1, 2, 3] and middle.kimg == [1, 2, 3, 4], "as far as all its trials are"
    assert middle.last.tolist() == [20, 30, 70] and best.last.tolist() == pytest.approx([40 / 3, 70 / 3])
    assert settings_of(report()) == [] and settings_of(replace(seeds_report(), order=(0, 3))) == []


def test_curves_of_settings_have_bands_and_say_their_range():
    (curves, *_) = draw(seeds_report()).axes
    assert len(curves.lines) == 3 and len(curves.collections) == 2
    texts = [text.get_text() for text in curves.texts]
    assert texts == ["noaug, 200: 40 (20 to 70)", "noaug, null: 100"]


def test_importance_says_nothing_of_few_trials_and_compares_at_a_kimg_that_all_reached():
    assert importances(report(3)) == []
    late = [replace(t, rows=[*t.rows, (9.0, 1e6)]) if i == 0 else t for i, t in enumerate(report().trials)]
    assert importances(report(trials=late)) == importances(report())


def test_the_figure_shows_every_trial_and_parameter():
    figure = draw(report())
    curves, bars, coordinates, *grids = figure.axes
    lines = [line for line in curves.lines if line.get_marker() == "None"]
    assert len(lines) == 24 and sorted(len(line.get_xdata()) for line in lines) == [2] * 12 + [6] * 12
    across = [line for line in coordinates.lines if len(line.get_xdata()) == len(AXES) + 1]
    assert len(across) == 24
    assert all(0 <= y <= 1 for line in across for y in line.get_ydata())
    words = {text.get_text() for text in coordinates.texts} | {text.get_text() for text in bars.get_yticklabels()}
    assert {"r1_gamma", "pl_weight", "G", "fid500_tiny"} <= words
    assert [axes.get_title(loc="left") for axes in grids] == ["best", "worst"]
    assert "fid500_tiny: a test" in figure.get_suptitle()


def test_a_trial_that_copied_another_ones_state_is_drawn_in_pieces():
    rows = [(1, 9.0), (2, 8.0), (1, 3.0), (2, 2.0)]
    copying = Curve("trial 0", "finished", rows, report().trials[0].values, starts=(2,))
    figure = draw(report(1, trials=(copying,), order=(0,), grids=()))
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "None"]
    assert [len(line.get_xdata()) for line in lines] == [2, 2]


@pytest.mark.parametrize("num", [1, 24])
def test_files_are_written_and_readable(tmp_path, num):
    write_report(report(num), Storage.at(tmp_path), "report")
    image = Image.open(io.BytesIO((tmp_path / "report.png").read_bytes()))
    assert image.width == WIDTH * DPI
    page = (tmp_path / "report.html").read_text()
    assert page.count("<tr>") == num + 1 and "data:image/png;base64" in page and "trial 0" in page


def test_a_sweep_without_a_value_has_a_report_too():
    empty = report(2, trials=tuple(Curve(f"trial {i}", "failed", (), {}) for i in range(2)), order=(), grids=())
    draw(empty)
    assert "2 failed" in summary(empty)


def test_objectives_of_several_magnitudes_are_drawn_on_a_log_scale():
    curve = Curve("trial 0", "finished", [(1, 400.0), (2, 4.0)], report().trials[0].values)
    assert draw(report(1, trials=(curve,), order=(0,), grids=())).axes[0].get_yscale() == "log"
