"""Addresses where no Ray answers, folders that Ray cannot use, and the code that workers run."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from stylegan_ray.cluster import addresses, resources  # noqa: E402
from stylegan_ray.cluster.addresses import join, no_answer, why_not_joined  # noqa: E402
from stylegan_ray.cluster.resources import code_of_driver, joined, joined_for_tasks, set_folder  # noqa: E402
from stylegan_ray.cluster.supervise import import_error  # noqa: E402
from stylegan_ray.config import ConfigError, load_config  # noqa: E402


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_closed_port_is_named_at_once_with_the_way_out():
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        join(f"127.0.0.1:{closed_port()}", "cluster.address", {})
    assert time.monotonic() - began < 10
    assert all(word in str(caught.value) for word in ("cluster.address=127.0.0.1", "nothing answers", "local"))


def test_a_port_that_is_silent_is_no_ray(monkeypatch):
    monkeypatch.setattr(addresses, "ANSWER_SEC", 0.3)
    with socket.create_server((ray.util.get_node_ip_address(), 0)) as server:
        assert "nothing answers" in (no_answer(f"127.0.0.1:{server.getsockname()[1]}") or "")


def test_what_speaks_something_else_is_no_ray():
    with socket.create_server((host := ray.util.get_node_ip_address(), 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert no_answer(f"{host}:{server.getsockname()[1]}") == "what answers there is no Ray"
        thread.join()


SERVERS = """
import concurrent.futures, sys, time
import grpc
from stylegan_ray.cluster.addresses import join
from stylegan_ray.config import ConfigError

for interface in ("0.0.0.0", "127.0.0.1"):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor())
    port = server.add_insecure_port(f"{interface}:0")
    server.start()
    began = time.monotonic()
    try:
        join(f"127.0.0.1:{port}", "cluster.address", {})
    except ConfigError as error:
        print(error)
    print(time.monotonic() - began)
    server.stop(0)
"""


def test_a_server_of_grpc_that_is_no_ray_is_told_within_ten_seconds():
    """It greets as Ray's. Ray asks the address of the machine, where one on the loopback interface is not found."""
    done = subprocess.run([sys.executable, "-c", SERVERS], capture_output=True, text=True, timeout=100)
    everywhere, sec, loopback, loopback_sec = done.stdout.splitlines()
    assert float(sec) < 10 and "no Ray" in everywhere and "Method not found" in everywhere
    assert float(loopback_sec) < 10 and ("nothing answers at" in loopback or "no Ray" in loopback)
    assert "Traceback" not in done.stdout and "no node of the cluster" not in done.stdout


@pytest.mark.parametrize("address", ["a..b:6379", ".:6379", f"{'x' * 64}:6379"])
def test_what_cannot_be_the_name_of_a_host(address):
    assert "cannot be the name of a host" in (no_answer(address) or "")


@pytest.mark.parametrize("address", [":6379", "[]:6379", "host:²", "host:-1", "host:65536", "host"])
def test_what_is_no_address(address):
    assert "HOST:PORT" in (no_answer(address) or "")


def test_a_ray_answers(ray_local):
    assert no_answer(ray.get_runtime_context().gcs_address) is None


@pytest.mark.parametrize(
    ("address", "cause", "words"),
    [
        ("head:6379", "No node info found", ("no node of the cluster", "ray start --address=head:6379", "job submit")),
        ("head:6379", "Traceback ... ray.exceptions.AuthenticationError: InvalidAuthToken", ("RAY_AUTH_TOKEN",)),
        ("auto", "", ("on this machine", "ray start --head")),
        ("auto", "Failed to connect to GCS within 4 seconds", ("no Ray cluster was found on this machine",)),
    ],
)
def test_why_ray_joins_nothing_is_said_with_the_way_out(address, cause, words):
    """Ray wraps what happened into a ConnectionError that does not say it."""
    error = ConnectionError("Failed to connect to Ray cluster")
    error.__cause__ = RuntimeError(cause) if cause else None
    text = why_not_joined(address, error)
    assert all(word in text for word in words), text
    assert ("token" in text) == ("Authentication" in cause)


