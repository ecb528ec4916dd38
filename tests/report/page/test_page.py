"""report.html: whole, small, without references, and harmless whatever the run's folder holds."""

import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from support.browser import browser, is_installed
from support.grown import DATA, STARTED, GrowingRun

from stylegan_ray import cli
from stylegan_ray.images.grid import png
from stylegan_ray.report.page import frames, write_page
from stylegan_ray.report.page.charts import MOST_POINTS, pieces, thinned
from stylegan_ray.run_folder import fakes_name


@pytest.fixture
def run(tmp_path):
    """A run of 8 pixels with a fault and a rollback."""
    run = GrowingRun(tmp_path / "run", **{"data.resolution": 8, "train.total_kimg": 20, "loss.r1_gamma": 3.5})
    run.add_ticks(5)
    run.folder.write("config.yaml", run.cfg.to_yaml().encode())
    provenance = {"name": "growing", "command": "stylegan-ray train tiny", "ended": "done", "data": DATA}
    run.folder.write("run.json", json.dumps({**provenance, "versions": {"torch": "2.13"}}).encode())
    run.folder.write("reals.png", png(torch.zeros(3, 8, 16, dtype=torch.uint8)))
    rows = [{"command": "train"}, {"start": 0, "workers": 2}, {"fault": "worker 1 was killed"}]
    rows += [{"start": 8128, "workers": 1}, {"rollback": "gradients were not finite", "nimg": 8128}]
    lines = [json.dumps({"time": STARTED + 8 * i, **row}) for i, row in enumerate(rows)]
    run.folder.write("faults.jsonl", "\n".join(lines).encode())
    return run


