"""Pushing a folder to the Hub, with a server on loopback in its place."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stylegan_ray.config import ConfigError
from stylegan_ray.interop import hub

pytest.importorskip("huggingface_hub")
NAME, TOKEN = "someone/cats", "hf_of_a_test"


class Hub(BaseHTTPRequestHandler):
    """What the Hub answers to the creation of a repository and to a commit of small files."""

    def do_POST(self):
        content = self.rfile.read(int(self.headers["content-length"]))
        found, address = self.server.found, f"http://127.0.0.1:{self.server.server_port}"
        if self.headers["authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            found["repository"] = json.loads(content)
            return self.answer(200, {"url": f"{address}/{NAME}", "name": NAME})
        if self.path == f"/api/models/{NAME}/preupload/main":
            asked = [file["path"] for file in json.loads(content)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
            return self.answer(200, {"files": files})
        if self.path == f"/api/models/{NAME}/commit/main":
            found["files"] = dict(files_of(content))
            return self.answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": f"{address}/{NAME}/commit/0"})
        found["others"].append(self.path)
        return self.answer(200, {"warnings": [], "errors": []})

    def answer(self, status, body):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass


def files_of(commit):
    """The files of a commit: a line of JSON each."""
    for row in map(json.loads, commit.splitlines()):
        if row["key"] == "file":
            assert row["value"]["encoding"] == "base64"
            yield row["value"]["path"], base64.b64decode(row["value"]["content"])


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.found = {"others": []}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path):
    """The four files of a folder, and one that is not part of it."""
    for name in (*hub.FILES, "notes.txt"):
        (tmp_path / name).write_bytes(b"# cats\n" + name.encode())
    return tmp_path


def test_a_push_makes_a_private_repository_of_the_four_files(server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    assert hub.push(str(folder), NAME, endpoint) == f"{endpoint}/{NAME}"
    made = server.found["repository"]
    assert (made["organization"], made["name"]) == ("someone", "cats")
    assert made.get("private") is True or made.get("visibility") == "private"
    assert server.found["files"] == {name: (folder / name).read_bytes() for name in hub.FILES}


def test_a_push_with_a_wrong_token_says_what_to_do(server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(ConfigError, match=r"--push someone/cats: .*401.* log in with `hf auth login`") as raised:
        hub.push(str(folder), NAME, f"http://127.0.0.1:{server.server_port}")
    assert "hf_another" not in str(raised.value) and "files" not in server.found
