"""Curves of metrics."""

import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from stylegan_ray.metrics.drawing import Box, Dot, Line, Text, to_png, to_svg
from stylegan_ray.metrics.plot import (
    COLOURS,
    disagreements,
    drawing,
    log_ticks,
    nice_ticks,
    page,
    write_plots,
)
from stylegan_ray.metrics.rows import MUST_AGREE
from stylegan_ray.run_folder import read_jsonl
from stylegan_ray.storage import Storage


def rows_of(values, metric="fid5k_tiny", seconds=60.0, **changes):
    same = dict.fromkeys(MUST_AGREE, "same") | {"metric": metric, "spread": None} | changes
    return [same | {"value": v, "kimg": 2.0 * i, "total_sec": seconds * i} for i, v in enumerate(values)]


def texts(shapes):
    return [shape.words for shape in shapes if isinstance(shape, Text)]


def curves(shapes):
    return [shape for shape in shapes if isinstance(shape, Line) and shape.width == 2.0]


def test_a_metric_is_drawn_over_kimg_and_over_time():
    shapes, width, height = drawing({"one": rows_of([9, 7, 5]), "two": rows_of([8, 6])})
    assert [len(curve.points) for curve in curves(shapes)] == [3, 2, 3, 2]
    assert {"thousands of images", "minutes", "one", "two", "fid5k_tiny"} <= set(texts(shapes))
    for shape in curves(shapes):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in shape.points)
        heights = [y for _, y in shape.points]
        assert heights == sorted(heights)  # falling values go down the page


@pytest.mark.parametrize(("seconds", "unit"), [(1, "seconds"), (100, "minutes"), (7200, "hours"), (90000, "days")])
def test_time_has_a_fitting_unit(seconds, unit):
    assert unit in texts(drawing({"one": rows_of([9, 7, 5], seconds=seconds)})[0])


def test_rows_without_time_get_no_panel_for_it():
    rows = [{key: value for key, value in row.items() if key != "total_sec"} for row in rows_of([9, 7])]
    shapes, width, _ = drawing({"one": rows})
    assert len(curves(shapes)) == 1 and width == drawing({"one": rows_of([9, 7])})[1] / 2


def test_wide_ranges_are_drawn_on_a_log_scale():
    assert "fid5k_tiny (log scale)" in texts(drawing({"one": rows_of([200, 20, 5])})[0])
    shapes, _, _ = drawing({"one": rows_of([100.0, 10.0, 1.0])})
    (_, a), (_, b), (_, c) = curves(shapes)[0].points
    assert b - a == pytest.approx(c - b)


def test_repeats_are_drawn_as_their_mean_with_its_spread():
    single, summary = rows_of([9.0, 7.0]), rows_of([8.0, 6.25], spread=0.5, repeats=3)
    shapes, _, _ = drawing({"one": [*single, *summary]})
    assert texts(shapes).count("6.25") == 2
    assert sum(isinstance(shape, Line) and shape.width == 1.2 for shape in shapes) == 4


def test_constant_and_single_values_can_be_drawn():
    for values in ([5.0], [0.0, 0.0], [-3.0, -3.0, -3.0]):
        shapes, width, height = drawing({"one": rows_of(values)})
        assert all(0 <= x <= width and 0 <= y <= height for curve in curves(shapes) for x, y in curve.points)


def test_nothing_to_plot_is_said():
    with pytest.raises(ValueError, match="nothing to plot: no row of one"):
        drawing({"one": [{"metric": "fid50k", "value": None, "kimg": 1, "unavailable": "fetch it"}]})


def test_the_page_warns_of_rows_that_do_not_compare():
    runs = {"one": rows_of([9, 7]), "two": rows_of([8, 6], data="other")}
    assert disagreements(runs) == [
        'fid5k_tiny: data is not the same in all rows ("other", "same"), so do not compare them'
    ]
    assert "data is not the same" in page(runs, "")
    assert not disagreements({"one": rows_of([9, 7]), "two": rows_of([8, 6])})


def test_the_page_tells_first_best_and_last():
    text = page({"a<b": rows_of([9, 4, 5]), "r": rows_of([1, 3, 2], metric="is5k_tiny")}, "<svg/>")
    assert "<td>fid5k_tiny</td><td>a&lt;b</td><td>9</td><td>4</td><td>2.0</td><td>5</td>" in text
    assert "<td>is5k_tiny</td><td>r</td><td>1</td><td>3</td>" in text
    unavailable = {"one": [*rows_of([9]), {"metric": "fid50k", "value": None, "unavailable": "fetch it"}]}
    assert "<li>fid50k: fetch it</li>" in page(unavailable, "")


def test_files_are_written_and_read_back(tmp_path):
    run = Storage.at(tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in rows_of([9, 7, 5]))
    run.write("metrics.jsonl", (lines + '{"metric": "fid').encode())
    rows = read_jsonl(run, "metrics.jsonl")
    assert len(rows) == 3
    png, html = write_plots({"one": rows}, run)
    assert Image.open(png).size == (920 * 2, 300 * 2)
    svg = (tmp_path / "metrics.html").read_text().split("\n", 1)[1].rsplit("</svg>", 1)[0] + "</svg>"
    assert len(ElementTree.fromstring(svg)) > 20 and html.endswith("metrics.html")


def test_both_drawings_show_the_same_shapes():
    shapes = [
        Box((0, 0), (40, 20), "#ffffff"),
        Line([(2, 10), (38, 10)], COLOURS[0], 3),
        Dot((20, 10), 5, COLOURS[1], "<a>"),
    ]
    pixels = np.asarray(Image.open(io.BytesIO(to_png([*shapes, Text((2, 8), "x")], 40, 20))))
    assert pixels.shape == (40, 80, 3)
    assert tuple(pixels[20, 8]) == (0x0B, 0x6B, 0xCB) and tuple(pixels[20, 40]) == (0xD9, 0x48, 0x0F)
    assert (pixels[:16, :20] < 128).any()  # the letter
    root = ElementTree.fromstring(to_svg(shapes, 40, 20))
    assert [element.tag.rpartition("}")[2] for element in root] == ["rect", "polyline", "circle"]
    assert root[2][0].text == "<a>"


def test_ticks_are_round_and_inside():
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0.13, 0.61) == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert nice_ticks(-30, 1000) == [0, 200, 400, 600, 800, 1000]
    assert log_ticks(8, 220) == [10, 20, 50, 100, 200]
