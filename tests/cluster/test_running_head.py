"""Commands that join a running head, with and without a token: they do their work there, and the head lives on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support import namespaces
from support.toy import toy_config

pytest.importorskip("ray")
pytest.importorskip("fastapi")

from stylegan_ray.interop import save_network
from stylegan_ray.run_folder import CONFIG, snapshot_name
from stylegan_ray.train.state import TrainState

pytestmark = pytest.mark.cluster
ADDRESS = "127.0.0.1:6399"
"""Ray replaces 127.0.0.1 by the machine's own address, which here is another one."""
MODES = ("disabled", "token")


def head_setup(folder: Path, mode: str) -> str:
    return f"""
        ip link add eth0 type veth peer name eth1
        ip link set eth0 up && ip link set eth1 up
        ip addr add 10.78.0.2/24 dev eth0 && ip route add default via 10.78.0.1
        mkdir {folder}/tmp && mount --bind {folder}/tmp /tmp/ray
        ray() {{ {sys.executable} -m ray.scripts.scripts "$@"; }}
        {"ray get-auth-token --generate > /dev/null" if mode == "token" else ""}
        ray start --head --port=6399 --num-cpus=2 --include-dashboard=false --object-store-memory=150000000 \\
            --disable-usage-stats
    """


@pytest.fixture(scope="module", params=MODES)
def head(request, tmp_path_factory):
    """A head whose storage holds the run `toy`."""
    if not namespaces.are_allowed():
        pytest.skip(namespaces.WHY_NOT)
    folder = tmp_path_factory.mktemp("head")
    run = folder / "storage" / "toy"
    run.mkdir(parents=True)
    cfg = toy_config()
    state = TrainState.create(cfg, 8, 3, 0, "cpu")
    (run / CONFIG).write_text(cfg.to_yaml())
    (run / snapshot_name(1000)).write_bytes(save_network(state.G, state.D, state.G_ema, cfg, 1000))
    env = namespaces.clean_environment(folder, RAY_AUTH_MODE=request.param)
    head = namespaces.Namespaces(folder, head_setup(folder, request.param), env)
    head.mode = request.param
    try:
        head.wait_until_ready()
        yield head
    finally:
        head.kill()


def command(words: str) -> str:
    """A job file at work on the head, in the place of the shell."""
    return f"exec {sys.executable} -u jobs/{words} --cluster.address {ADDRESS}"


def nodes_alive(head, name: str) -> int:
    code = f"import ray; ray.init('{ADDRESS}', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
    status, said = head.run(name, f'{sys.executable} -c "{code}"')
    assert status == 0, said
    return int(said.split()[-1])


FETCH = """
import sys, urllib.request
for name in sys.argv[2:]:
    content = urllib.request.urlopen(f"http://127.0.0.1:8000/{name}", timeout=60).read()
    open(f"{sys.argv[1]}/{name.partition('?')[0]}", "wb").write(content)
"""


@pytest.mark.parametrize("name", ["first", "second"])
def test_serve_answers_ends_by_sigterm_and_can_be_started_again(head, name):
    pid = head.folder / f"{name}.pid"
    said = head.start(name, f"echo $$ > {pid}; {command('serve.py toy')}")
    head.wait_for(lambda: said.exists() and "Ctrl-C" in said.read_text(), while_running=name)
    (head.folder / "fetch.py").write_text(FETCH)
    fetch = f"{sys.executable} {head.folder}/fetch.py {head.folder} 'image.png?seed=1' openapi.json"
    assert head.run(f"fetch-{name}", fetch)[0] == 0, head.text()
    assert (head.folder / "image.png").read_bytes().startswith(b"\x89PNG")
    assert "/image.png" in json.loads((head.folder / "openapi.json").read_text())["paths"]
    head.run(f"end-{name}", f"kill -TERM $(cat {pid})")
    head.wait_for(lambda: head.status(name) is not None)
    assert head.status(name) == 130 and "Traceback" not in said.read_text(), said.read_text()
    assert nodes_alive(head, f"alive-{name}") == 1


def test_images_projections_and_metrics_are_computed_there(head, pictures):
    images = " ".join(str(path) for path in sorted(pictures.rglob("*.png"))[:2])
    for name, words, file in (
        ("generate", f"generate.py toy --n 3 --outdir {head.folder}/many", "many/seed000002.png"),
        ("project", f"project.py toy {images} --steps 2 --outdir {head.folder}/projected", "projected/001.npz"),
        ("evaluate", f"evaluate.py toy {pictures} --metrics fid20_tiny", "storage/toy/evaluations.jsonl"),
    ):
        status, said = head.run(name, command(words))
        assert status == 0 and (head.folder / file).exists(), said
        assert nodes_alive(head, f"alive-{name}") == 1


def test_the_doctor_looks_at_the_node(head):
    report = head.folder / "doctor.json"
    status, said = head.run("doctor", command(f"doctor.py --json {report}"))
    assert status == 0 and "Traceback" not in said, said
    assert ": 1 node\n" in said and "Nothing prevents training on this cluster" in said, said
    found = {finding["subject"]: finding["level"] for finding in json.loads(report.read_text())["cluster"]}
    assert found["versions"] == found["clocks"] == found["same storage"] == "OK"
    assert found["token"] == ("OK" if head.mode == "token" else "warning"), said
    assert not list((head.folder / "storage").glob(".doctor-*")) and nodes_alive(head, "alive-doctor") == 1


def test_where_no_node_runs_the_ways_out_are_named(head):
    """In a process namespace of its own, as in another container, a driver finds no node of the cluster."""
    unshare = "unshare -p -f --mount-proc --kill-child"
    words = f"jobs/serve.py toy --address {ADDRESS}"
    environment = "RAY_gcs_server_request_timeout_seconds=3"
    status, said = head.run("elsewhere", f"{environment} {unshare} {sys.executable} {words}")
    assert status == 2 and "Traceback" not in said, said
    for part in (f"cluster.address={ADDRESS}", "no node", f"ray start --address={ADDRESS}", "ray job submit"):
        assert part in said, said


def test_without_the_token_nothing_is_joined(head):
    if head.mode == "disabled":
        pytest.skip("this head has no token")
    status, said = head.run("wrong", f"RAY_AUTH_TOKEN={'0' * 64} {command('serve.py toy')}")
    assert status == 2 and "Traceback" not in said and "token" in said, said
