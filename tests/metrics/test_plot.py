"""Curves of metrics."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from stylegan_ray.jsonl import read_jsonl
from stylegan_ray.metrics.plot import disagreements, draw, page, write_plots
from stylegan_ray.metrics.rows import MUST_AGREE, mean_rows
from stylegan_ray.storage import Storage


def rows_of(values, metric="fid5k_tiny", seconds=60.0, **changes):
    same = dict.fromkeys(MUST_AGREE, "same") | {"metric": metric, "spread": None} | changes
    return [same | {"value": v, "kimg": 2.0 * i, "total_sec": seconds * i} for i, v in enumerate(values)]


def curves(panel):
    """The values of every run with more than one, by the name of the run."""
    return {line.get_label(): list(line.get_ydata()) for line in panel.lines if not line.get_label().startswith("_")}


def texts(panel):
    return [text.get_text() for text in panel.texts]


def test_a_metric_is_drawn_over_kimg_and_over_time():
    figure = draw({"one": rows_of([9, 7, 5]), "two": rows_of([8, 6])})
    over_kimg, over_time = figure.axes
    for panel in figure.axes:
        assert panel.get_title(loc="left") == "fid5k_tiny" or panel.get_title() == "fid5k_tiny"
        assert curves(panel) == {"one": [9, 7, 5], "two": [8, 6]}
        assert texts(panel) == ["5", "6"], "the last values"
    assert over_kimg.get_xlabel() == "kimg" and "minutes" in over_time.get_xlabel()
    assert list(over_kimg.lines[0].get_xdata()) == [0, 2, 4] and list(over_time.lines[0].get_xdata()) == [0, 1, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_runs_of_a_group_are_one_curve_with_a_band():
    mean = mean_rows([rows_of([9, 7, 5], seconds=60), rows_of([7, 3], seconds=30)])
    assert [(row["value"], row["lowest"], row["highest"]) for row in mean] == [(8, 7, 9), (5, 3, 7)]
    assert [row["total_sec"] for row in mean] == [0, 45], "as far as all runs are"
    panel = draw({"both": mean, "one": mean_rows([rows_of([8, 6])])}).axes[0]
    assert curves(panel) == {"both": [8, 5], "one": [8, 6]} and len(panel.collections) == 1


def test_no_two_runs_look_the_same():
    figure = draw({f"run {number}": rows_of([9, 7 - number / 10]) for number in range(20)})
    drawn = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    for lines in (drawn, figure.legends[0].get_lines()):
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_each_metric_has_its_panels():
    figure = draw({"one": [*rows_of([9, 7]), *rows_of([0.1, 0.3], metric="pr5k3_tiny_recall")]})
    assert len(figure.axes) == 4
    assert "lower" in figure.axes[0].get_ylabel() and "higher" in figure.axes[2].get_ylabel()


@pytest.mark.parametrize(("seconds", "unit"), [(1, "seconds"), (100, "minutes"), (7200, "hours"), (90000, "days")])
def test_time_has_a_fitting_unit(seconds, unit):
    assert unit in draw({"one": rows_of([9, 7, 5], seconds=seconds)}).axes[1].get_xlabel()


def test_rows_without_time_have_no_panel_for_it():
    rows = [{key: value for key, value in row.items() if key != "total_sec"} for row in rows_of([9, 7])]
    assert [panel.get_xlabel() for panel in draw({"one": rows}).axes] == ["kimg"]


def test_wide_ranges_are_drawn_on_a_log_scale():
    scales = [draw({"one": rows_of(values)}).axes[0].get_yscale() for values in ([200, 20, 5], [200, 100], [5, 0])]
    assert scales == ["log", "linear", "linear"]


def test_repeats_are_drawn_as_their_mean_with_its_spread():
    single, summary = rows_of([9.0, 7.0]), rows_of([8.0, 6.25], spread=0.5, repeats=3)
    panel = draw({"one": [*single, *summary]}).axes[0]
    assert curves(panel) == {"one": [8.0, 6.25]}
    (bars,) = panel.containers
    ends = [segment[:, 1].tolist() for segment in bars.lines[2][0].get_segments()]
    assert ends == [[7.5, 8.5], [5.75, 6.75]]


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [-3.0, -3.0, -3.0]])
def test_constant_and_single_values_can_be_drawn(values, tmp_path):
    png, _ = write_plots({"one": rows_of(values)}, Storage.at(tmp_path))
    assert np.asarray(Image.open(png).convert("L")).min() < 128


def test_the_first_24_metrics_are_drawn(tmp_path, caplog):
    rows = [{"metric": f"m{i}", "kimg": kimg, "value": 1.0} for i in range(300) for kimg in (1, 2)]
    assert len(draw({"run": rows}).axes) == 24
    write_plots({"run": rows[:50]}, Storage.at(tmp_path))
    assert "metrics.png shows 24 of 25 metrics" in caplog.text


def test_nothing_to_plot_is_an_error():
    with pytest.raises(ValueError, match=r"nothing to plot.*one"):
        draw({"one": [{"metric": "fid50k", "value": None, "kimg": 1, "unavailable": "fetch it"}]})


def test_the_page_warns_of_rows_that_do_not_compare():
    runs = {"one": rows_of([9, 7]), "two": rows_of([8, 6], data="other")}
    (note,) = disagreements(runs)
    assert "fid5k_tiny: data" in note and '"other", "same"' in note
    assert "fid5k_tiny: data" in page(runs, "")
    assert not disagreements({"one": rows_of([9, 7]), "two": rows_of([8, 6])})


def test_the_page_shows_first_best_and_last_values():
    text = page({"a<b": rows_of([9, 4, 5]), "r": rows_of([1, 3, 2], metric="is5k_tiny")}, "<svg/>")
    assert "<td>fid5k_tiny</td><td>a&lt;b</td><td>9</td><td>4</td><td>2.0</td><td>5</td>" in text
    assert "<td>is5k_tiny</td><td>r</td><td>1</td><td>3</td>" in text
    unavailable = {"one": [*rows_of([9]), {"metric": "fid50k", "value": None, "unavailable": "fetch it"}]}
    assert "<li>fid50k: fetch it</li>" in page(unavailable, "")


def test_files_are_self_contained(tmp_path):
    run = Storage.at(tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in rows_of([9, 7, 5]))
    run.write("metrics.jsonl", (lines + '{"metric": "fid').encode())
    rows = read_jsonl(run, "metrics.jsonl")
    assert len(rows) == 3
    png, html = write_plots({"a<b": rows}, run)
    assert (png, html) == (str(tmp_path / "metrics.png"), str(tmp_path / "metrics.html"))
    width, height = Image.open(png).size
    assert width > 1000 and height > 400
    text = (tmp_path / "metrics.html").read_text()
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + len("</svg>")])
    words = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"fid5k_tiny", "kimg", "a<b"} <= set(words)
    assert "src=" not in text and "<link" not in text


def test_rows_of_evaluate_with_another_psi_are_not_points_of_the_curve():
    rows = [*rows_of([9, 7, 5], psi=1), *rows_of([1], psi=0.7)]
    assert curves(draw({"one": rows}).axes[0]) == {"one": [9, 7, 5]}
    assert disagreements({"one": rows}) == [
        "fid5k_tiny of one: rows with another psi than the first one's are not drawn"
    ]
    assert [row["value"] for row in mean_rows([rows, rows_of([7, 5, 3], psi=1)])] == [8, 6, 4]


def test_a_mean_of_runs_on_different_data_says_so():
    mean = mean_rows([rows_of([9], data="a"), rows_of([7], data="b")])
    assert disagreements({"both": mean}) == ['fid5k_tiny: data differs between rows ("a", "b"); do not compare them']
