"""The HTTP interface without a server: values, errors, its description, the page, who may ask."""

import base64
import io
import json
import random
import re
import shutil
import subprocess

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from support.asgi import ask

from stylegan_ray.cluster.serve.access import chosen_token, is_loopback, without_token
from stylegan_ray.cluster.serve.api import make_api, page_text
from stylegan_ray.config import ModelConfig, load_config
from stylegan_ray.images.points import Point
from stylegan_ray.images.view import ImageRequest, View
from stylegan_ray.interop import Networks
from stylegan_ray.networks import build_generator


class Here:
    """Computes images in this process."""

    def __init__(self, view):
        self.view = view

    async def draw(self, request):
        return self.view.draw([request])[0]

    async def describe(self):
        return self.view.describe()


@pytest.fixture(scope="module")
def view():
    torch.manual_seed(1)
    model = ModelConfig(z_dim=4, w_dim=4, mapping_fmaps=4, mapping_layers=1, fmap_max=4)
    return View(Networks(G=None, D=None, G_ema=build_generator(model, 8, 3, 2), config=load_config("tiny")), "n")


@pytest.fixture(scope="module")
def api(view):
    return make_api(Here(view))


def test_an_image(api, view):
    found = ask(api, "/image.png", {"seed": 3, "psi": 0.7, "class": 1, "mix_seed": 5, "mix_layers": "0-1"})
    (drawn,) = view.draw([ImageRequest.of(Point(seed=3, psi=0.7, class_index=1, mix_seed=5, mix_layers="0-1"))])
    assert (found.status, found.headers["content-type"], found.body) == (200, "image/png", drawn.png)


def test_an_image_with_its_styles(api):
    found = ask(api, "/image.json", "seed=3").json()
    assert base64.b64decode(found["png"]) == ask(api, "/image.png", "seed=3").body
    with np.load(io.BytesIO(ask(api, "/w.npz", "seed=3").body)) as file:
        np.testing.assert_allclose(found["w"], file["w"][0], rtol=1e-6)
    assert found["network"] == ask(api, "/network.json").json()


def test_an_image_names_the_network_that_drew_it(view):
    """Which may be another one than is described a moment later, by this process or another one."""

    class Following(Here):
        async def describe(self):
            return {**self.view.describe(), "name": "newer"}

    found = ask(make_api(Following(view)), "/image.json", "seed=3").json()
    assert found["network"]["name"] == "n"


def test_a_walk(api):
    found = ask(api, "/walk.png", body={"points": [{"seed": 1}, {"seed": 2, "psi": 0.5}], "position": 1})
    image = np.array(Image.open(io.BytesIO(found.body))).astype(int)
    expected = np.array(Image.open(io.BytesIO(ask(api, "/image.png", "seed=2&psi=0.5").body))).astype(int)
    assert found.status == 200 and np.abs(image - expected).max() <= 1


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("seed=x", r"^seed=x: .*integer"),
        ("seed=-1", r"^seed=-1: .*greater than or equal to 0"),
        ("seed=4294967296", "4294967295"),
        ("seed=", "integer"),
        ("psi=9", "less than or equal to 2"),
        ("psi=nan", "finite"),
        ("class=2", "classes 0 to 1"),
        ("sead=1", r"^sead: .*did you mean 'seed'"),
        ("mix_seed=1&mix_layers=0-9", "layers 0 to 3"),
        ("mix_layers=x", "mix_layers=x"),
        ("directions=9:1", "directions 0 to 3"),
        ("directions=1", "directions=1"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(api, query, says):
    found = ask(api, "/image.png", query)
    assert found.status == 422 and re.search(says, found.detail)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b'{"points": "\xe9\x3e"}',
        {"points": []},
        {"points": [{"seed": 0.5}]},
        {"points": [{"seed": True}]},
        {"points": [{}], "position": False},
        {"position": 1},
        [],
        None,
    ],
)
def test_a_wrong_body_is_refused_with_a_sentence(api, body):
    found = ask(api, "/walk.png", body=body if body is not None else b"null")
    assert found.status == 422 and found.detail


@pytest.mark.parametrize(
    "body", [{"points": [{"\ud800": 1}]}, {"points": [{"mix_layers": "\ud800"}]}, {"points": [], "\udfff": 1}]
)
def test_lone_surrogates_are_refused(api, body):
    found = ask(api, "/walk.png", body=body)
    assert found.status == 422 and found.detail.isprintable()


def test_a_large_body_is_refused(api):
    found = ask(api, "/walk.png", body=b'{"points": [' + b"[]," * 30_000 + b"[]]}")
    assert found.status == 413 and "65536" in found.detail


def test_an_unknown_address_is_refused_with_a_sentence(api):
    assert (ask(api, "/nothing").status, ask(api, "/image.png", body={}).status) == (404, 405)
    assert "/openapi.json" in ask(api, "/nothing").detail
    assert ask(api, "/image.png", body={}).headers["allow"] == "GET"


