"""report.notify posts each event once, and no file or message has more of its address than the host."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.grown import GrowingRun, deliver, memory_of

from stylegan_ray.cluster.origin import without_hooks
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.credentials import host_of
from stylegan_ray.report.trackers import check_trackers


@contextmanager
def receiver(status=200):
    """An HTTP server on the loopback interface, and what it was sent: path, headers, JSON."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(status)
            self.send_header("location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        server.server_close()


def events(got):
    return [(body["event"], body["kimg"]) for _, _, body in got]


def test_new_best_rollback_and_end_are_posted_once(tmp_path):
    with receiver() as (address, got):
        run = GrowingRun(tmp_path, **{"report.notify": f"{address}/hooks/SECRETPATH"})
        run.add_ticks(1)
        deliver(run, "stopped")
        run.add_ticks(2)
        run.add_metric(1, 99.5)
        run.folder.write("faults.jsonl", b'{"time": 1, "rollback": "gradients were not finite", "nimg": 4128}\n')
        deliver(run, "stopped")
        run.add_ticks(2)
        run.folder.write("run.json", b'{"ended": "failed: the disk is full"}')
        deliver(run, "failed")
    assert events(got) == [
        ("end", 0.128), ("new best", 4.128), ("new best", 8.128), ("rollback", 4.128), ("end", 8.128),
        ("new best", 16.128), ("failure", 16.128),
    ]  # fmt: skip
    best, failure = got[2][2], got[-1][2]
    assert (best["run"], best["metric"], best["value"]) == ("growing", "fid5k_tiny", 98.0)
    assert best["text"] == best["content"] == "growing: new best fid5k_tiny 98 at 8.128 kimg"
    assert failure["state"] == "failed" and failure["reason"] == "the disk is full"
    assert len({body["id"] for _, _, body in got}) == len(got)
    assert {path for path, _, _ in got} == {"/hooks/SECRETPATH"}


def test_history_is_no_news(tmp_path):
    with receiver() as (address, got):
        run = GrowingRun(tmp_path, **{"report.notify": address})
        run.add_ticks(5)
        deliver(run)
    assert events(got) == [("end", 16.128)]


def test_the_address_and_a_token_may_come_from_the_environment(tmp_path, monkeypatch):
    with receiver() as (address, got):
        monkeypatch.setenv("STYLEGAN_RAY_NOTIFY", f"{address}/SECRETPATH")
        monkeypatch.setenv("STYLEGAN_RAY_NOTIFY_TOKEN", "SECRETTOKEN")
        run = GrowingRun(tmp_path)
        run.add_ticks(1)
        deliver(run)
    assert got[0][1]["Authorization"] == "Bearer SECRETTOKEN"
    assert memory_of(tmp_path, "notify")["address"] == address


@pytest.mark.parametrize(
    "value",
    [
        "hooks.example.com/SECRET",
        "SECRET",
        "https://user:SECRET@host/x",
        "https://h/SECRET\n",
        "ftp://h/SECRET",
        "://h",
    ],
)
def test_a_variable_that_is_no_address_is_refused_without_showing_it(monkeypatch, value):
    monkeypatch.setenv("STYLEGAN_RAY_NOTIFY", value)
    with pytest.raises(ConfigError, match=r"\$STYLEGAN_RAY_NOTIFY .*https://HOST/PATH") as caught:
        check_trackers(load_config("tiny"))
    assert "SECRET" not in str(caught.value)
    check_trackers(load_config("tiny", {"report.notify": "https://hooks.example.com/x"}))
    for good in ("https://hooks.example.com/SECRET", ""):
        monkeypatch.setenv("STYLEGAN_RAY_NOTIFY", good)
        check_trackers(load_config("tiny"))


def test_a_text_without_a_scheme_has_no_host():
    assert host_of("hooks.example.com/SECRET") == host_of("SECRET") == host_of("://SECRET") == ""
    assert host_of("https://user:SECRET@h:1/SECRET") == "https://h:1"
    assert without_hooks(["--report.notify", "h/SECRET", "--report.notify=null"]) == [
        "--report.notify", "null", "--report.notify=null",
    ]  # fmt: skip


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_receiver_that_refuses_costs_one_warning_with_its_host_only(tmp_path, status):
    with receiver(status) as (address, got):
        run = GrowingRun(tmp_path, **{"report.notify": f"{address}/SECRETPATH?token=SECRETTOKEN"})
        run.add_ticks(1)
        (warning,) = deliver(run)
    assert address in warning and str(status) in warning and len(got) == 1
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"SECRET" not in stored and "SECRET" not in warning


def test_only_the_host_is_stored():
    cfg = load_config("tiny", {"report.notify": "https://hooks.example.com/services/SECRET"})
    assert cfg.report.notify.endswith("SECRET")
    assert (
        "SECRET" not in cfg.to_yaml() + json.dumps(cfg.flat())
        and cfg.flat()["report.notify"] == "https://hooks.example.com"
    )
    words = ["train.py", "--report.notify", "https://h.example.com/SECRET", "--report.notify=http://h:1/SECRET", "--x"]
    words += ["--Report.Notify", "https://h.example.com/SECRET", "--REPORT.notify=https://h.example.com/SECRET"]
    assert without_hooks(words) == [
        "train.py", "--report.notify", "https://h.example.com", "--report.notify=http://h:1", "--x",
        "--Report.Notify", "https://h.example.com", "--REPORT.notify=https://h.example.com",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["hooks.example.com", "https://user:word@hooks.example.com/x", "file:///etc/passwd"])
def test_other_addresses_are_refused(value):
    with pytest.raises(ConfigError, match=r"report\.notify="):
        load_config("tiny", {"report.notify": value})
