"""Who may send requests: those with the token, or where there is none, pages of this machine alone."""

from __future__ import annotations

import ipaddress
import secrets
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

MOST_BODY_BYTES = 1 << 16
WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
COOKIE = "stylegan_ray_token"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def chosen_token(host: str, token: str | None) -> str | None:
    """The token that requests must carry: the given one, else a random one where other machines reach the address."""
    return token or (None if is_loopback(host) else secrets.token_urlsafe(24))


class Access:
    """ASGI middleware that answers 401 without the token, or without one 403 to a foreign host name.

    The token comes as `Authorization: Bearer TOKEN`, as `?token=TOKEN`, or in the cookie that a visit of `/?token=`
    sets; that visit is redirected, so that links to the page do not hold the token. Without a token the host name is
    checked, since the page of another site may give its own name the address 127.0.0.1.
    """

    def __init__(self, app: Any, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope.get("query_string", b"").decode("latin-1")
        if self.token is None:
            if is_local_name(headers.get("host", "")):
                return await self._answer(scope, receive, send)
            return await refuse(send, 403, "This server answers to names of this machine only, such as 127.0.0.1.")
        if not any(secrets.compare_digest(sent.encode(), self.token.encode()) for sent in tokens(headers, query)):
            return await refuse(send, 401, "This server needs its token: open the address that it has printed.")
        if scope["path"] == "/" and "token" in parse_qs(query):
            return await move_to_cookie(send, query, self.token)
        await self._answer({**scope, "query_string": without_token(query).encode("latin-1")}, receive, send)

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes a request on with its whole body, which may be of MOST_BODY_BYTES: each value of it takes time."""
        body, messages = 0, []
        while scope["method"] not in WITHOUT_BODY and (not messages or messages[-1].get("more_body")):
            messages.append(await receive())
            body += len(messages[-1].get("body", b""))
            if body > MOST_BODY_BYTES:
                return await refuse(send, 413, f"The body is larger than {MOST_BODY_BYTES} bytes.")
        waiting = iter(messages)

        async def replay() -> Any:
            return next(waiting, None) or await receive()

        await self.app(scope, replay, send)


def is_local_name(host: str) -> bool:
    """Whether a Host header names this machine: localhost, or an address of its loopback interface."""
    name, _, port = host.rpartition(":")
    return is_loopback(name if name and port.isdigit() else host)


def tokens(headers: dict[str, str], query: str) -> list[str]:
    """All tokens that a request carries."""
    kind, _, bearer = headers.get("authorization", "").partition(" ")
    found = [bearer] if kind.lower() == "bearer" else []
    # The parser of the standard library stops at the first cookie of another program that it does not understand.
    cookies = [cookie.strip().partition("=") for cookie in headers.get("cookie", "").split(";")]
    return found + [value for name, _, value in cookies if name == COOKIE] + parse_qs(query).get("token", [])


def without_token(query: str) -> str:
    """A query without its token; others stay as they are."""
    if "token" not in parse_qs(query, keep_blank_values=True):
        return query
    return urlencode([(key, value) for key, value in parse_qsl(query, keep_blank_values=True) if key != "token"])


async def refuse(send: Any, status: int, sentence: str) -> None:
    """Answers with a sentence."""
    headers = [(b"content-type", b"application/json")]
    await respond(send, status, headers, f'{{"detail": "{sentence}"}}'.encode())


async def move_to_cookie(send: Any, query: str, token: str) -> None:
    """Sets the cookie and sends the browser to the page without the token."""
    rest = without_token(query)
    cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
    headers = [(b"location", f"/?{rest}".rstrip("?").encode("latin-1")), (b"set-cookie", cookie.encode("latin-1"))]
    await respond(send, 303, headers, b"")


async def respond(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Sends a whole answer that no cache keeps."""
    headers = [*headers, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