def values_of(rng, schema):
    """A value that a schema allows, and one that it does not."""
    schema = next((part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"), schema)
    if schema["type"] == "integer":
        return rng.randint(schema["minimum"], schema["maximum"]), schema["maximum"] + rng.randint(1, 9)
    if schema["type"] == "number":
        return rng.uniform(schema["minimum"], schema["maximum"]), schema["minimum"] - rng.uniform(0.01, 9)
    return "0:1.5,1:-2" if ":" in schema["pattern"] else "0-1", "".join(rng.choices("-,x;%", k=5))


def test_the_interface_does_what_its_description_says(api):
    """Random values within and outside the described bounds, for every parameter of every address."""
    rng, description = random.Random(1), ask(api, "/openapi.json").json()
    problem = description["components"]["schemas"]["Problem"]
    statuses = []
    for path, methods in description["paths"].items():
        parameters = methods.get("get", {}).get("parameters", [])
        for _ in range(40 if parameters else 0):
            chosen = rng.sample(parameters, rng.randint(0, len(parameters)))
            query = {one["name"]: values_of(rng, one["schema"])[0] for one in chosen}
            wrong = rng.choice(parameters) if rng.random() < 0.5 else None
            if wrong:
                query[wrong["name"]] = values_of(rng, wrong["schema"])[1]
            found = ask(api, path, query)
            statuses.append(found.status)
            assert str(found.status) in methods["get"]["responses"], (path, query)
            if found.status == 200:
                assert not wrong, (path, query)
            else:
                jsonschema.validate(found.json(), problem)
                assert found.status == 422 and found.detail
    assert statuses.count(200) > 10 and statuses.count(422) > 30


def test_the_page_is_one_file_that_needs_no_other_host(api):
    found = ask(api, "/", "seed=4")
    assert found.status == 200 and found.body.decode() == page_text()
    assert not re.search(r"//[\w.-]+\.\w|src=\"|@import|url\(", page_text().replace("http://www.w3.org", ""))
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    assert ask(api, "/docs").status == 404, "FastAPI's own page loads from another host"


LOOK = """
let network = {name: "a", kimg: 1}, shown = {point: "old"}, playing = PLAYING, done = [];
const savedImages = {clear: () => done.push("clear")}, $ = () => ({});
const listPoints = () => done.push(`list ${shown}`), show = () => done.push("show"), walk = () => done.push("walk");
const ask = async () => ({json: async () => ({name: NAME, kimg: 1})});
FUNCTION
look().then(() => console.log(JSON.stringify(done)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.parametrize(
    ("name", "playing", "done"),
    [
        ("a", "{}", []),
        ("b", "null", ["clear", "list null", "show"]),
        ("b", "{}", ["clear", "list null", "walk"]),
    ],
)
def test_the_page_forgets_the_images_of_another_network(name, playing, done):
    (function,) = re.findall(r"^async function look\(\) \{.*?^\}", page_text(), re.M | re.S)
    script = LOOK.replace("PLAYING", playing).replace("NAME", json.dumps(name)).replace("FUNCTION", function)
    found = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == done


def test_without_a_token_only_this_machine_is_answered(api):
    for host in ("localhost:8000", "[::1]:80", "127.0.0.1", "127.0.0.2:8000"):
        assert ask(api, "/network.json", headers={"host": host}).status == 200
    for host in ("evil.example:8000", "127.0.0.1.evil.example", "0.0.0.0:8000", "192.168.0.1", "", "127.0.0.2:evil"):
        assert ask(api, "/network.json", headers={"host": host}).status == 403
    assert ask(api, "/", headers={"host": "evil.example"}).detail


def test_with_a_token_every_request_needs_it(view):
    api = make_api(Here(view), "secret")
    assert "token" in ask(api, "/image.png").detail and ask(api, "/").status == ask(api, "/openapi.json").status == 401
    assert ask(api, "/image.png", headers={"authorization": "Bearer secret", "host": "gpu7:8000"}).status == 200
    assert ask(api, "/image.png", headers={"authorization": "Bearer Secret"}).status == 401
    assert ask(api, "/image.png", "token=secret&seed=3").body == ask(make_api(Here(view)), "/image.png", "seed=3").body


def test_a_visit_with_the_token_leaves_a_cookie_and_a_clean_address(view):
    api = make_api(Here(view), "secret")
    found = ask(api, "/", "seed=3&token=secret")
    assert (found.status, found.headers["location"]) == (303, "/?seed=3")
    assert "HttpOnly" in found.headers["set-cookie"]
    cookie = found.headers["set-cookie"].partition(";")[0]
    assert ask(api, "/image.png", headers={"cookie": cookie}).status == 200
    assert ask(api, "/image.png", headers={"cookie": "stylegan_ray_token=x"}).status == 401
    for other in ('{"a": "b"}', "a b=c", "=", "", "ä=1", "stylegan_ray_token=x", 'q="'):
        for cookies in (f"{other}; {cookie}", f"{cookie}; {other}", f"{other};{cookie}"):
            assert ask(api, "/image.png", headers={"cookie": cookies}).status == 200
    assert ask(api, "/image.png", headers={"cookie": f"x{cookie}"}).status == 401


def test_tokens_are_made_where_others_can_connect():
    assert chosen_token("127.0.0.1", None) is None and chosen_token("127.0.0.1", "mine") == "mine"
    assert len(chosen_token("0.0.0.0", None)) >= 32
    assert is_loopback("localhost") and is_loopback("::1") and not is_loopback("gpu7")
    assert without_token("a=1&token=x&b=") == "a=1&b=" and without_token("a=%20") == "a=%20"


def test_the_description_names_every_address(api):
    paths = json.loads(ask(api, "/openapi.json").body)["paths"]
    assert set(paths) == {"/image.png", "/image.json", "/w.npz", "/walk.png", "/network.json"}
    assert "image/png" in paths["/image.png"]["get"]["responses"]["200"]["content"]