class Parsed(HTMLParser):
    """Every tag with its attributes, and all text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._inside = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data + " "

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_a_job_refuses_relative_outputs(run, monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert cli.run(cli.report, [run.folder.root, "--output", "page.html"]) == 2
    assert "--output='page.html' is relative" in capsys.readouterr().err


def page(run):
    write_page(run.folder)
    content = run.folder.read("report.html").decode()
    return content, Parsed(content)


def test_the_page_shows_what_the_folder_holds(run):
    _, parsed = page(run)
    for text in (
        "growing", "done", "16.128 of 20 thousand images", "best fid5k_tiny, at 16.128 kimg", "Painted by nobody, CC0",
        "worker 1 was killed", "1 worker at 8.128 kimg", "gradients were not finite", "loss.r1_gamma", "torch 2.13",
        "fault survived",
    ):  # fmt: skip
        assert text in " ".join(parsed.text.split()), text
    images = [image["data-when"] for image in parsed.all("img") if "data-when" in image]
    assert images == ["0.128 kimg", "8.128 kimg", "16.128 kimg"]
    hovers = [json.loads(figure["data-hover"]) for figure in parsed.all("figure") if "data-hover" in figure]
    assert [[0.128, 8.128, 16.128], [100.0, 98.0, 96.0]] in [hover["points"].get("fid5k_tiny") for hover in hovers]
    assert len(parsed.all("svg")) >= 6 and "kimg over time" in parsed.text


def test_the_page_refers_to_nothing_outside(run):
    content, parsed = page(run)
    addresses = [
        attrs[name] for _, attrs in parsed.tags for name in ("src", "href", "xlink:href", "data") if name in attrs
    ]
    assert addresses and all(address.startswith(("data:image/webp;base64,", "#")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import|<link|<iframe", content)
    (policy,) = [meta["content"] for meta in parsed.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy


def test_many_large_grids_become_few_small_frames(tmp_path, monkeypatch):
    """100 grids of noise at 256 pixels, which compress worst."""
    monkeypatch.setattr(frames, "MOST_BYTES", 1 << 20)
    run = GrowingRun(tmp_path, **{"data.resolution": 256})
    noise = np.random.default_rng(0).integers(0, 256, (3, 256, 768), dtype=np.uint8)
    content = png(torch.from_numpy(noise))
    run.folder.write("config.yaml", run.cfg.to_yaml().encode())
    for i in range(100):
        run.folder.write(f"{fakes_name(1000 * (i + 1))}.png", content)
    nimgs = [1000 * (i + 1) for i in range(100)]
    places = frames.chosen(nimgs)
    assert len(places) == 60 and places[0] == 0 and places[-1] == 99
    few = [places[0], places[-1]]
    names = [f"{fakes_name(nimgs[i])}.png" for i in few]
    found = frames.read_frames(run.folder, names, [nimgs[i] for i in few], (256, 256))
    assert [frame.nimg for frame in found] == [1000, 100_000]
    assert sum(len(frame.webp) for frame in found) <= 1 << 20


@pytest.mark.parametrize("grid, tile, size", [
    ((1024, 512), (1024, 1024), (512, 256)), ((7680, 4320), (64, 64), (512, 512)), ((64, 16), (8, 8), (64, 16)),
    ((900, 600), (200, 300), (300, 400)),
])  # fmt: skip
def test_a_frame_shows_whole_tiles_of_at_most_512_pixels(grid, tile, size):
    assert frames.some_tiles(Image.new("RGB", grid), tile).size == size


def test_what_others_wrote_into_the_folder_is_text_only(run):
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(2)>$\\frac{1}{2}$"
    stored = json.loads(run.folder.read("run.json"))
    stored |= {"name": attack, "command": attack, "ended": f"failed: {attack}", "versions": [attack]}
    run.folder.write("run.json", json.dumps(stored | {"data": {"path": attack, "class_names": [attack]}}).encode())
    rows = [{"time": STARTED, "fault": attack}, {"time": 1e300, "fault": "far"}, {"time": "x", "start": attack}]
    run.folder.write("faults.jsonl", "\n".join(map(json.dumps, [*rows, [], 3])).encode())
    metric = {"metric": attack, "value": 1.0, "kimg": 1.0}
    run.folder.write("metrics.jsonl", "\n".join(map(json.dumps, [metric, metric | {"value": "x"}])).encode())
    run.folder.write(f"{fakes_name(20000)}.png", b"no picture")
    _, parsed = page(run)
    assert len(parsed.all("script")) == 1 and not any("onerror" in attrs for _, attrs in parsed.tags)
    assert attack in parsed.text


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_page_without_reals(run, content):
    if content is None:
        run.folder.delete("reals.png")
    else:
        run.folder.write("reals.png", content)
    _, parsed = page(run)
    assert "Images over time" in parsed.text and "Real images" not in parsed.text


def test_numbers_that_no_axis_shows_are_left_out(run):
    rows = [{"metric": f"m{i}", "value": 1.0, "kimg": 1.0} for i in range(40)]
    rows += [{"metric": "far", "value": 1e308, "kimg": 1.0}, {"metric": "late", "value": 1.0, "kimg": 1e308}]
    rows += [{"metric": "huge", "value": 10**400, "kimg": 1.0}]
    run.folder.write("metrics.jsonl", "\n".join(map(json.dumps, rows)).encode())
    ticks = [json.loads(line) for line in run.folder.read("stats.jsonl").splitlines()]
    ticks[0] |= {"Timing/timestamp": 1e300, "Loss/G/loss": 1e308}
    run.folder.write("stats.jsonl", "\n".join(map(json.dumps, [*ticks, {"Progress/kimg": 1e308}])).encode())
    run.folder.write("faults.jsonl", json.dumps({"time": 1e308, "start": 0}).encode())
    stored = json.loads(run.folder.read("run.json")) | {"name": "\ud800"}
    run.folder.write("run.json", json.dumps(stored).encode())
    content, parsed = page(run)
    assert "m0" in parsed.text and "m23" in parsed.text and "m24" not in parsed.text, "few metrics are drawn"
    assert "far" not in parsed.text.split() and "\\ud800" in content


def test_a_folder_with_a_configuration_only_has_a_page(tmp_path):
    run = GrowingRun(tmp_path)
    run.folder.write("config.yaml", run.cfg.to_yaml().encode())
    _, parsed = page(run)
    assert "running" in parsed.text and "None are recorded." in parsed.text


def test_curves_are_thinned_but_end_where_they_end():
    xs = [float(i) for i in range(100_003)]
    thin = thinned(xs, xs)
    assert len(thin[0]) == MOST_POINTS and thin[0][-1] == thin[1][-1] == 100_002
    assert thin[0] == pytest.approx(thin[1]) and thin[0] == sorted(thin[0])
    assert thinned([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_each_start_of_workers_begins_a_piece_of_the_curve():
    assert pieces([(1, 0.1), (2, 0.2), (6, 0.3)], [(0, 0.0), (5, 0.2)]) == [
        [(0, 0.0), (1, 0.1), (2, 0.2)], [(5, 0.2), (6, 0.3)],
    ]  # fmt: skip


def test_the_command_writes_the_page_and_prints_its_address(run, tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert cli.run(cli.report, [folder]) == 0
    assert capsys.readouterr().out.strip() == f"{folder}/report.html"
    assert cli.run(cli.report, [folder, "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "run" / "report.html").read_bytes()
    assert cli.run(cli.report, ["no-such-run", "--storage", str(tmp_path)]) == 2
    assert "no run 'no-such-run'" in capsys.readouterr().err


def test_a_pipe_is_not_replaced_and_a_link_is_followed(run, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert cli.run(cli.report, [str(tmp_path / "run"), "--output", str(tmp_path / "pipe")]) == 2
    assert f"--output {tmp_path}/pipe cannot be written" in capsys.readouterr().err and (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("page.html")
    assert cli.run(cli.report, [str(tmp_path / "run"), "--output", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "page.html").stat().st_size > 1000


@pytest.mark.cluster
@pytest.mark.skipif(not is_installed(), reason="needs chromium and chromedriver")
def test_the_slider_shows_the_images_in_a_browser(run, tmp_path):
    write_page(run.folder)
    with browser() as window:
        window.open(f"file://{tmp_path}/run/report.html")
        shown = "document.querySelector('#frames img:not([hidden])').dataset.when"
        assert window.run(f"return {shown}") == "16.128 kimg"
        move = "const s = document.getElementById('time'); s.value = 0; s.dispatchEvent(new Event('input'));"
        window.run(move)
        assert window.run(f"return {shown}") == window.run("return document.getElementById('when').textContent")
        assert window.run(f"return {shown}") == "0.128 kimg"
        window.click("#play")
        window.wait_for(f"{shown} === '16.128 kimg'")
        assert window.run("return document.documentElement.scrollWidth <= window.innerWidth")
        assert not [text for text in window.messages() if "error" in str(text).lower()]
