"""Requests to an ASGI application in this process, without a server."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """Why a request was refused."""
        found = self.json()["detail"]
        assert isinstance(found, str) and found.endswith("."), found
        return found


def ask(app: Any, path: str, query: Any = None, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """The answer to a GET, or to a POST of JSON (bytes are sent as they are)."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"host": "127.0.0.1:8000", "content-type": "application/json", **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
        "method": "GET" if body is None else "POST", "path": path, "raw_path": path.encode(),
        "query_string": (query if isinstance(query, str) else urlencode(query or {})).encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"" if body is None else content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(app(scope, receive, send))
    found = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return Answer(messages[0]["status"], found, b"".join(message.get("body", b"") for message in messages[1:]))
