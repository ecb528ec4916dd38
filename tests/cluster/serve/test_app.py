"""The processes that compute images, without Ray: which network they load, and what they say of it."""

import traceback

import pytest
import torch
from support.toy import toy_config, toy_state

pytest.importorskip("ray.serve")

from stylegan_ray.cluster.serve import app
from stylegan_ray.cluster.serve.app import Plan, Renderer
from stylegan_ray.config import ConfigError
from stylegan_ray.images.view import NetworkVersion
from stylegan_ray.interop import save_network

SECRET_RUN = "s3://USER:PASSWORD@bucket/run"


@pytest.fixture
def network(tmp_path):
    """A network file."""
    path = tmp_path / "network.safetensors"
    write(path, 1000)
    return path


def write(path, nimg):
    cfg = toy_config()
    state = toy_state(cfg)
    path.write_bytes(save_network(state.G, state.D, state.G_ema, cfg, nimg))


def plan(run):
    return Plan(str(run), "newest", None, None, 1, 1, 8, "cpu")


def test_logs_hold_no_credentials(network, monkeypatch):
    said = []
    monkeypatch.setattr(app.logger, "warning", said.append)
    renderer = Renderer(plan(network))
    found = NetworkVersion(f"{SECRET_RUN}/network.safetensors", "2")
    monkeypatch.setattr(app, "find_network", lambda run, prefer: found)
    monkeypatch.setattr(app.View, "load", lambda found, device: renderer.view)
    renderer.reload()
    monkeypatch.setattr(app, "find_network", fail)
    renderer.reload()
    assert said == [
        "loaded s3://bucket/run/network.safetensors",
        "keeping s3://bucket/run/network.safetensors: s3://bucket/run cannot be read",
    ]


def test_a_newer_network_that_has_diverged_is_not_shown(network):
    renderer = Renderer(plan(network))
    before, cfg = renderer.view, toy_config()
    state = toy_state(cfg)
    with torch.no_grad():
        for name, parameter in state.G_ema.named_parameters():
            if name.endswith("torgb.bias"):
                parameter.fill_(3e38)  # finite, as the reader demands, and their sum is not
    network.write_bytes(save_network(state.G, state.D, state.G_ema, cfg, 2000))
    renderer.reload()
    assert renderer.view is before
    write(network, 3000)
    renderer.reload()
    assert renderer.view.describe()["kimg"] == 3


def fail(*_):
    raise ConfigError(f"{SECRET_RUN} cannot be read") from OSError(SECRET_RUN)


def test_an_error_at_the_start_holds_no_credentials(monkeypatch):
    monkeypatch.setattr(app, "find_network", fail)
    with pytest.raises(RuntimeError, match=r"s3://bucket/run cannot be read") as caught:
        Renderer(plan(SECRET_RUN))
    assert "PASSWORD" not in "".join(traceback.format_exception(caught.value))