def test_auto_is_no_cluster_of_one_command_alone(monkeypatch):
    """Ray would take that one and wait for minutes: it listens on the loopback interface."""
    private = f"127.0.0.1:{closed_port()}"
    monkeypatch.setattr(addresses, "addresses_here", lambda: [private])
    with pytest.raises(ConfigError) as caught:
        join("auto", "RAY_ADDRESS", {}, "--address")
    text = str(caught.value)
    assert all(word in text for word in ("RAY_ADDRESS=auto", private, "ray start --head", "--address=local", "unset"))


def test_auto_finds_the_cluster_that_others_may_join(ray_local, monkeypatch):
    address, private = ray.get_runtime_context().gcs_address, f"127.0.0.1:{closed_port()}"
    assert address in addresses.addresses_here()
    monkeypatch.setattr(addresses, "addresses_here", lambda: [private, address])
    assert addresses.found_here("cluster.address", "") == address
    monkeypatch.setattr(addresses, "addresses_here", lambda: [address])
    assert addresses.found_here("cluster.address", "") == "auto"


def test_commands_with_the_option_address_name_it():
    address = f"127.0.0.1:{closed_port()}"
    with pytest.raises(ConfigError, match=f"^--address={address}: .*--address=local") as caught:
        with joined_for_tasks(address, 1):
            pass
    assert "cluster.address" not in str(caught.value)


def test_the_variable_is_named_where_it_gives_the_address(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setattr(sys, "argv", ["jobs/tune.py", "space.yaml"])
    with pytest.raises(ConfigError) as caught, joined(load_config("tiny"), print):
        pass
    text = str(caught.value)
    assert all(
        word in text for word in ("RAY_ADDRESS=http://127.0.0.1:8265", "unset RAY_ADDRESS", "tune.py space.yaml")
    )
    assert "cluster.address=http" not in text


def test_a_folder_that_is_too_long_for_sockets_is_replaced_with_a_line(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    monkeypatch.setenv("RAY_TMPDIR", "")
    said = []
    set_folder(said.append)
    folder = Path(os.environ["RAY_TMPDIR"])
    assert len(said) == 1 and "TMPDIR=" in said[0] and str(folder) in said[0]
    assert len(str(folder)) <= resources.MOST_TEMP_CHARACTERS and folder.stat().st_mode & 0o77 == 0


def test_a_folder_of_another_user_is_replaced(monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "MOST_TEMP_CHARACTERS", 1000)
    (tmp_path / "ray").write_text("stands for a folder without rights, which root does not know")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    said = []
    set_folder(said.append)
    assert len(said) == 1 and "cannot be written" in said[0] and os.environ["RAY_TMPDIR"] != str(tmp_path)


def test_a_good_folder_stays(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    set_folder(pytest.fail)
    assert os.environ["RAY_TMPDIR"] == "/tmp"


def test_idle_threads_of_workers_sleep_soon_unless_the_user_says_how_they_wait(monkeypatch):
    for name in resources.WAITING:
        monkeypatch.delenv(name, raising=False)
    assert int(resources.local_defaults()["GOMP_SPINCOUNT"]) < 100_000
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in resources.local_defaults()


def test_workers_look_for_code_where_the_driver_found_it(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    with code_of_driver():
        assert not Path("torch.py").exists()
    assert Path.cwd() == tmp_path


def test_errors_of_imports_are_found_behind_others():
    from ray.train import ControllerError, WorkerGroupError

    broken = ModuleNotFoundError("No module named 'missing'")
    assert "missing" in (import_error(WorkerGroupError("", {0: broken})) or "")
    assert "missing" in (import_error(ControllerError(broken)) or "")
    assert import_error(WorkerGroupError("", {0: OSError("no")})) is None
