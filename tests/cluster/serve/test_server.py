"""The serve command as users start it: concurrent requests, a run that goes on, and the page in a browser."""

import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support import browser
from support.jobs import ROOT, Job
from support.toy import toy_config, toy_state

from stylegan_ray.images.points import Point
from stylegan_ray.images.view import ImageRequest, View, find_network
from stylegan_ray.interop import save_network
from stylegan_ray.run_folder import CONFIG, best_name, snapshot_name

pytestmark = pytest.mark.cluster


def write_network(folder, cfg, nimg):
    """A network of random weights at a clock value."""
    state = toy_state(cfg.with_overrides({"run.seed": nimg}))
    content = save_network(deepcopy(state.G), state.D, state.G_ema, cfg, nimg)
    (folder / snapshot_name(nimg)).write_bytes(content)


@contextmanager
def serving(folder, cfg, *options):
    """A server of a run, whose network it writes; it follows the run."""
    (folder / CONFIG).write_text(cfg.to_yaml())
    write_network(folder, cfg, 1000)
    port = browser.free_port()
    words = (str(folder), "--port", str(port), "--follow", "--follow-seconds", "0.5", *options)
    job = Job("serve", *words, storage=folder.parent, log=folder / "serve.log")
    try:
        job.wait_for(lambda: "Ctrl-C" in job.text())
        yield SimpleNamespace(base=f"http://127.0.0.1:{port}", folder=folder, cfg=cfg, job=job)
    finally:
        job.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server for all tests of one process that computes images."""
    sizes = {f"model.{key}": 64 for key in ("z_dim", "w_dim", "mapping_fmaps", "fmap_base", "fmap_max")}
    with serving(tmp_path_factory.mktemp("run"), toy_config(**sizes)) as found:
        yield found


def get(server, path):
    with urllib.request.urlopen(f"{server.base}{path}", timeout=60) as answer:
        return answer.read()


def pixels(png):
    return np.array(Image.open(io.BytesIO(png))).astype(int)


def test_concurrent_users_get_their_own_images(server):
    view = View.load(find_network(str(server.folder)))
    points = [Point(seed=seed, psi=0.7, class_index=seed % 3) for seed in range(24)]
    expected = [pixels(drawn.png) for drawn in view.draw([ImageRequest.of(point) for point in points])]
    paths = [f"/image.png?seed={point.seed}&psi=0.7&class={point.class_index}" for point in points]
    with ThreadPoolExecutor(12) as pool:
        found = [pixels(png) for png in pool.map(lambda path: get(server, path), paths)]
    for image, other in zip(found, expected, strict=True):
        assert np.abs(image - other).max() <= 1
    assert len({image.tobytes() for image in found}) == len(points)


def test_a_wrong_value_spoils_nothing(server):
    with pytest.raises(urllib.error.HTTPError) as raised:
        get(server, "/image.png?class=9")
    assert raised.value.code == 422 and json.load(raised.value)["detail"] == "class=9: this network has classes 0 to 2."
    assert get(server, "/image.png?class=2")


def test_a_newer_network_of_the_run_is_loaded(server):
    before = get(server, "/image.png?seed=1")
    write_network(server.folder, server.cfg, 2000)
    server.job.wait_for(lambda: json.loads(get(server, "/network.json"))["kimg"] == 2, 30)
    assert get(server, "/image.png?seed=1") != before


def test_the_best_network_of_a_run_is_followed(tmp_path):
    cfg = toy_config(**{"metrics.names": ["fid50k_full"]})
    with serving(tmp_path, cfg, "--network", "best") as server:
        assert json.loads(get(server, "/network.json"))["kimg"] == 1, "no metric yet: the newest"
        write_network(tmp_path, cfg, 2000)
        (tmp_path / snapshot_name(2000)).rename(tmp_path / best_name("fid50k_full"))
        write_network(tmp_path, cfg, 3000)
        server.job.wait_for(lambda: json.loads(get(server, "/network.json"))["kimg"] == 2, 30)
        write_network(tmp_path, cfg, 4000)
        (tmp_path / snapshot_name(4000)).rename(tmp_path / best_name("fid50k_full"))
        server.job.wait_for(lambda: json.loads(get(server, "/network.json"))["kimg"] == 4, 30)


def test_two_replicas_load_a_newer_network(tmp_path):
    with serving(tmp_path, toy_config(), "--replicas", "2") as server:
        before = {get(server, "/image.png?seed=1") for _ in range(8)}
        write_network(tmp_path, server.cfg, 2000)

        def all_are_new():
            return {json.loads(get(server, "/network.json"))["kimg"] for _ in range(16)} == {2}

        server.job.wait_for(all_are_new, 30)
        after = {get(server, "/image.png?seed=1") for _ in range(8)}
        assert len(before) == len(after) == 1 and before != after


SHOWN = "document.getElementById('image').src"


@pytest.mark.skipif(not browser.is_installed(), reason="needs chromium and chromedriver")
def test_the_page_in_a_browser(server, tmp_path):
    with browser.browser() as page:
        page.open(f"{server.base}/?seed=3&psi=0.5")
        first = page.wait_for(f"{SHOWN}.startsWith('blob:') && {SHOWN}")
        assert page.run("return document.getElementById('psi').value") == "0.5"
        page.press("#psi", "\ue014")  # the right arrow
        second = page.wait_for(f"{SHOWN} !== '{first}' && {SHOWN}")
        page.wait_for("location.search === '?seed=3&psi=0.55'")
        page.click("#save")
        page.click("#after")
        third = page.wait_for(f"{SHOWN} !== '{second}' && {SHOWN}")
        assert page.run("return document.getElementById('layers').offsetHeight") == 0
        page.click("#mix-random")
        page.wait_for(f"{SHOWN} !== '{third}' && location.search.includes('mix_seed')")
        page.click("#layers label:last-child")
        page.wait_for("location.search.includes('mix_layers')")
        page.run("const c = document.getElementById('class'); c.value = 2; c.dispatchEvent(new Event('change'))")
        page.wait_for("location.search.includes('class=2')")
        before = page.run(f"return {SHOWN}")
        page.press("#directions input", "\ue014")
        page.wait_for(f"location.search.includes('directions=0%3A0.1') && {SHOWN} !== '{before}'")
        page.click("#save")
        page.click("#play")
        page.wait_for("document.getElementById('status').textContent === '24 frames'")
        page.click("#play")
        page.screenshot(tmp_path / "page.png")
        link = page.run("return location.href")
        page.open("about:blank")
        page.open(link)
        page.wait_for("document.querySelectorAll('#points img[src^=blob]').length === 2")
        assert page.run("return document.getElementById('class').value") == "2"
        assert page.messages() == [], "the console says nothing"


@pytest.mark.skipif(not browser.is_installed(), reason="needs chromium and chromedriver")
def test_the_page_on_a_narrow_screen_and_by_keyboard(server):
    with browser.browser() as page:
        page.resize(360, 640)
        page.open(f"{server.base}/?seed=3&mix_seed=5#seed%3D1;seed%3D2;seed%3D4")
        page.wait_for(
            f"{SHOWN}.startsWith('blob:') && document.querySelectorAll('#points img[src^=blob]').length === 3"
        )
        assert page.run("return document.documentElement.scrollWidth") <= 360
        names = page.names("input:not([type=checkbox]), button, select")
        assert all(names) and len(set(names)) == len(names), f"no name or the same twice: {names}"
        page.run("document.getElementById('save').scrollIntoView({block: 'end'})")
        assert page.run("return document.getElementById('image').getBoundingClientRect().top") >= 0, "out of sight"
        page.press("#points li:nth-child(2) .drop", "\ue007")  # Enter
        assert page.run("return document.querySelectorAll('#points li').length") == 2
        assert page.run("return document.activeElement.getAttribute('aria-label')") == "Remove point 2"
        assert page.messages() == []


def test_a_property_based_client_finds_nothing(server, tmp_path):
    """Schemathesis sends what the description allows and what it does not, to every address."""
    pytest.importorskip("schemathesis")
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.base}/openapi.json", "--max-examples", "25"]
    found = subprocess.run(
        [*command, "--generation-deterministic", "--exclude-checks", "positive_data_acceptance"],
        env={**os.environ, "SCHEMATHESIS_HOOKS": "support.refusals", "PYTHONPATH": path},
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
