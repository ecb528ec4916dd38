"""Headless Chromium through its driver, by the WebDriver protocol."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

OPTIONS = {
    "goog:chromeOptions": {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1240,1080"]},
    "goog:loggingPrefs": {"browser": "ALL"},
}


def is_installed() -> bool:
    return all(map(shutil.which, ("chromium", "chromedriver")))


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


class Browser:
    """One window."""

    def __init__(self, driver: str) -> None:
        self.base = driver
        found = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"browserName": "chrome", **OPTIONS}}})
        self.base = f"{driver}/session/{found['sessionId']}"

    def open(self, address: str) -> None:
        self._ask("POST", "/url", {"url": address})

    def run(self, script: str, *values: Any) -> Any:
        """The result of a function body of JavaScript."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(values)})

    def wait_for(self, script: str, seconds: float = 30) -> Any:
        """The first result of an expression that is true."""
        deadline = time.monotonic() + seconds
        while not (found := self.run(f"return {script}")):
            assert time.monotonic() < deadline, f"{script} is not true after {seconds} s: {self.messages()}"
            time.sleep(0.05)
        return found

    def click(self, selector: str) -> None:
        """Clicks as a mouse does: what covers the element is an error."""
        (element,) = self._ask("POST", "/element", {"using": "css selector", "value": selector}).values()
        self._ask("POST", f"/element/{element}/click", {})

    def press(self, selector: str, keys: str) -> None:
        """Types into an element."""
        (element,) = self._ask("POST", "/element", {"using": "css selector", "value": selector}).values()
        self._ask("POST", f"/element/{element}/value", {"text": keys})

    def names(self, selector: str) -> list[str]:
        """What a screen reader calls the elements that are shown."""
        found = self._ask("POST", "/elements", {"using": "css selector", "value": selector})
        keys = [key for element in found for key in element.values()]
        shown = [key for key in keys if self._ask("GET", f"/element/{key}/displayed")]
        return [self._ask("GET", f"/element/{key}/computedlabel") for key in shown]

    def resize(self, width: int, height: int) -> None:
        """The size of the page, which may be smaller than windows can be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics})

    def messages(self) -> list[str]:
        """What the console has said since the last call."""
        return [row["message"] for row in self._ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        self._ask("DELETE", "")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.base}{path}", content, {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]


@contextmanager
def browser() -> Iterator[Browser]:
    """A window, closed at the end with its driver."""
    port = free_port()
    command = ["chromedriver", f"--port={port}", "--silent"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < deadline, "chromedriver does not answer"
            time.sleep(0.1)
        window = Browser(f"http://127.0.0.1:{port}")
        try:
            yield window
        finally:
            window.close()
    finally:
        process.terminate()
        process.wait()
