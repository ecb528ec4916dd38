"""The serve command before it starts a cluster: options, the address, the port."""

import socket
import sys

import pytest
from support.toy import toy_config, toy_state

from stylegan_ray import cli
from stylegan_ray.cluster import pinned
from stylegan_ray.cluster.serve.launch import (
    HEAD,
    address_of,
    check_port,
    check_port_of_head,
    device_of,
    page_address,
    port_problem,
)
from stylegan_ray.cluster.serve.options import ServeOptions
from stylegan_ray.config import ConfigError
from stylegan_ray.storage import Storage
from stylegan_ray.train.checkpoint import Snapshot, write_checkpoint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--port 0", "--port 0 must be at least 1"),
        ("--port 70000", "65535"),
        ("--replicas 0", "--replicas 0"),
        ("--follow-seconds 0", "larger than 0"),
        ("--token a;b", "letters"),
        ("--follow", "--follow needs a run"),
        ("", "no run"),
    ],
)
def test_mistakes(tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.setenv("STYLEGAN_RAY_STORAGE", str(tmp_path))
    assert cli.run(cli.serve, ["nothing", *words.split()]) == 2
    assert says in capsys.readouterr().err


def test_a_checkpoint_cannot_be_followed(tmp_path, capsys):
    cfg = toy_config()
    checkpoint = write_checkpoint(Snapshot.of(toy_state(cfg), cfg), Storage.at(tmp_path / "checkpoints"))
    words = [str(tmp_path / "checkpoints" / checkpoint)]
    assert address_of(ServeOptions(*words)) == words[0]
    assert cli.run(cli.serve, [*words, "--follow"]) == 2
    assert "--follow needs a run" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}.*choose another"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_on_a_joined_cluster_the_port_of_its_head_is_checked(monkeypatch):
    """The driver may run on another node, which has ports of its own."""
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}, "NodeManagerAddress": "10.0.0.1"},
        {"NodeID": "b", "Alive": True, "Resources": {HEAD: 1.0}, "NodeManagerAddress": "10.0.0.2"},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    asked, answers = [], ["Address already in use", None]
    monkeypatch.setattr(pinned, "call_on_nodes", lambda calls, seconds: asked.append(calls) or [answers.pop(0)])
    with pytest.raises(ConfigError, match=r"--port 8000 .*head of the cluster, 10\.0\.0\.2: Address already"):
        check_port_of_head("0.0.0.0", 8000)
    check_port_of_head("0.0.0.0", 8000)
    assert asked == [[("b", port_problem, ("0.0.0.0", 8000))]] * 2


def test_without_ray_serve_the_way_out_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert cli.run(cli.serve, ["run"]) == 2
    assert "stylegan-ray[serve]" in capsys.readouterr().err


def test_the_address_of_the_page():
    assert page_address(ServeOptions("run"), None) == "http://127.0.0.1:8000/"
    assert page_address(ServeOptions("run", host="::1", port=9), "a") == "http://[::1]:9/?token=a"
    assert page_address(ServeOptions("run", host="0.0.0.0"), "a").startswith(f"http://{socket.gethostname()}:8000/?")


def test_the_device():
    assert device_of(ServeOptions("run"), {"CPU": 2}) == "cpu"
    assert device_of(ServeOptions("run"), {"GPU": 1}) == "cuda"
    assert device_of(ServeOptions("run", replicas=2), {"GPU": 1}) == "cpu"
    with pytest.raises(ConfigError, match="0 GPUs"):
        device_of(ServeOptions("run", device="cuda"), {"CPU": 2})
